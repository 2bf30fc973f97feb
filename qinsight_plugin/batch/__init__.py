"""Scoring a library of any size: listed once, worked through in parts, each written whole.

    SOURCE -> list -> parts -> a Worker's rows -> OUT.parquet

A part is a slice of the list. Its file appears in OUT.parquet as a whole or not at all, under a
name that follows from the list, so the files that are there are the journal: whatever is missing is
done again, and a picture has one row however often a run was killed. An engine is anything that
calls `Job.do` for every part of `Job.missing()`: threads on this machine, or tasks on a cluster.
"""

from __future__ import annotations

from qinsight_plugin.batch.job import Job, Tally, open_job
from qinsight_plugin.batch.settings import Settings
from qinsight_plugin.batch.worker import Worker

__all__ = ["Job", "Settings", "Tally", "Worker", "open_job"]
