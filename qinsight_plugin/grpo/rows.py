"""Files of labels -> rows to train on, and all that is wrong with them, in one list.

Nothing is replaced, clipped or left out in silence: a row that cannot be used is a problem.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qinsight_plugin.attempts import Row as Asked
from qinsight_plugin.attempts import Task, Truth
from qinsight_plugin.decode import decode
from qinsight_plugin.errors import ConfigError, ImageError, LabelsError, one_line
from qinsight_plugin.grpo.config import Config, DataSet
from qinsight_plugin.labels import RATINGS
from qinsight_plugin.pairs import PAIRS
from qinsight_plugin.parallel import in_order
from qinsight_plugin.reasoning.loading import seen_pixels
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
_SIDES = 200
"""Longest side over shortest, beyond which the models take no picture."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True, slots=True)
class Rows:
    """What a training learns from and is measured on.

    Attributes:
        train: the rows of each set, in the order of the sets.
        held: those that are held back.
        problems: in the order of the files; of what has one, nothing is in `train` and `held`.
    """

    train: tuple[tuple[Asked, ...], ...]
    held: tuple[Asked, ...]
    problems: tuple[Problem, ...]


def read_rows(config: Config) -> Rows:
    """Every row of every set, checked but for the pictures themselves.

    Raises:
        ConfigError, LabelsError: a file is no such table, or a folder none.
    """
    problems: list[Problem] = []
    train: list[tuple[Asked, ...]] = []
    held: list[Asked] = []
    homes: dict[object, tuple[str, str]] = {}
    sides: dict[object, bool] = {}
    for number, one in enumerate(config.data):
        read = list(_read(one, problems))
        own_train, own_held = _split(read, config, number, sides)
        for part, rows in (("train", own_train), ("validation", own_held)):
            problems += _in_two_parts(part, rows, homes)
        if not own_train:
            problems.append(
                Problem(one.labels.name, f"no row to train on: the task {one.task} is empty")
            )
        train.append(tuple(own_train))
        held += own_held
    return Rows(tuple(train), tuple(_chosen(held, config)), tuple(problems))


def picture_problems(
    rows: Iterable[Asked], config: Config, workers: int | None = None
) -> Iterator[Problem | None]:
    """Every picture of the rows once, decoded: what is wrong with it, or None."""
    first: dict[Path, str] = {}
    for row in rows:
        for path in row.pictures:
            first.setdefault(path, row.place)

    def look(item: tuple[Path, str]) -> Problem | None:
        path, place = item
        try:
            image = decode(path, max_pixels=seen_pixels(config.train.pixels))
        except ImageError as error:
            return Problem(place, one_line(error))
        if max(image.width, image.height) > _SIDES * min(image.width, image.height):
            size = f"{image.width}x{image.height}"
            return Problem(place, f"{path}: {size} is too narrow: one side may be {_SIDES} others")
        return None

    yield from in_order(look, first.items(), workers)


def refuse(problems: Sequence[Problem]) -> None:
    """Raise if there are any.

    Raises:
        LabelsError: with the first and the count; `qinsight train check` lists them all.
    """
    if problems:
        more = f", and {len(problems) - 1} more problems" if len(problems) > 1 else ""
        raise LabelsError(f"{problems[0]}{more}: see qinsight train check")


@dataclass(frozen=True, slots=True)
class _Read:
    asked: Asked
    split: str
    cluster: str


def _read(one: DataSet, problems: list[Problem]) -> Iterator[_Read]:
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
        yield _Read(asked, split, row.cells.get("cluster", ""))


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


def _split(
    read: Sequence[_Read], config: Config, number: int, sides: dict[object, bool]
) -> tuple[list[Asked], list[Asked]]:
    """Rows to train on, and rows held back; as the labels say, else drawn by clusters.

    `sides` remembers which clusters are held back: a picture of two sets is on one side.
    """
    if any(one.split for one in read):
        held = [one.asked for one in read if one.split in ("val", "test")]
        return [one.asked for one in read if one.split not in ("val", "test")], held
    clusters: dict[object, list[Asked]] = {}
    for one in read:
        clusters.setdefault(_cluster(one), []).append(one.asked)
    keys = list(clusters)
    random.Random(f"{config.train.seed} {number}").shuffle(keys)
    wanted, count = config.validation.share * len(read), 0
    for key in keys:
        if sides.setdefault(key, count + len(clusters[key]) / 2 <= wanted):
            count += len(clusters[key])
    held = [one.asked for one in read if sides[_cluster(one)]]
    return [one.asked for one in read if not sides[_cluster(one)]], held


def _cluster(one: _Read) -> object:
    """Near-duplicates, and pairs made from one original, share theirs."""
    if one.cluster:
        return one.cluster
    pictures = one.asked.pictures
    if len(pictures) == 2:
        return frozenset(path.resolve() for path in pictures)
    return pictures[-1].resolve()


def _in_two_parts(
    part: str, rows: Sequence[Asked], homes: dict[object, tuple[str, str]]
) -> Iterator[Problem]:
    """What is trained on and measured on too, for what is learnt by heart is no skill."""
    for row in rows:
        key = (row.task, frozenset(path.resolve() for path in row.pictures[:2]))
        home, place = homes.setdefault(key, (part, row.place))
        if home != part:
            yield Problem(row.place, f"it is in {part}, and by {place} in {home} too")


def _chosen(held: Sequence[Asked], config: Config) -> list[Asked]:
    """At most so many of each task, drawn at random but always the same."""
    chosen: list[Asked] = []
    for task in dict.fromkeys(row.task for row in held):
        own = [row for row in held if row.task == task]
        if len(own) > config.validation.rows:
            own = random.Random(config.train.seed).sample(own, config.validation.rows)
        chosen += own
    return chosen


def check_enough(rows: Rows, config: Config) -> None:
    """Check that a step can be made, and that what is held back can be measured on.

    Raises:
        ConfigError: the metric needs rows that are not held back.
    """
    if not rows.held:
        return
    tasks = [row.task for row in rows.held]
    if config.validation.metric == "accuracy":
        if set(tasks) == {"score"}:
            raise ConfigError('[validation] metric: scores have no accuracy: take "srcc" or "plcc"')
        return
    ratings = {row.truth for row in rows.held if row.task == "score"}
    if not ratings:
        raise ConfigError(
            f"[validation] metric: no scores are held back to measure {config.validation.metric} "
            'on: take "accuracy", or add scores'
        )
    if tasks.count("score") < 3 or len(ratings) < 2:
        raise ConfigError(
            f"[validation]: {tasks.count('score')} scores of {len(ratings)} different values are "
            "held back, too few to correlate: raise share, or set it to 0 to measure nothing"
        )
