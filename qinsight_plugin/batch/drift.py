"""What changed between two runs: over all pictures, and on those that are in both."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from qinsight_plugin.batch.summary import Summary, Vector, mean_interval
from qinsight_plugin.report.columns import pyarrow

MOST_NAMED = 12
"""Pictures whose score fell, and rose, the most."""


def drift(new: Summary, old: Summary, new_table: Any, old_table: Any) -> dict[str, Any]:
    """The change from an old run to a new one, as JSON values.

    `mean` is the new mean less the old one with its 95 % interval (Welch); `ks` the largest
    distance between the two distribution functions (Kolmogorov and Smirnov); `distortions` the
    share of each in per cent, old and new. `both` is about pictures of one name that have a score
    in both runs: their number, mean change with its interval, and those that fell and rose most.
    """
    return {
        "rows": [old.rows, new.rows],
        "scorers": [[list(s) for s in old.scorers], [list(s) for s in new.scorers]],
        "same_scorer": old.scorers == new.scorers,
        "mean": difference(new.scores, old.scores),
        "ks": ks_distance(new.scores, old.scores),
        "errors": [old.errors, new.errors],
        "rejected": [_share(s.rejected, s.judged) for s in (old, new)],
        "distortions": _distortions(old, new),
        "histogram": np.histogram(old.scores, bins=40, range=(new.low, new.high))[0].tolist(),
        "both": _paired(new_table, old_table),
    }


def difference(new: Vector, old: Vector) -> list[float] | None:
    """Difference of two means and its 95 % interval, of samples independent of one another."""
    if min(new.size, old.size) < 2:
        return None
    value = float(new.mean() - old.mean())
    reach = 1.959964 * math.sqrt(new.var(ddof=1) / new.size + old.var(ddof=1) / old.size)
    return [value, value - reach, value + reach]


def ks_distance(new: Vector, old: Vector) -> float | None:
    if not min(new.size, old.size):
        return None
    everything = np.concatenate([new, old])
    below = [np.searchsorted(np.sort(v), everything, "right") / v.size for v in (new, old)]
    return float(np.abs(below[0] - below[1]).max())


def _share(count: int, n: int) -> float | None:
    return 100 * count / n if n else None


def _distortions(old: Summary, new: Summary) -> list[list[Any]]:
    shares = []
    for summary in (old, new):
        counts: Counter[str] = Counter()
        for (_, distortion, *_), count in summary.cells.items():
            counts[distortion] += count
        shares.append({name: 100 * count / counts.total() for name, count in counts.items()})
    names = sorted({name for share in shares for name in share if name})
    return [[name, *(share.get(name, 0.0) for share in shares)] for name in names]


def _paired(new_table: Any, old_table: Any) -> dict[str, Any] | None:
    columns = ["source", "score", "accepted"]
    joined = new_table.to_table(columns=columns).join(
        old_table.to_table(columns=columns), "source", right_suffix="_old", join_type="inner"
    )
    compute = pyarrow("pyarrow.compute")
    has_both = compute.and_(
        compute.is_valid(joined.column("score")), compute.is_valid(joined.column("score_old"))
    )
    joined = joined.filter(has_both)
    if not joined.num_rows:
        return None
    change = compute.subtract(joined.column("score"), joined.column("score_old"))
    joined = joined.append_column("change", change).sort_by("change")
    flips = Counter(
        zip(
            joined.column("accepted_old").to_pylist(),
            joined.column("accepted").to_pylist(),
            strict=True,
        )
    )
    named = ["source", "score_old", "score", "change"]
    fell = joined.select(named).slice(0, MOST_NAMED).to_pylist()
    rose = joined.select(named).slice(max(0, joined.num_rows - MOST_NAMED)).to_pylist()
    return {
        "pictures": joined.num_rows,
        "mean": mean_interval(joined.column("change").to_numpy()),
        "now_rejected": flips[True, False],
        "now_accepted": flips[False, True],
        "fell": [row for row in fell if row["change"] < 0],
        "rose": [row for row in reversed(rose) if row["change"] > 0],
    }
