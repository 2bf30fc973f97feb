"""`qinsight batch --engine ray`: the parts of a run as tasks of a Ray cluster.

Ray Data hands part numbers to actors; an actor scores its part's pictures and writes its file, so
what Ray does twice, after a node was lost, is still there once. Nothing but numbers and tallies
travels through Ray's object store.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from qinsight_plugin.batch import Job, Tally, Worker
from qinsight_plugin.errors import MissingExtraError, ScorerError

__all__ = ["run"]


class Actor:
    """One worker, on one core, for as many parts as Ray sends."""

    def __init__(self, out: str, timeout: float | None) -> None:
        self._job = Job(out)
        self._worker = Worker(self._job.settings, timeout=timeout, threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return dataclasses.asdict(self._job.do(int(row["item"]), self._worker))


def run(job: Job, *, workers: int | None = None, timeout: float | None = None) -> Iterator[Tally]:
    """Do what is missing of a job on the cluster that `RAY_ADDRESS` names, or on this machine.

    Every node must have this package, and reach the job's output and its pictures under the same
    names: a shared file system, or URLs.

    Args:
        workers: actors, at most; None: as many as the cluster has cores.
        timeout: seconds a picture; see `Worker`.

    Raises:
        MissingExtraError: Ray is not installed.
        ScorerError: a part failed, and why; the parts that are done stay.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports home otherwise
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", "ray", "--engine ray") from error
    missing = job.missing()
    if not missing:
        return
    begun_here = not ray.is_initialized()
    if begun_here:
        try:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises all kinds here
            raise ScorerError(f"Ray did not start: {_told_by(error)}") from error
    try:
        yield from _tallies(job.out, missing, workers, timeout)
    except ray.exceptions.RayError as error:
        raise ScorerError(f"Ray gave up: {_told_by(error)}") from error
    finally:
        if begun_here:
            ray.shutdown()


def _told_by(error: object) -> str:
    """Of a remote traceback, with Ray's advice after it: our own error in it, or else its end."""
    text = str(error).strip()
    if ours := re.findall(r"^qinsight_plugin\.errors\.\w+: (.+)$", text, re.MULTILINE):
        return str(ours[-1])
    return (text.splitlines() or [type(error).__name__])[-1]


def _tallies(
    out: str, missing: list[int], workers: int | None, timeout: float | None
) -> Iterator[Tally]:
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    cores = int(ray.cluster_resources()["CPU"])
    most = min(workers or cores, cores, len(missing))
    # A block a part: Ray would make one block of them all, and give it to one actor.
    parts = ray.data.from_items(missing, override_num_blocks=len(missing))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most)
    for row in parts.map(
        Actor, fn_constructor_args=(out, timeout), num_cpus=1, compute=pool
    ).iter_rows():
        yield Tally(**row)
