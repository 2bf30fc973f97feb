"""Full-reference scorers: how true a picture is to the one that it was made from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from qinsight_plugin.errors import ImageTooSmallError, ReferenceMissingError, ScorerError
from qinsight_plugin.records import Image, Score, Scorer, ScorerSpec

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels


class Measure(Protocol):
    """Bound to one reference."""

    def score(self, pixels: Pixels) -> float: ...


class FidelityScorer:
    """Compares pictures with references by a measure that looks at each reference once.

    Args:
        spec: what it promises.
        bind: a reference's pixels -> its measure. The last one is kept for each thread, since a
            search asks about one reference again and again.
    """

    def __init__(self, spec: ScorerSpec, bind: Callable[[Pixels], Measure]) -> None:
        self.spec = spec
        self._bind = bind
        self._last = threading.local()

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        """One score an image.

        Raises:
            ReferenceMissingError: there are no references.
            ImageTooSmallError: a side is shorter than `spec.min_side` pixels.
            ScorerError: a picture and its reference differ in size.
        """
        if references is None:
            raise ReferenceMissingError(f"scorer {self.spec.name} compares with a reference")
        return [self._one(*pair) for pair in zip(images, references, strict=True)]

    def _one(self, image: Image, reference: Image) -> Score:
        if image.pixels.shape != reference.pixels.shape:
            raise ScorerError(
                f"{image.source} has {image.width}x{image.height} pixels, its reference "
                f"{reference.source} {reference.width}x{reference.height}: compare equal sizes"
            )
        if min(image.pixels.shape[:2]) < self.spec.min_side:
            raise ImageTooSmallError(
                f"{image.source} is {image.width}x{image.height}; {self.spec.name} compares "
                f"pictures from {self.spec.min_side}x{self.spec.min_side} up"
            )
        if getattr(self._last, "pixels", None) is not reference.pixels:
            self._last.measure = self._bind(reference.pixels)
            self._last.pixels = reference.pixels
        return Score(self._last.measure.score(image.pixels))


def load_ms_ssim(argument: str) -> Scorer:
    from qinsight_plugin.fidelity.ms_ssim import MsSsim

    return FidelityScorer(MS_SSIM, MsSsim)


def load_ssim(argument: str) -> Scorer:
    from qinsight_plugin.fidelity.ms_ssim import SINGLE_SCALE, MsSsim

    return FidelityScorer(SSIM, lambda reference: MsSsim(reference, SINGLE_SCALE))


def load_ssimulacra2(argument: str) -> Scorer:
    from qinsight_plugin.fidelity.ssimulacra2 import Ssimulacra2

    return FidelityScorer(SSIMULACRA2, Ssimulacra2)


MS_SSIM = ScorerSpec(
    name="ms-ssim",
    load=load_ms_ssim,
    summary="multi-scale structural similarity of luma with a reference, 0 to 1",
    kind="FR",
    range=(0.0, 1.0),
    min_side=11,
    version="1",
)
SSIM = ScorerSpec(
    name="ssim",
    load=load_ssim,
    summary="structural similarity of luma with a reference, 0 to 1",
    kind="FR",
    range=(0.0, 1.0),
    min_side=11,
    version="1",
)
SSIMULACRA2 = ScorerSpec(
    name="ssimulacra2",
    load=load_ssimulacra2,
    summary="SSIMULACRA2 2.1 against a reference: 90 visually lossless, 70 high, 50 medium",
    kind="FR",
    range=(-10_000.0, 100.0),
    min_side=8,
    version="2.1",
)
SPECS = (SSIM, MS_SSIM, SSIMULACRA2)
