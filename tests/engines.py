"""What a picture costs, bare and by each engine of `qinsight batch`, and what a hundred million of
them on a hundred machines would: `python -m tests.engines FOLDER [ROUNDS]`.

The engines take turns over the pictures of the folder, so that a busy machine is busy for all.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
from qinsight_plugin.integrations.ray import run as run_on_ray

import qinsight_plugin as qi
from qinsight_plugin.batch import Settings, Worker, open_job
from qinsight_plugin.batch.job import write_list
from qinsight_plugin.batch.local import run
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.plugins import PluginHost
from qinsight_plugin.scorers.student import THREADS_VARIABLE

LIBRARY, NODES, CORES, ROWS = 100_000_000, 100, 16, 10_000


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(folder: Path, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Pictures a second of each round, and bytes of a row."""
    files = sorted(str(path) for path in folder.iterdir())
    with Worker(Settings()) as worker:
        version = worker.scorer_version
    taken: dict[str, list[float]] = {"bare": [], "local": [], "ray": []}
    row_bytes = 0.0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            jobs = [
                open_job(str(folder), f"{name}/{engine}.parquet", Settings(), version)
                for engine in ("local", "ray")
            ]
            taken["bare"].append(seconds(lambda: list(qi.score_many(files, workers=2))))
            taken["local"].append(seconds(lambda job=jobs[0]: list(run(job, workers=2))))  # type: ignore[misc]
            taken["ray"].append(seconds(lambda job=jobs[1]: list(run_on_ray(job, workers=2))))  # type: ignore[misc]
            row_bytes = in_one_part(Path(name, "local.parquet")) / len(files)
    rates = {name: [len(files) / s for s in values] for name, values in taken.items()}
    return rates, row_bytes


def in_one_part(run_folder: Path) -> int:
    """Bytes of a run's rows in one file: small parts are mostly their own footers."""
    buffer = io.BytesIO()
    rows = pyarrow.dataset.dataset(run_folder, format="parquet").to_table()
    pyarrow.parquet.write_table(rows, buffer, compression="zstd")
    return len(buffer.getvalue())


def one_core(folder: Path, count: int = 200) -> float:
    """Median CPU seconds of one picture, computed on one thread."""
    os.environ[THREADS_VARIABLE] = "1"
    pipeline, taken = Pipeline("student", PluginHost()), []
    for path in sorted(folder.iterdir())[:count]:
        begin = time.process_time()
        pipeline.report_or_error(str(path))
        taken.append(time.process_time() - begin)
    return float(np.median(taken))


def list_costs(names: int = 1_000_000) -> tuple[float, float]:
    """Bytes a name of a list, and seconds to read one part's names of as many parts as there would
    be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "list.parquet")
        every = (f"s3://library/photos/{n % 997:03}/{n:09}.jpg" for n in range(names))
        write_list(every, path, names * ROWS // LIBRARY)
        taken = seconds(lambda: pyarrow.parquet.ParquetFile(path).read_row_group(7))
        return path.stat().st_size / names, taken


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    rates, row_bytes = measure(folder, rounds)
    for name, values in rates.items():
        ratio = np.array(values) / np.array(rates["bare"])
        print(
            f"{name}: {np.median(values):.1f} pictures/s [{min(values):.1f}, {max(values):.1f}], "
            f"{np.median(ratio):.0%} of bare; start included"
        )
    core, (name_bytes, reading) = one_core(folder), list_costs()
    file_bytes = float(np.mean([path.stat().st_size for path in folder.iterdir()]))
    hours = LIBRARY * core / (NODES * CORES) / 3600
    network = file_bytes * LIBRARY / (NODES * hours * 3600)
    print(
        f"one core takes {1000 * core:.1f} ms a picture of {file_bytes / 1e3:.0f} kB; "
        f"{LIBRARY:,} on {NODES} nodes of {CORES} cores: {hours:.1f} hours, each reading "
        f"{network / 1e6:.1f} MB/s; {LIBRARY // ROWS:,} parts of {ROWS:,}, "
        f"{ROWS * core / 60:.1f} minutes each; list {LIBRARY * name_bytes / 1e9:.2f} GB, "
        f"{reading:.2f} s to open it; rows {LIBRARY * row_bytes / 1e9:.1f} GB"
    )


if __name__ == "__main__":
    main()
