"""Work on several items at once, hand the results back in order, hold few of them in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Iterator[R]:
    """`work` of each item, in the items' order, computed by threads.

    Items are read as results are taken, never more than three times `workers` ahead, so that the
    items may be endless and the results large. What `work` raises is raised here, in order.

    Args:
        workers: threads; the number of cores when None.
    """
    workers = workers or os.cpu_count() or 1
    if workers == 1:  # no thread to wait for
        yield from map(work, items)
        return
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="qinsight") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= 3 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
