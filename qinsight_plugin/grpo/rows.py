"""All files of labels -> rows to train on and rows held back, and one list of what is wrong."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qinsight_plugin.attempts import Row as Asked
from qinsight_plugin.decode import decode
from qinsight_plugin.errors import ConfigError, ImageError, LabelsError, one_line
from qinsight_plugin.grpo.config import Config
from qinsight_plugin.grpo.reading import Problem, Read, read_set
from qinsight_plugin.labels import draw_apart
from qinsight_plugin.parallel import in_order
from qinsight_plugin.reasoning.loading import seen_pixels

_SIDES = 200
"""Longest side over shortest, beyond which the models take no picture."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a training learns from and is measured on.

    Attributes:
        train: the rows of each set, in the order of the sets.
        held: those that are held back.
        problems: in the order of the files; of what has one, nothing is in `train` and `held`.
        left_out: how many are in neither: near-duplicates or pictures of theirs are trained on.
    """

    train: tuple[tuple[Asked, ...], ...]
    held: tuple[Asked, ...]
    problems: tuple[Problem, ...]
    left_out: int


def read_rows(config: Config) -> Rows:
    """Every row of every set, checked but for the pictures themselves.

    Raises:
        ConfigError, LabelsError: a file is no such table, or a folder none.
    """
    problems: list[Problem] = []
    train: list[list[Read]] = []
    apart: list[Read] = []
    count = 0
    homes: dict[object, tuple[str, str]] = {}
    sides: dict[object, bool] = {}
    for number, one in enumerate(config.data):
        read = list(read_set(one, problems))
        own_train, own_held = _split(read, config, number, sides)
        for part, rows in (("train", own_train), ("validation", own_held)):
            problems += _in_two_parts(part, rows, homes)
        if not own_train:
            problems.append(
                Problem(one.labels.name, f"no row to train on: the task {one.task} is empty")
            )
        count += len(read)
        train.append(own_train)
        apart += own_held
    learnt = {one.cluster for own in train for one in own} - {""}
    held = [one.asked for one in apart if one.cluster not in learnt]
    return Rows(
        tuple(tuple(one.asked for one in own) for own in train),
        tuple(_chosen(held, config)),
        tuple(problems),
        count - sum(map(len, train)) - len(held),
    )


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


def _split(
    read: Sequence[Read], config: Config, number: int, sides: dict[object, bool]
) -> tuple[list[Read], list[Read]]:
    """Rows to train on, and rows held back; as the labels say, else drawn.

    What is drawn is pictures: a pair of one that is held back and one that is not is in neither
    part. `sides` remembers which are held back: a picture of two sets is on one side.
    """
    if any(one.split for one in read):
        held = [one for one in read if one.split in ("val", "test")]
        return [one for one in read if one.split not in ("val", "test")], held
    clusters = [_clusters(one) for one in read]
    seed = f"{config.train.seed} {number}"
    draw_apart(clusters, config.validation.share, seed, sides)
    parts = [{sides[key] for key in own} for own in clusters]
    train = [one for one, part in zip(read, parts, strict=True) if part == {False}]
    return train, [one for one, part in zip(read, parts, strict=True) if part == {True}]


def _clusters(one: Read) -> frozenset[object]:
    """Near-duplicates, and pairs made from one original, share theirs; else each picture has its
    own."""
    if one.cluster:
        return frozenset([one.cluster])
    return frozenset(path.resolve() for path in one.asked.pictures[:2])


def _in_two_parts(
    part: str, rows: Sequence[Read], homes: dict[object, tuple[str, str]]
) -> Iterator[Problem]:
    """What is trained on and measured on too, for what is learnt by heart is no skill."""
    for row in (one.asked for one in rows):
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
        ConfigError: the metric needs rows that are not held back, or all were left out.
    """
    left = ""
    if rows.left_out:
        left = (
            f"; {rows.left_out} are left out, for near-duplicates (dup_group) or pictures of "
            "theirs are trained on"
        )
    if not rows.held:
        if left:
            raise ConfigError(f"[validation]: no rows are held back to measure on{left}")
        return
    tasks = [row.task for row in rows.held]
    if config.validation.metric == "accuracy":
        if set(tasks) == {"score"}:
            raise ConfigError(
                "[validation] metric: nothing but scores is held back, and scores have no "
                f'accuracy: take "srcc" or "plcc"{left}'
            )
        return
    ratings = {row.truth for row in rows.held if row.task == "score"}
    if not ratings:
        raise ConfigError(
            f"[validation] metric: no scores are held back to measure {config.validation.metric} "
            f'on: take "accuracy", or add scores{left}'
        )
    if tasks.count("score") < 3 or len(ratings) < 2:
        raise ConfigError(
            f"[validation]: {tasks.count('score')} scores of {len(ratings)} different values are "
            "held back, too few to correlate: raise share (or, of labels with a split, put more in "
            f"val), or hold back none to measure nothing{left}"
        )
