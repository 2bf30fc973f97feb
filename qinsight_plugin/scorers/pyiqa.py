"""`pyiqa:METRIC`: any metric of the package pyiqa that scores one picture, turned to our scale."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import os
import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, ReferenceMissingError, ScorerError
from qinsight_plugin.records import Image, Score, ScorerSpec

if TYPE_CHECKING:
    import torch

NAME = "pyiqa"
DEVICE_VARIABLE = "QINSIGHT_DEVICE"
DEVICES = ("cpu", "cuda")
OURS = (1.0, 5.0)

OF_SETS = ("fid", "inception_score")
"""Names that begin so judge sets of pictures."""

_RANGE = re.compile(r"(~?-?[\d.]*)\s*,\s*(~?-?[\d.]*)")


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """What pyiqa says of a metric's numbers; it calls its ranges rough estimates.

    Attributes:
        low, high: the ends of its range; infinite where it names none.
    """

    low: float
    high: float
    lower_better: bool

    @classmethod
    def read(cls, text: str | None, lower_better: bool) -> Scale:
        """From pyiqa's own notation, such as "~0, ~1" or "0, ~"."""
        found = _RANGE.fullmatch((text or "").strip())
        ends = [end.strip("~") for end in found.groups()] if found else ["", ""]
        low, high = (float(end) if end else None for end in ends)
        return cls(
            -math.inf if low is None else low, math.inf if high is None else high, lower_better
        )

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def turned(self) -> tuple[float, float]:
        """The range of what `turn` gives."""
        if self.is_bounded:
            return OURS
        # An open end may be reached by a rough range's other end too.
        return -math.inf, math.inf

    def turn(self, value: float) -> float:
        """The number on our scale, larger being better: over 1..5 where the range has two ends, cut
        off at them; as it is, or its negative, where it has not."""
        if not self.is_bounded:
            return -value if self.lower_better else value
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return 5.0 - 4.0 * share if self.lower_better else 1.0 + 4.0 * share

    def note(self, metric: str, value: float) -> str:
        """What was done to its number, for a report."""
        direction = "smaller" if self.lower_better else "larger"
        said = f"pyiqa's {metric} gave {value:.6g}, of which {direction} is better; "
        if not self.is_bounded:
            return said + ("its negative is shown" if self.lower_better else "shown as it is")
        ends = f"{self.low:g} to {self.high:g} "
        beyond = "" if self.low <= value <= self.high else ", and cut off there"
        return f"{said}{ends}are spread over 1 to 5{beyond}: no MOS"


class PyiqaScorer:
    """One metric. Thread-safe; one picture at a time.

    Args:
        metric: what `pyiqa.create_metric` made.
        name: its name.
        version: of pyiqa.
    """

    def __init__(self, metric: Any, name: str, version: str) -> None:
        self._metric, self._name = metric, name
        self._scale = Scale.read(metric.score_range, metric.lower_better)
        self._lock = threading.Lock()
        self.spec = dataclasses.replace(
            SPEC,
            kind=metric.metric_mode,
            range=self._scale.turned,
            version=f"pyiqa {version} {name}",
        )

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        """One score an image.

        Raises:
            ReferenceMissingError: the metric compares, and there is nothing to compare with.
            ScorerError: it does not answer with one number, or fails.
        """
        if self.spec.kind == "NR":
            return [self._judge(image, None) for image in images]
        if references is None:
            raise ReferenceMissingError(f"pyiqa's {self._name} compares with a reference: pass one")
        return [self._judge(*pair) for pair in zip(images, references, strict=True)]

    def _judge(self, image: Image, reference: Image | None) -> Score:
        import torch

        seen = [to_tensor(picture) for picture in (image, reference) if picture is not None]
        with self._lock, torch.inference_mode():
            answer = self._metric(*seen)
        if not isinstance(answer, torch.Tensor) or answer.numel() != 1:
            raise ScorerError(
                f"pyiqa's {self._name} does not answer with one number: choose another metric"
            )
        value = float(answer)
        if not math.isfinite(value):
            raise ScorerError(f"pyiqa's {self._name} gave {value} for {image.source}")
        return Score(self._scale.turn(value), notes=(self._scale.note(self._name, value),))


def to_tensor(image: Image) -> torch.Tensor:
    """float [1, 3, H, W], 0 to 1."""
    import torch

    levels = torch.from_numpy(image.pixels.copy())
    return levels.permute(2, 0, 1)[None].float() / 255


def load(argument: str) -> PyiqaScorer:
    """The scorer that `pyiqa:ARGUMENT` asks for.

    Raises:
        MissingExtraError, BrokenExtraError: pyiqa is not installed, or does not load.
        ConfigError: there is no such metric, or it judges no single pictures.
        ScorerError: it cannot be made; most fetch their weights when first used.
    """
    device = os.environ.get(DEVICE_VARIABLE, "cpu")
    if device not in DEVICES:
        raise ConfigError(f"pyiqa runs on {' and '.join(DEVICES)}, not on {device}")
    pyiqa = require("pyiqa", package="pyiqa", extra=NAME, purpose=f"scorer {NAME}:{argument}")
    known = pyiqa.list_models()
    if argument not in known:
        near = difflib.get_close_matches(argument, known, n=3) or sorted(known)[:3]
        raise ConfigError(
            f"pyiqa has no metric {argument!r}; it has {len(known)}, such as {', '.join(near)}"
        )
    if argument.startswith(OF_SETS):
        raise ConfigError(f"pyiqa's {argument} judges sets of pictures: choose another metric")
    logging.getLogger(NAME).setLevel(logging.WARNING)  # it tells of every network that it makes
    metric = pyiqa.create_metric(argument, device=device)
    return PyiqaScorer(metric, argument, pyiqa.__version__)


SPEC = ScorerSpec(
    name=NAME,
    load=load,
    summary="any metric of pyiqa, its range spread over 1-5 and larger better: pyiqa:topiq_nr "
    "(mind pyiqa's non-commercial licence)",
    range=(-math.inf, math.inf),
)
