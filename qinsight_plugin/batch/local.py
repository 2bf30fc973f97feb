"""The local engine: as many processes as wanted, a part each at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

from qinsight_plugin.batch.job import Job, Tally
from qinsight_plugin.batch.worker import Worker


def run(job: Job, *, workers: int | None = None, timeout: float | None = None) -> Iterator[Tally]:
    """Do what is missing of a job; yields what came of each part, as they are done.

    Args:
        workers: processes; None: as many as there are cores, which they share.
        timeout: see `Worker`.

    Raises:
        QInsightError: see `Job.do`; the parts that are done stay.
    """
    missing = job.missing()
    count = min(workers or os.cpu_count() or 1, max(1, len(missing)))
    threads = max(1, (os.cpu_count() or 1) // count)
    started: list[Worker] = []
    mine = threading.local()

    def start() -> None:
        mine.worker = Worker(job.settings, timeout=timeout, threads=threads)
        started.append(mine.worker)

    def do(part: int) -> Tally:
        if not hasattr(mine, "worker"):
            start()
        return job.do(part, mine.worker)

    pool = ThreadPoolExecutor(count, thread_name_prefix="qinsight-batch")
    try:
        for done in as_completed([pool.submit(do, part) for part in missing]):
            yield done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in started:  # those that are at work too, where something went wrong
            worker.kill()
        pool.shutdown()
        for worker in started:
            worker.close()
