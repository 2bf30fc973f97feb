"""Judgements in a table, a row for each: read from CSV, JSON lines or Parquet, written as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import LabelsError
from qinsight_plugin.feedback.judgements import Judgement
from qinsight_plugin.feedback.questions import Kind
from qinsight_plugin.pairs import PAIRS
from qinsight_plugin.scales import as_number, to_mos
from qinsight_plugin.tables import Layout, Table, read_records, read_table

_RATER = {"rater": ("rater", "observer", "annotator", "user"), "team": ("team",)}
_FILE = ("path", "filename", "image", "name")
RATINGS = Layout(
    {**_RATER, "file": _FILE, "rating": ("rating", "mos", "score"), "seconds": ("seconds",)},
    needed=("rater", "file", "rating"),
    pictures=("file",),
)
COMPARISONS = Layout(
    {**_RATER, **{role: PAIRS.names[role] for role in PAIRS.needed}, "seconds": ("seconds",)},
    needed=("rater", *PAIRS.needed),
    pictures=PAIRS.pictures,
)
_ANSWER = PAIRS.needed[-1]
_SIDES = {"a": "left", "b": "right", "similar": "same", "tie": "same", "same": "same"}
_WORDS = {"left": "a", "right": "b", "same": "similar"}


def from_table(source: Path, scale: tuple[float, float] | None) -> Iterable[Judgement]:
    """Ratings, on that scale, or pairs; whichever its columns are of.

    Raises:
        LabelsError: it has the columns of neither, or a cell that is wrong.
    """
    header = read_records(source)[0][1]
    if COMPARISONS.fits(header):
        table = read_table(source, COMPARISONS)
        words = [cell.lower() for cell in table.cells(_ANSWER)]
        table.refuse(
            [word not in _SIDES for word in words],
            "the answer is unknown",
            "write a, b or similar",
            show=(*PAIRS.pictures, _ANSWER),
        )
        sides = zip(*(table.cells(role) for role in PAIRS.pictures), strict=True)
        return _judged(table, "pair", list(sides), [_SIDES[word] for word in words])
    table = read_table(source, RATINGS)
    values = _on_scale(table, [as_number(cell) for cell in table.cells("rating")], scale)
    return _judged(table, "rating", [(cell,) for cell in table.cells("file")], values)


def _judged(
    table: Table, kind: Kind, pictures: Sequence[tuple[str, ...]], values: Sequence[Any]
) -> Iterable[Judgement]:
    raters = table.cells("rater")
    table.refuse([not name for name in raters], "nobody is named", "fill the column rater")
    blank = ("",) * len(raters)
    rows = zip(
        raters,
        pictures,
        values,
        table.column("team") or blank,
        table.column("seconds") or blank,
        strict=True,
    )
    for order, (rater, own, value, team, seconds) in enumerate(rows):
        yield Judgement(
            rater, kind, own, value, team=team, seconds=as_number(seconds), order=float(order)
        )


def _on_scale(
    table: Table, ratings: Sequence[float], scale: tuple[float, float] | None
) -> list[float]:
    known = [rating for rating in ratings if math.isfinite(rating)]
    seen = f"ratings run from {min(known):g} to {max(known):g}" if known else "no rating is one"
    if scale is None:
        raise LabelsError(
            f"labels {table.source}: {seen}, but on which scale is not stated: give the lowest and "
            "the highest possible rating, as in --scale 1:5"
        )
    low, high = scale
    table.refuse(
        [not low <= rating <= high for rating in ratings],
        f"the rating is no number from {low:g} to {high:g} ({seen})",
        "correct it, or the scale",
        show=("file", "rating"),
    )
    return [to_mos(rating, scale) for rating in ratings]


def to_csv(judgements: Sequence[Judgement], kind: Kind) -> str:
    """Ratings or pairs as `from_table` reads them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = ["path", "rating"] if kind == "rating" else ["a", "b", "better"]
    writer.writerow(["rater", "team", *columns, "seconds"])
    for one in judgements:
        if one.kind == kind and one.role != "golden":
            value = one.value if kind == "rating" else _WORDS[one.value]
            seconds = "" if math.isnan(one.seconds) else f"{one.seconds:.2f}"
            writer.writerow([one.rater, one.team, *one.pictures, value, seconds])
    return text.getvalue()
