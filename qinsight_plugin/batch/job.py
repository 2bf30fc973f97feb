"""A run: its list, its parts, what is missing of them, and what it may not be mixed with."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinsight_plugin import __version__
from qinsight_plugin.batch.listing import names_in
from qinsight_plugin.batch.remote import is_url
from qinsight_plugin.batch.settings import Settings
from qinsight_plugin.batch.store import Store, open_store
from qinsight_plugin.batch.worker import Worker
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.report.columns import pyarrow, to_table

RUN = "_run.json"
LIST = "_list.parquet"
# Readers of datasets pass over names that begin with an underscore.
_PART = re.compile(r"part-(\d{7})\.parquet")
_FORMAT = 1
_MOST_ROWS, _LEAST_ROWS, _PARTS = 1000, 16, 64


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of some pictures.

    Attributes:
        rows: pictures, of which `errors` could not be scored.
        rejected: by the gate, those that it could not judge included; 0 without a gate.
        seconds: of work.
    """

    rows: int = 0
    errors: int = 0
    rejected: int = 0
    seconds: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.rows + other.rows,
            self.errors + other.errors,
            self.rejected + other.rejected,
            self.seconds + other.seconds,
        )


class Job:
    """A run that has been begun. Any number of processes and machines may work on one at a time.

    Args:
        out: its folder or URL, where `open_job` began it.

    Attributes:
        out: as given.
        settings: how its pictures are scored.
        scorer_version: who scores them; a worker that has another one is refused.
        pictures: how many.
        parts: into how many slices the list of them is cut.

    Raises:
        ConfigError: there is no run, or it cannot be read.
    """

    def __init__(self, out: str) -> None:
        self._store = open_store(out)
        told = read_run(self._store)
        if told is None:
            raise ConfigError(f"there is no run in {out}; begin one with open_job")
        self.out = out
        self.settings = Settings.from_dict(told)
        self.scorer_version: str = told["scorer_version"]
        self.pictures: int = told["pictures"]
        self.parts = -(-self.pictures // told["rows_per_part"])

    def missing(self) -> list[int]:
        """The parts whose file is not there."""
        there = parts_among(self._store.names())
        return [part for part in range(self.parts) if part not in there]

    def names(self, part: int) -> list[str]:
        """The pictures of a part, in order."""
        parquet = pyarrow("pyarrow.parquet")
        with self._store.open(LIST) as file:
            try:
                group = parquet.ParquetFile(file).read_row_group(part)
            except (OSError, ValueError) as error:  # pyarrow's own errors are both
                raise ConfigError(
                    f"{self.out}/{LIST} is damaged ({error}): say --anew to drop the run and "
                    "begin again"
                ) from error
        return [os.fsdecode(name) for name in group.column("name").to_pylist()]

    def do(self, part: int, worker: Worker) -> Tally:
        """Score a part's pictures and write its file. Done twice, it is still there once.

        Raises:
            ConfigError: the worker's scorer is of another version; or the file cannot be written.
            ScorerError: the worker could not work at all.
        """
        begin = time.monotonic()
        if worker.scorer_version != self.scorer_version:
            raise ConfigError(
                f"the run in {self.out} is scored by {self.settings.scorer} "
                f"{shown(self.scorer_version)}, and here it is {shown(worker.scorer_version)}: "
                "install the same everywhere"
            )
        rows = list(worker.rows(self.names(part)))
        data = io.BytesIO()
        pyarrow("pyarrow.parquet").write_table(to_table(rows), data, compression="zstd")
        self._store.write(f"part-{part:07}.parquet", data.getvalue())
        return Tally(
            len(rows),
            sum(row["error"] is not None for row in rows),
            sum(row.get("accepted") is False for row in rows),
            time.monotonic() - begin,
        )


def open_job(
    source: str,
    out: str,
    settings: Settings,
    scorer_version: str,
    *,
    anew: bool = False,
    rows_per_part: int | None = None,
) -> Job:
    """Begin a run, or go on with the one that is there.

    The source is listed once, as a whole, when the run begins; a run that goes on does not look
    for pictures again.

    Args:
        source: see `names_in`.
        out: a folder whose name ends in .parquet, or the URL of one.
        settings: how pictures are scored.
        scorer_version: see `Worker.scorer_version`.
        anew: drop what is there and begin again.
        rows_per_part: pictures of a part; None: a 64th of all, between 16 and 1,000.

    Raises:
        ConfigError: there is a run of another source, scorer, version or gate, or something that
            is no run; or the source cannot be listed, or `out` not written.
    """
    if not out.rstrip("/").endswith(".parquet"):
        raise ConfigError(f"{out}: its name must end in .parquet: it becomes a folder")
    store = open_store(out)
    wanted = {"source": absolute(source), **settings.to_dict(), "scorer_version": scorer_version}
    if rows_per_part is not None:
        wanted["rows_per_part"] = rows_per_part
    told = read_run(store)
    # A kill may have left the list, and what it was writing under a hidden name.
    others = {name for name in store.names() if not name.startswith(".")} - {LIST}
    if told is None and others:
        raise ConfigError(f"{out} holds something that is no run of qinsight: name another folder")
    if told is not None and not anew:
        require_same(out, told, wanted, len(parts_among(store.names())))
        return Job(out)
    if told is not None:
        drop(store)
    with tempfile.TemporaryDirectory(prefix="qinsight-") as folder:
        # Hidden until it bears its name: what a kill leaves must not look like somebody else's.
        listed = Path(folder, f".{LIST}")
        pictures, rows = write_list(names_in(wanted["source"]), listed, rows_per_part)
        store.put(listed, LIST)
    run = wanted | {"rows_per_part": rows, "pictures": pictures}
    run |= {"format": _FORMAT, "version": __version__}
    store.write(RUN, json.dumps(run, indent=1).encode())  # last: with it the run has begun
    return Job(out)


def absolute(source: str) -> str:
    # Path.resolve would follow links, which may lead elsewhere tomorrow.
    return source if is_url(source) else os.path.abspath(source)  # noqa: PTH100


def read_run(store: Store) -> dict[str, Any] | None:
    if RUN not in store.names():
        return None
    with store.open(RUN) as file:
        try:
            told: dict[str, Any] = json.loads(file.read())
            if told["format"] != _FORMAT:
                raise ValueError(f"format {told['format']}")
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{store.location}/{RUN} is not a run that this version reads ({error}): name "
                "another folder"
            ) from error
    return told


def require_same(out: str, told: dict[str, Any], wanted: dict[str, Any], done: int) -> None:
    for key, value in wanted.items():
        if told[key] != value:
            raise ConfigError(
                f"the run in {out} has {key} {shown(told[key])}, not {shown(value)}, and one table "
                f"must not hold both: name another folder, or say --anew to drop its {done} parts"
            )


def shown(value: object) -> str:
    return "unknown" if value in ("", None) else str(value)


def drop(store: Store) -> None:
    """Remove a run and nothing else; its record last, so that a kill leaves something to drop."""
    for part in parts_among(store.names()):
        store.remove(f"part-{part:07}.parquet")
    store.remove(RUN)


def parts_among(names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := _PART.fullmatch(name))}


def write_list(names: Iterator[str], path: Path, rows: int | None) -> tuple[int, int]:
    """The list as a Parquet file with a row group a part. Returns pictures, and rows a part."""
    head = list(itertools.islice(names, _MOST_ROWS * _PARTS))
    rows = rows or min(_MOST_ROWS, max(_LEAST_ROWS, -(-len(head) // _PARTS)))
    everything = itertools.chain(head, names)
    arrow = pyarrow()
    schema = arrow.schema([("name", arrow.binary())])  # a file's name need not be text
    pictures = 0
    with pyarrow("pyarrow.parquet").ParquetWriter(path, schema, compression="zstd") as writer:
        while group := [os.fsencode(name) for name in itertools.islice(everything, rows)]:
            writer.write_table(arrow.table({"name": group}, schema), row_group_size=rows)
            pictures += len(group)
    return pictures, rows
