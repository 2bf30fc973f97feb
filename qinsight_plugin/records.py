"""The records that flow through the house, in the order in which they appear.

    source -> Image -> Score -> Report -> (with a Gate) Verdict

All are frozen. Nothing here imports numpy: a report can be read where no picture ever is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from qinsight_plugin.errors import ScorerError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image as PILImage

# As text, so that they can be imported where numpy is not loaded.
Pixels: TypeAlias = "npt.NDArray[np.uint8]"
QualityMap: TypeAlias = "npt.NDArray[np.float32]"
Source: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] "
    "| npt.NDArray[Any] | PILImage | Image"
)

DISTORTIONS = ("noise", "compression", "blur", "darken")
"""Distortion classes, in Q-Insight's words (arXiv 2503.22679)."""

ACR_LEVELS = ("bad", "poor", "fair", "good", "excellent")
"""The five levels of absolute category rating, 1 to 5, ITU-T P.910."""

SEVERITIES = ("slight", "moderate", "obvious", "serious", "catastrophic")
"""Severity levels from mild to worst, in Q-Insight's words."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A decoded picture.

    Attributes:
        pixels: uint8 [H, W, 3], sRGB, turned upright; `reduction` times smaller than the picture.
        source: what to call it in a report: a path, or "<bytes>", "<array>", ...
        width, height: the picture's size in pixels as displayed, before any reduction.
        reduction: 1, 2, 4, ...: the factor by which decoding shrank both sides.
        format: the container, as Pillow names it ("JPEG", "PNG", ...); "" for arrays.
        notes: what decoding had to decide ("frame 1 of 12", "alpha over white", ...).
    """

    pixels: Pixels
    source: str
    width: int
    height: int
    reduction: int = 1
    format: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Distortion:
    """What is wrong with a picture: a class of `DISTORTIONS` at a level of `SEVERITIES`."""

    name: str
    severity: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took a model that writes to answer.

    Attributes:
        replies: how many times it was asked, retries included.
        unreadable: how many of those replies could not be read.
        prompt_tokens, completion_tokens: read and written, over all replies.
        seconds: from the first question to the last reply; what else was answered at the same
            time is in it.
    """

    replies: int
    unreadable: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Score:
    """A scorer's opinion of one picture.

    Attributes:
        value: the score, on the scale that the scorer's `ScorerSpec.range` declares; for the
            student and the reasoning model a MOS from 1 (bad) to 5 (excellent), ITU-T P.910.
        distortions: what the scorer found wrong, the worst first; None when it does not look for
            distortions.
        uncertainty: standard deviation of the error to expect in `value`, in its units.
        levels: probability of each of `ACR_LEVELS`; their mean level is `value`.
        quality_map: float32 [h, w]: what the picture would score if it looked everywhere as it
            does there; row 0 is its top. Left out of comparisons between scores.
        reasoning: what a model that writes thought before it answered.
        cost: what that took. Left out of comparisons, and so are the notes.
        notes: what the scorer had to decide ("scaled to 1008x756", ...); a report has them among
            its own.
    """

    value: float
    distortions: tuple[Distortion, ...] | None = None
    uncertainty: float | None = None
    levels: tuple[float, ...] | None = None
    quality_map: QualityMap | None = field(default=None, compare=False, repr=False)
    reasoning: str | None = None
    cost: Cost | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of one picture. Either `score` or `error` is None; both are where the
    picture was only compared with another.

    Attributes:
        source: what the picture is called.
        scorer: the name of the scorer that was asked.
        score: its answer.
        reference_score: the same scorer's answer for the reference, where one was given.
        width, height, format: see `Image`; 0 and "" where decoding failed.
        notes: what decoding and the scorer had to decide.
        error: one line saying why there is no score; `error_type` is the error's class name.
        scorer_version: see `ScorerSpec.version`.
        blocks: named blocks added by plugins; JSON values only.
    """

    source: str
    scorer: str
    score: Score | None = None
    reference_score: Score | None = None
    width: int = 0
    height: int = 0
    format: str = ""
    notes: tuple[str, ...] = ()
    error: str | None = None
    error_type: str | None = None
    scorer_version: str = ""
    blocks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The score as a number.

        Raises:
            ScorerError: there is none; the message is the report's error.
        """
        if self.score is None:
            raise ScorerError(self.error or f"{self.source} has not been scored")
        return self.score.value


Better: TypeAlias = Literal["A", "B", "similar"]


@dataclass(frozen=True, slots=True)
class Preference:
    """A scorer's answer when it is shown two pictures at once; see `Score` for the rest."""

    better: Better
    reasoning: str | None = None
    cost: Cost | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which of two pictures is better.

    Attributes:
        better: "A", "B", or "similar": when the scores differ by `margin` or less, or in the words
            of a scorer that is shown both at once.
        margin: in units of the scorer's scale; None where both were shown at once.
        a, b: the two reports; without scores where both were shown at once.
        probability: that people prefer A (Thurstone's law of comparative judgement, the errors of
            the two scores taken as independent); None when the scorer states no uncertainty.
        preference: the answer of a scorer that is shown both at once; None for others.
    """

    better: Better
    margin: float | None
    a: Report
    b: Report
    probability: float | None = None
    preference: Preference | None = None


OnUnscorable: TypeAlias = Literal["reject", "accept"]


@dataclass(frozen=True, slots=True)
class Gate:
    """Rules that a picture must meet. A rule that is None is not applied.

    Attributes:
        min_score: lowest accepted score, inclusive.
        max_drop: largest accepted fall of the score under the reference's score, inclusive.
        forbid: distortion class -> lowest severity that is refused.
        min_width, min_height: smallest accepted size in pixels, inclusive.
        unscorable: what happens to a picture to which a rule cannot be applied, because it cannot
            be decoded or scored, or because what the rule looks at is missing from its report.
        shadow: accept everything, and say of what would have been rejected why: for trying rules
            out on real traffic.
    """

    min_score: float | None = None
    max_drop: float | None = None
    forbid: Mapping[str, str] = field(default_factory=dict)
    min_width: int | None = None
    min_height: int | None = None
    unscorable: OnUnscorable = "reject"
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate decided, and why in words.

    Attributes:
        source: what the picture is called.
        accepted: whether it may pass.
        reasons: one for each rule that is broken or cannot be applied, with its figures; empty for
            a clean acceptance.
        sentence: the same for whoever uploaded the picture: what is wrong with it, and what to do.
            "" for an acceptance, and from a site's own policy that gives none. Left out of
            comparisons.
    """

    source: str
    accepted: bool
    reasons: tuple[str, ...] = ()
    sentence: str = field(default="", compare=False)


class Scorer(Protocol):
    """A loaded scorer. Must be safe to call from several threads.

    Attributes:
        spec: what it promises; may be narrower than the spec that it was registered with.
    """

    @property
    def spec(self) -> ScorerSpec: ...

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        """Score each image, in order; `references` is as long as `images` or None."""
        ...


@runtime_checkable
class SampledScorer(Scorer, Protocol):
    """A scorer that can draw its answers at random, for a teacher's are wanted several times."""

    def sample(self, image: Image, count: int) -> list[Score | ScorerError]:
        """That many independent answers about one image, or why there is none."""
        ...


class Comparer(Protocol):
    """What is shown two pictures at once, loaded. Must be safe to call from several threads.

    Attributes:
        spec: as a `Scorer`'s.
    """

    @property
    def spec(self) -> ScorerSpec: ...

    def compare(self, a: Image, b: Image, reference: Image | None = None) -> Preference:
        """Which is better; given what both were made from, also by which is truer to it."""
        ...


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """What can be known of a scorer without loading it.

    Attributes:
        name: how users ask for it: `name` or `name:ARGUMENT`.
        load: makes the scorer; gets ARGUMENT, "" when there is none.
        summary: one line for `qinsight plugins`.
        kind: "NR" (no reference) or "FR" (needs a reference).
        range: lowest and highest score it can give.
        higher_is_better: the direction of its scale.
        max_pixels: pixels it looks at; larger pictures are halved until they fit. None: all.
        min_side: shortest side, in pixels, that it can judge.
        version: changes whenever scores may; "" where that is not known before loading, or at all.
        load_comparer: makes what compares two pictures; gets ARGUMENT too. None: the better score
            wins.
    """

    name: str
    load: Callable[[str], Scorer]
    summary: str
    kind: Literal["NR", "FR"] = "NR"
    range: tuple[float, float] = (1.0, 5.0)
    higher_is_better: bool = True
    max_pixels: int | None = None
    min_side: int = 1
    version: str = ""
    load_comparer: Callable[[str], Comparer] | None = None


Keeps: TypeAlias = Literal["alpha", "icc", "exif", "xmp"]


class StillEncoder(Protocol):
    """A loaded encoder of pictures. Must be safe to call from several threads.

    Attributes:
        version: changes whenever its bytes may, for the same picture and settings.
    """

    @property
    def version(self) -> str: ...

    def encode(self, picture: PILImage, quality_factor: int) -> bytes:
        """A whole file. `picture` is in mode L, RGB, or RGBA where the spec keeps "alpha"; its
        `info` holds what is to be written of "icc_profile", "exif" and "xmp"."""
        ...

    def decode(self, data: bytes) -> PILImage:
        """The picture in such a file, its pixels read, as a viewer would show it."""
        ...


class VideoEncoder(Protocol):
    """A loaded encoder of video, which ffmpeg runs.

    Attributes:
        version: as a `StillEncoder`'s.
        ffmpeg: the program.
    """

    @property
    def version(self) -> str: ...

    @property
    def ffmpeg(self) -> str: ...

    def arguments(self, quality_factor: int) -> list[str]:
        """What to tell ffmpeg before the name of the output, the codec's name included."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What can be known of an encoder without loading it.

    Attributes:
        name: how users ask for it: `name` or `name?SETTING=VALUE&...`.
        load: makes the encoder; gets the settings, as text.
        summary: one line for `qinsight plugins`.
        suffix: of the files that it writes, with the dot.
        quality_factors: every setting, from the worst to the best.
        media: whether it loads a `StillEncoder` or a `VideoEncoder`.
        keeps: what else than opaque sRGB its files can hold.
    """

    name: str
    load: Callable[[Mapping[str, str]], Any]
    summary: str
    suffix: str
    quality_factors: range
    media: Literal["image", "video"] = "image"
    keeps: frozenset[Keeps] = frozenset()
