"""One file of labels -> its rows, each a question whose answer is known, and all that is wrong.

Nothing is replaced, clipped or left out in silence: a row that cannot be used is a problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qinsight_plugin.attempts import Row as Asked
from qinsight_plugin.attempts import Task, Truth
from qinsight_plugin.grpo.config import DataSet
from qinsight_plugin.labels import RATINGS
from qinsight_plugin.pairs import PAIRS
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Better, Distortion
from qinsight_plugin.scales import as_number, to_mos
from qinsight_plugin.tables import Layout, Row, picture_folder, read_table, shown

CLASS, SEVERITY, REFERENCE = "class", "severity", "reference"

LAYOUTS: dict[Task, Layout] = {
    "score": RATINGS,
    "degradation": Layout(
        names={
            "file": RATINGS.names["file"],
            CLASS: ("distortion_class", "distortion"),
            SEVERITY: ("severity",),
            "split": ("split",),
            "cluster": ("dup_group",),
        },
        needed=("file", CLASS, SEVERITY),
        pictures=("file",),
    ),
    "comparison": Layout(
        names={
            PAIRS.pictures[0]: (*PAIRS.names[PAIRS.pictures[0]], "imagea"),
            PAIRS.pictures[1]: (*PAIRS.names[PAIRS.pictures[1]], "imageb"),
            "answer": ("better", "result"),
            REFERENCE: ("reference", "ref_image"),
            "split": ("split",),
            "cluster": ("dup_group",),
        },
        needed=(*PAIRS.pictures, "answer"),
        pictures=PAIRS.pictures,
    ),
}
"""The columns of each task's labels; those of the published comparison labels are among them."""

_CHOICES: dict[str, Better] = {
    "a": "A",
    "image a": "A",
    "b": "B",
    "image b": "B",
    "similar": "similar",
    "tie": "similar",
}
_NONE = ("", "null", "none")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True, slots=True)
class Read:
    """A row that can be used; `split` and `cluster` are "" where its labels name none."""

    asked: Asked
    split: str
    cluster: str


def read_set(one: DataSet, problems: list[Problem]) -> Iterator[Read]:
    """The rows of a set, but for those with something wrong, which is added to `problems`.

    Raises:
        ConfigError, LabelsError: the file is no such table, or its folder none.
    """
    layout = LAYOUTS[one.task]
    folder = picture_folder(one.labels, one.images)
    table = read_table(one.labels, layout)
    seen: dict[tuple[Path, ...], str] = {}
    for row in table.rows:
        place = f"{one.labels.name} line {row.line}"
        try:
            pictures = _pictures(row, one.task, folder)
            truth = _truth(row, one)
            split = _word(row, "split")
            if split not in ("", "train", "val", "test"):
                raise _WrongError(f"the split {shown(split)!r} is none of train, val and test")
        except _WrongError as error:
            problems.append(Problem(place, str(error)))
            continue
        if pictures in seen:
            same = "the same picture was" if one.task != "comparison" else "the same pair was"
            problems.append(Problem(place, f"{same} named in {seen[pictures]}"))
            continue
        seen[pictures] = place
        asked = Asked(one.task, pictures, truth, place, one.proxy)
        yield Read(asked, split, row.cells.get("cluster", ""))


class _WrongError(Exception):
    """This row cannot be used."""


def _word(row: Row, role: str) -> str:
    return row.cells.get(role, "").lower()


def _pictures(row: Row, task: Task, folder: Path) -> tuple[Path, ...]:
    roles = list(LAYOUTS[task].pictures)
    if task == "comparison" and _word(row, REFERENCE) not in _NONE:
        roles.append(REFERENCE)
    paths = tuple(folder / row.cells[role] for role in roles)
    for role, path in zip(roles, paths, strict=True):
        try:
            found = path.is_file()
        except OSError:  # a name too long for the system, or a folder closed to us
            found = False
        if not found:
            raise _WrongError(f"there is no picture {shown(row.cells[role])} in {folder}")
    if task == "comparison" and paths[0].resolve() == paths[1].resolve():
        raise _WrongError("a picture is compared with itself")
    return paths


def _truth(row: Row, one: DataSet) -> Truth:
    if one.task == "score":
        return _rating(row.cells["rating"], one)
    if one.task == "degradation":
        return _distortion(_word(row, CLASS), _word(row, SEVERITY))
    answer = _word(row, "answer")
    if answer not in _CHOICES:
        raise _WrongError(f"the answer {shown(answer)!r} is none of A, B and similar")
    return _CHOICES[answer]


def _rating(cell: str, one: DataSet) -> float:
    assert one.scale is not None  # `config` has seen to it
    worst, best = one.scale
    rating = as_number(cell)
    if not min(worst, best) <= rating <= max(worst, best):
        raise _WrongError(f"the rating {shown(cell)!r} is no number from {worst:g} to {best:g}")
    return to_mos(rating, one.scale)


def _distortion(name: str, severity: str) -> Distortion | None:
    if name in _NONE and severity in _NONE:
        return None
    if name not in DISTORTIONS:
        raise _WrongError(
            f"the prompt names no distortion {shown(name)!r}: write {', '.join(DISTORTIONS)}, or "
            "null"
        )
    if severity not in SEVERITIES:
        raise _WrongError(
            f"the prompt names no severity {shown(severity)!r}: write {', '.join(SEVERITIES)}, or "
            "null for both"
        )
    return Distortion(name, severity)
