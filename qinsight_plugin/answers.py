"""What a teacher said of pictures, and the folder of Parquet files in which it is kept."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, LabelsError, one_line
from qinsight_plugin.records import ACR_LEVELS, DISTORTIONS

BATCH_PICTURES = 64
BATCH_SECONDS = 30.0
"""Whichever comes first, a part file is written: what a killed run may lose."""

_LEFTOVER_SECONDS = 3600.0  # no living run takes so long to write a part


class Finding(NamedTuple):
    """What the replies say of one distortion class.

    Attributes:
        severity: mean over the replies, 0 (not named) or 1 (slight) to 5 (catastrophic).
        share: of the replies, how many name it, 0 to 1.
    """

    severity: float
    share: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A teacher's replies about one picture, summed up. All scores are on 1 (bad) to 5 (excellent).

    What no readable reply states is None.

    Attributes:
        path: the picture.
        digest: SHA-256 of the file's bytes in hex; "" where it could not be read.
        samples: how many replies were wanted.
        readable: how many could be read as an answer.
        mean: of the readable replies.
        spread: their sample standard deviation (ddof 1); 0.0 for one reply.
        distortions: a finding for each of `DISTORTIONS`, over the replies that judge distortions.
        uncertainty: mean of the uncertainties that the teacher itself states.
        levels: mean of its probabilities of `ACR_LEVELS`.
        error: one line saying why the picture could not be shown to the teacher, else None.
    """

    path: Path
    digest: str
    samples: int
    readable: int = 0
    mean: float | None = None
    spread: float | None = None
    distortions: Mapping[str, Finding] | None = None
    uncertainty: float | None = None
    levels: tuple[float, ...] | None = None
    error: str | None = None

    @property
    def unreadable_rate(self) -> float:
        """Share of the replies that could not be read; 0.0 where nothing could be asked."""
        return 0.0 if self.error is not None else 1 - self.readable / self.samples


class AnswerCache:
    """The answers to one question: one scorer's, in one version, to so many samples a picture.

    The folder is a dataset that pyarrow, pandas and DuckDB read as one table. A part file is
    written under another name and then renamed, so that a process that is killed damages nothing.
    Several questions, and several runs at once, may share a folder: no two parts have one name.

    Columns: `digest`; `path`, where the picture was found; `scorer`; `scorer_version`, "" where it
    has none, and a changed scorer goes unnoticed; `samples`, `readable`, `mean`, `spread`,
    `uncertainty`; `level_bad` to `level_excellent`; `severity_noise`, `share_noise` and so for each
    of `DISTORTIONS`; `error`. All as in `Answer`, with null for None. Files that could not be read
    have no row.

    Attributes:
        held: what was known at opening, by digest; the paths are where the pictures were found.

    Args:
        folder: NAME.parquet; made where it is missing.
        scorer, version, samples: the question.

    Raises:
        ConfigError: the folder has another ending, or cannot be written to.
        LabelsError: a part file is damaged, or has other columns.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, folder: Path, scorer: str, version: str, samples: int) -> None:
        if folder.suffix != ".parquet":
            raise ConfigError(f"cache {folder}: its name must end in .parquet: it becomes a folder")
        self._parquet = _pyarrow("pyarrow.parquet")
        self._schema = _schema(_pyarrow("pyarrow"))
        self._folder = folder
        self._question = {
            "scorer": _utf8(scorer),
            "scorer_version": _utf8(version),
            "samples": samples,
        }
        with _writing(folder):
            folder.mkdir(exist_ok=True)
            _remove_leftovers(folder)
        if not os.access(folder, os.W_OK):  # better known before the teacher has worked
            raise ConfigError(f"cache {folder}: cannot be written to: check its permissions")
        parts = sorted(folder.glob("*.parquet"))
        self._parts = len(parts)
        self.held = {row["digest"]: _answer(row) for part in parts for row in self._rows(part)}
        self._pending: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def add(self, answer: Answer) -> None:
        """Keep an answer in the next part file, and write that when it is due."""
        self._pending.append(_row(answer) | self._question)
        waited = time.monotonic() - self._flushed
        if len(self._pending) >= BATCH_PICTURES or waited >= BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write a part file of the answers that are in none.

        Raises:
            ConfigError: the folder cannot be written to.
        """
        if self._pending:
            self._write(_pyarrow("pyarrow").Table.from_pylist(self._pending, self._schema))
            self._pending.clear()
        self._flushed = time.monotonic()

    def _write(self, table: Any) -> None:
        self._parts += 1
        name = f"part-{self._parts:06}-{secrets.token_hex(4)}"
        # A leading dot and another ending: no reader of datasets takes it for a part.
        temporary = self._folder / f".{name}.tmp"
        with _writing(self._folder):
            try:
                with temporary.open("wb") as file:
                    self._parquet.write_table(table, file)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self._folder / f"{name}.parquet")
            finally:
                temporary.unlink(missing_ok=True)

    def _rows(self, part: Path) -> list[dict[str, Any]]:
        # A part that cannot be read is not passed over: whoever reads the dataset would fail on it.
        try:
            with part.open("rb") as file:
                table = self._parquet.read_table(file)
        except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of these
            reason = one_line(error)[:120]
            raise LabelsError(
                f"cache {part}: damaged ({reason}): delete this file, and its pictures are asked "
                "about again"
            ) from error
        if not table.schema.equals(self._schema):
            raise LabelsError(
                f"cache {part}: its columns are not those of a teacher's answers: move it away, or "
                "name another cache"
            )
        return [row for row in table.to_pylist() if self._question.items() <= row.items()]


def _pyarrow(module: str) -> ModuleType:
    return require(
        module, package="pyarrow", extra="distill", purpose="keeping a teacher's answers"
    )


def _schema(pyarrow: ModuleType) -> Any:
    text, count, number = pyarrow.string(), pyarrow.int32(), pyarrow.float64()
    kinds = {
        "digest": text,
        "path": text,
        "scorer": text,
        "scorer_version": text,
        "samples": count,
        "readable": count,
        **dict.fromkeys(("mean", "spread", "uncertainty"), number),
        **{f"level_{level}": number for level in ACR_LEVELS},
        **{f"{field}_{name}": number for name in DISTORTIONS for field in Finding._fields},
        "error": text,
    }
    return pyarrow.schema(list(kinds.items()))


def _row(answer: Answer) -> dict[str, Any]:
    levels = answer.levels or (None,) * len(ACR_LEVELS)
    findings = answer.distortions or {}
    return {
        "digest": answer.digest,
        "path": _utf8(os.fspath(answer.path)),
        "readable": answer.readable,
        "mean": answer.mean,
        "spread": answer.spread,
        "uncertainty": answer.uncertainty,
        **{f"level_{level}": p for level, p in zip(ACR_LEVELS, levels, strict=True)},
        **{
            f"{field}_{name}": value
            for name, finding in findings.items()
            for field, value in finding._asdict().items()
        },
        "error": None if answer.error is None else _utf8(answer.error),
    }


def _answer(row: Mapping[str, Any]) -> Answer:
    findings = {n: Finding(row[f"severity_{n}"], row[f"share_{n}"]) for n in DISTORTIONS}
    levels = tuple(row[f"level_{level}"] for level in ACR_LEVELS)
    return Answer(
        path=Path(row["path"]),
        digest=row["digest"],
        samples=row["samples"],
        readable=row["readable"],
        mean=row["mean"],
        spread=row["spread"],
        distortions=None if None in findings[DISTORTIONS[0]] else findings,
        uncertainty=row["uncertainty"],
        levels=None if None in levels else levels,
        error=row["error"],
    )


def _utf8(text: str) -> str:
    """Names of files may hold bytes that no text does."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _remove_leftovers(folder: Path) -> None:
    """Drop what killed runs were writing, and leave what another run is writing now."""
    for temporary in folder.glob(".part-*.tmp"):
        if time.time() - temporary.stat().st_mtime > _LEFTOVER_SECONDS:
            temporary.unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cache {folder}: cannot be written to ({error.strerror or error}): check the path "
            "and the space on the disk"
        ) from error
