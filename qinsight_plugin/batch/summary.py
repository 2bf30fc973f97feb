"""What a report tells of a table: how many pictures of which kind, and the worst and the best.

Read a batch at a time, so that a table may be larger than memory; of all rows at once only the
scores are held.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qinsight_plugin.records import DISTORTIONS
from qinsight_plugin.report.columns import pyarrow

Vector = npt.NDArray[np.float64]

BINS = 40
SHOWN = (
    *("source", "score", "uncertainty", "explanation", "distortion", "severity", "format"),
    *("width", "height", "accepted", "reasons", "scorer", "scorer_version"),
)
_CELL = ("distortion", "severity", "format", "accepted")
_EACH_DISTORTION = 6


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """A table in numbers.

    Attributes:
        rows: how many.
        scores: float64 [N], of those that have one.
        low, high: the ends of the histogram, of `BINS` bins.
        cells: numbers of pictures by (bin, distortion, severity, format, accepted).
        errors: numbers of rows by error type.
        examples: by error type, one row's error.
        worst, best: rows, the worst or best first.
        of_each: of each distortion its worst rows.
        scorers: (name, version) of all.
        judged: rows with a verdict; `rejected`: of them.
    """

    rows: int
    scores: Vector
    low: float
    high: float
    cells: dict[tuple[Any, ...], int]
    errors: dict[str, int]
    examples: dict[str, str]
    worst: list[dict[str, Any]]
    best: list[dict[str, Any]]
    of_each: list[dict[str, Any]]
    scorers: list[tuple[str, str]]
    judged: int
    rejected: int


def summarise(dataset: Any, pictures: int) -> Summary:
    """Read a table.

    Args:
        dataset: from `open_table`.
        pictures: of the worst, and of the best, to name.
    """
    scores = dataset.to_table(columns=["score"]).column("score").drop_null().to_numpy()
    low, high = ends(scores)
    cells: Counter[tuple[Any, ...]] = Counter()
    errors: Counter[str] = Counter()
    verdicts: Counter[bool] = Counter()
    examples: dict[str, str] = {}
    scorers: set[tuple[str, str]] = set()
    worst, best = Extremes(pictures, 1), Extremes(pictures, -1)
    of_each = {name: Extremes(_EACH_DISTORTION, 1) for name in DISTORTIONS}
    compute = pyarrow("pyarrow.compute")
    for batch in dataset.to_batches(columns=[*SHOWN, "error", "error_type"]):
        scored = batch.filter(compute.is_valid(batch.column("score")))
        cells.update(counted(scored, low, high))
        failed = batch.filter(compute.is_valid(batch.column("error_type")))
        errors.update(failed.column("error_type").to_pylist())
        for kind, error in zip(
            failed.column("error_type").to_pylist(), failed.column("error").to_pylist(), strict=True
        ):
            examples.setdefault(kind, error)
        verdicts.update(batch.column("accepted").drop_null().to_pylist())
        names = zip(*(batch.column(key).unique().to_pylist() for key in SHOWN[-2:]), strict=False)
        scorers.update(names)
        worst.see(scored)
        best.see(scored)
        for name, extremes in of_each.items():
            extremes.see(scored.filter(compute.equal(scored.column("distortion"), name)))
    return Summary(
        rows=dataset.count_rows(),
        scores=scores,
        low=low,
        high=high,
        cells=dict(cells),
        errors=dict(errors.most_common()),
        examples=examples,
        worst=worst.rows,
        best=best.rows,
        of_each=[row for extremes in of_each.values() for row in extremes.rows],
        scorers=sorted(scorers),
        judged=verdicts.total(),
        rejected=verdicts[False],
    )


class Extremes:
    """The first few rows by score.

    Args:
        count: how many.
        sign: 1 for the lowest scores, -1 for the highest.
    """

    def __init__(self, count: int, sign: int) -> None:
        self._count, self._sign = count, sign
        self.rows: list[dict[str, Any]] = []

    def see(self, batch: Any) -> None:
        order = "ascending" if self._sign > 0 else "descending"
        first = batch.sort_by([("score", order)]).slice(0, self._count).select(SHOWN)
        seen = [*self.rows, *first.to_pylist()]
        self.rows = sorted(seen, key=lambda row: self._sign * row["score"])[: self._count]


def ends(scores: Vector) -> tuple[float, float]:
    """Of the histogram: MOS's, where all scores lie between them."""
    if scores.size == 0 or (scores.min() >= 1 and scores.max() <= 5):
        return 1.0, 5.0
    low, high = float(scores.min()), float(scores.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def counted(scored: Any, low: float, high: float) -> Counter[tuple[Any, ...]]:
    """Numbers of pictures by bin and kind."""
    if not scored.num_rows:
        return Counter()
    share = (scored.column("score").to_numpy() - low) / (high - low)
    bins = np.clip(np.floor(BINS * share), 0, BINS - 1).astype(np.int32)
    arrow = pyarrow()
    table = arrow.Table.from_batches([scored.select(list(_CELL))]).append_column(
        "bin", arrow.array(bins)
    )
    groups = table.group_by(["bin", *_CELL]).aggregate([([], "count_all")]).to_pylist()
    return Counter(
        {(group["bin"], *(group[key] for key in _CELL)): group["count_all"] for group in groups}
    )


def mean_interval(values: Vector) -> tuple[float, float, float]:
    """A mean and its 95 % interval, by the normal distribution."""
    mean = float(values.mean())
    if values.size < 2:
        return mean, mean, mean
    reach = 1.959964 * float(values.std(ddof=1)) / math.sqrt(values.size)
    return mean, mean - reach, mean + reach
