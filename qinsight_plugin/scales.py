"""Numbers in a column -> ratings on a stated scale -> MOS, 1 (bad) to 5 (excellent)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qinsight_plugin.tables import Table

_CUSTOMARY_SCALES = ((0.0, 1.0), (1.0, 5.0), (0.0, 5.0), (0.0, 10.0))


def to_mos(rating: float, scale: tuple[float, float]) -> float:
    """The rating, mapped linearly: the scale's first number is 1, its second 5."""
    worst, best = scale
    return 1 + 4 * (rating - worst) / (best - worst)


def as_number(text: str) -> float:
    """The number in a cell, or NaN; `float` alone would read the slip "3_5" as 35."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def numbers(table: Table, role: str) -> tuple[float, ...]:
    """The cells of a column that holds finite numbers.

    Raises:
        LabelsError: one does not.
    """
    values = tuple(as_number(cell) for cell in table.cells(role))
    table.refuse(
        [not math.isfinite(value) for value in values],
        f"the {role} is not a number",
        "write one, with a decimal point",
        show=("file", role),
    )
    return values


def check_scale(
    table: Table, ratings: Sequence[float], scale: tuple[float, float] | None
) -> tuple[float, float]:
    """The scale, if the ratings can be of it.

    Raises:
        LabelsError: it is not stated, or they cannot.
    """
    show = ("file", "rating")
    span = f"ratings run from {min(ratings):g} to {max(ratings):g}"
    if scale is None:
        raise table.error(
            table.rows,
            f"{span}, but on which scale is not stated",
            "give the lowest and the highest possible rating, as in --scale 1:5 "
            "(scale=(1, 5) in Python)",
            show,
        )
    low, high = scale
    table.refuse(
        [not low <= rating <= high for rating in ratings],
        f"the rating is outside {low:g}:{high:g} ({span})",
        "correct the ratings or the scale; a column has one scale",
        show,
    )
    for bottom, top in _CUSTOMARY_SCALES:
        if high - low < 10 * (top - bottom):
            continue
        inner = [bottom <= rating <= top for rating in ratings]
        if all(inner):
            raise table.error(
                table.rows,
                f"{span}, which is hardly the stated scale {low:g}:{high:g}",
                f"if they were given on {bottom:g}:{top:g}, state that",
                show,
            )
        if _is_cluster(ratings, inner, (top - bottom) / 4, (high - low) / 5):
            count = sum(inner)
            fewer = count <= len(inner) / 2
            table.refuse(
                [is_inner == fewer for is_inner in inner],
                f"two scales in one column: {count} of {len(inner)} ratings lie within "
                f"{bottom:g}:{top:g}, the others far above ({span})",
                f"bring all to {low:g}:{high:g}",
                show,
            )
    return scale


def _is_cluster(ratings: Sequence[float], inner: Sequence[bool], spread: float, gap: float) -> bool:
    """Whether the inner ratings look like a scale of their own under that of the others.

    That is three or more, which differ by `spread` or more (a lone value, as the 0 of ratings
    that are all 0 or 100, makes no scale), and a stretch of `gap` without a rating above them.
    """
    within = [rating for rating, is_inner in zip(ratings, inner, strict=True) if is_inner]
    others = [rating for rating, is_inner in zip(ratings, inner, strict=True) if not is_inner]
    return (
        len(within) >= 3
        and max(within) - min(within) >= spread
        and min(others) - max(within) >= gap
    )
