"""A scorer's answer is checked before anything is made of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from qinsight_plugin.errors import ScoreRangeError, ScorerError
from qinsight_plugin.records import Score, ScorerSpec
from qinsight_plugin.usable import require_usable

SPEC = ScorerSpec(name="toy", load=lambda _: None, summary="")  # type: ignore[arg-type,return-value]
LEVELS = (0.0, 0.1, 0.3, 0.5, 0.1)


def test_a_full_answer_passes() -> None:
    quality_map = np.ones((2, 3), np.float32)
    require_usable(Score(3.6, (), 0.2, LEVELS, quality_map), SPEC, "toy", "a.png")


@pytest.mark.parametrize("value", [0.9, 5.1, math.nan, math.inf])
def test_a_value_off_the_declared_scale_is_refused(value: float) -> None:
    with pytest.raises(ScoreRangeError, match=r"toy gave .* for a\.png; it declares 1 to 5"):
        require_usable(Score(value), SPEC, "toy", "a.png")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uncertainty", -0.1),
        ("uncertainty", math.nan),
        ("uncertainty", math.inf),
        ("levels", LEVELS[:4]),
        ("levels", (*LEVELS[:4], math.nan)),
        ("quality_map", np.ones((2, 3, 1), np.float32)),
        ("quality_map", np.full((2, 3), np.nan, np.float32)),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ScorerError, match=r"^scorer toy gave a\.png ") as caught:
        require_usable(Score(3.0, **{field: value}), SPEC, "toy", "a.png")
    assert "\n" not in str(caught.value)
