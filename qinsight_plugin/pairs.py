"""People's answers to "which of the two is better?": a CSV file -> `Pairs`.

Pairs need no scale: an answer says which picture is better, not by how much.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from qinsight_plugin.errors import LabelsError
from qinsight_plugin.labels import RATINGS
from qinsight_plugin.tables import (
    Layout,
    Table,
    find_pictures,
    first_few,
    picture_folder,
    read_records,
    read_split,
    read_table,
    short_name,
    shown_header,
)

_A, _B, _ANSWER = "first picture", "second picture", "answer"
PAIRS = Layout(
    names={
        _A: ("a", "path_a", "image_a", "left"),
        _B: ("b", "path_b", "image_b", "right"),
        _ANSWER: ("better",),
        "split": ("split",),
    },
    needed=(_A, _B, _ANSWER),
    pictures=(_A, _B),
)
_PREFERENCES = {"a": 1.0, "similar": 0.5, "tie": 0.5, "b": 0.0}
_MIN_PAIRS = 50
_MIN_PICTURES = 20


@dataclass(frozen=True, slots=True)
class Pairs:
    """Compared pictures; item k of `a`, `b`, `preference` and `split` is about answer k.

    Attributes:
        paths: the pictures, each once, in the order in which the file first names them.
        a, b: indices into `paths`; never equal. A pair may come again, as other people see it.
        preference: 1.0 where A is better, 0.5 where the two are similar, 0.0 where B is better.
        split: "train", "val" or "test"; None without such a column.
    """

    paths: tuple[Path, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]
    preference: tuple[float, ...]
    split: tuple[str, ...] | None = None


def is_pairs(csv_path: str | os.PathLike[str]) -> bool:
    """Whether a label file holds pairs, for `read_pairs`, rather than ratings, for `read_labels`.

    The header decides: a kind is there when all columns that it needs are.

    Raises:
        LabelsError: the file cannot be read, is not CSV in UTF-8 or has no rows, or its header
            has the columns of both kinds or of neither.
    """
    source = Path(csv_path)
    _, header = read_records(source)[0]
    pairs, ratings = PAIRS.fits(header), RATINGS.fits(header)
    if pairs == ratings:
        raise LabelsError(
            f"labels {source}: columns of {'both' if pairs else 'neither'} ratings "
            f"{'and' if pairs else 'nor'} pairs (found: {shown_header(header)}): "
            "have either path and mos, or a, b and better, separated by commas"
        )
    return pairs


def read_pairs(
    csv_path: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None
) -> Pairs:
    """Read a CSV file of comparisons.

    The file is as for `read_labels`, with other columns: the two pictures (`a` and `b`, or
    `path_a` and `path_b`, `image_a` and `image_b`, `left` and `right`), which is the better one
    (`better`: a, b, or similar, also tie; in any case), and if wanted `split`.

    Args:
        csv_path: the file of pairs.
        images: the folder that relative picture paths start from; None: the CSV file's own.

    Raises:
        ConfigError: `images` is not a folder.
        LabelsError: the file cannot be read, is not such a CSV file, or has rows whose picture is
            missing or compared with itself, or whose answer is unknown.
    """
    source = Path(csv_path)
    folder = picture_folder(source, images)
    table = read_table(source, PAIRS)
    firsts, seconds = (find_pictures(table, role, folder) for role in PAIRS.pictures)
    paths, indices = _unique(list(chain.from_iterable(zip(firsts, seconds, strict=True))))
    a, b = indices[::2], indices[1::2]
    table.refuse(
        [one == other for one, other in zip(a, b, strict=True)],
        "a picture is compared with itself",
        "name two",
    )
    return Pairs(paths, a, b, _read_preferences(table), read_split(table))


def check_pairs_learnable(pairs: Pairs) -> None:
    """Check that there is something to learn from: the train pairs, or all without a split.

    Raises:
        LabelsError: fewer than 50 pairs or 20 pictures; nothing but ties; or a pair that is in
            two splits, in whichever order its pictures are named.
    """
    splits = pairs.split or ("train",) * len(pairs.a)
    train = [k for k, split in enumerate(splits) if split == "train"]
    if len(train) < _MIN_PAIRS:
        raise LabelsError(
            f"pairs: {len(train)} to learn from, {_MIN_PAIRS} are the least: compare more"
        )
    pictures = {pairs.a[k] for k in train} | {pairs.b[k] for k in train}
    if len(pictures) < _MIN_PICTURES:
        raise LabelsError(
            f"pairs: {len(pictures)} pictures to learn from, {_MIN_PICTURES} are the least: "
            "compare others too"
        )
    if all(pairs.preference[k] == 0.5 for k in train):
        raise LabelsError(
            "pairs: every answer is a tie, so there is nothing to learn: "
            "compare pictures that differ in quality"
        )
    _refuse_pairs_across(pairs, splits)


def _unique(paths: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """The different files among the paths, and for each path the index of its own."""
    index: dict[Path, int] = {}
    kept: list[Path] = []
    indices = []
    for path in paths:
        resolved = path.resolve()
        if resolved not in index:
            index[resolved] = len(kept)
            kept.append(path)
        indices.append(index[resolved])
    return tuple(kept), tuple(indices)


def _read_preferences(table: Table) -> tuple[float, ...]:
    answers = [cell.lower() for cell in table.cells(_ANSWER)]
    table.refuse(
        [answer not in _PREFERENCES for answer in answers],
        "the answer is unknown",
        "write a, b or similar",
        show=(*PAIRS.pictures, _ANSWER),
    )
    return tuple(_PREFERENCES[answer] for answer in answers)


def _refuse_pairs_across(pairs: Pairs, splits: Sequence[str]) -> None:
    homes: dict[tuple[int, int], set[str]] = {}
    for a, b, split in zip(pairs.a, pairs.b, splits, strict=True):
        homes.setdefault((min(a, b), max(a, b)), set()).add(split)
    found = [
        f"{short_name(pairs.paths[a])} and {short_name(pairs.paths[b])} ({', '.join(sorted(own))})"
        for (a, b), own in homes.items()
        if len(own) > 1
    ]
    if found:
        raise LabelsError(
            f"pairs: the same pair is in two splits: {first_few(found)}: keep all answers in one"
        )
