"""What a scorer's answer must be for the rest of the house to rely on it, and how it may fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from qinsight_plugin.errors import QInsightError, ScoreRangeError, ScorerError, described
from qinsight_plugin.records import ACR_LEVELS, Score, ScorerSpec


def require_usable(score: Score, spec: ScorerSpec, scorer: str, source: str) -> None:
    """Check one answer; `scorer` and `source` are what to call the two in a message.

    Raises:
        ScoreRangeError: the value is not finite or outside the scorer's declared range.
        ScorerError: the uncertainty, the levels or the map are not what `Score` says they are.
    """
    low, high = spec.range
    if not (math.isfinite(score.value) and low <= score.value <= high):
        raise ScoreRangeError(
            f"scorer {scorer} gave {score.value} for {source}; it declares {low:g} to {high:g}"
        )
    if score.uncertainty is not None and not 0 <= score.uncertainty < math.inf:
        raise ScorerError(
            f"scorer {scorer} gave {source} the uncertainty {score.uncertainty}; a standard "
            "deviation is finite and not negative"
        )
    if score.levels is not None and not (
        len(score.levels) == len(ACR_LEVELS) and all(0 <= share <= 1 for share in score.levels)
    ):
        raise ScorerError(
            f"scorer {scorer} gave {source} the levels {score.levels}; {len(ACR_LEVELS)} "
            "probabilities are wanted"
        )
    if score.quality_map is not None:
        import numpy as np

        quality_map = np.asarray(score.quality_map)
        if quality_map.ndim != 2 or not np.isfinite(quality_map).all():
            raise ScorerError(
                f"scorer {scorer} gave {source} a quality map of shape {quality_map.shape}; two "
                "dimensions of finite numbers are wanted"
            )


@contextmanager
def scorer_errors(failure: str) -> Iterator[None]:
    """A third party's scorer may raise anything: what is no QInsightError becomes a ScorerError.

    Args:
        failure: how the message begins: which scorer did not do what.
    """
    try:
        yield
    except QInsightError:
        raise
    except Exception as error:
        raise ScorerError(f"{failure}: {described(error)}") from error
