"""Which small edits would make a photograph look better, if any.

The score alone does not see every fault: a colour cast hardly moves it, darkness little, and it
likes some pictures darker than they should be. So an edit is worth what it adds to the score, and
what it takes from how far the picture is from what photographs look like. None may lower the score;
one that changes light or colour must make the picture more usual; one that sharpens must not bring
out noise. Edits are added one by one, the best first, as long as one is worth it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qinsight_plugin.errors import ConfigError, ImageTooSmallError
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline
from qinsight_plugin.tune.bounds import noise_of, traits
from qinsight_plugin.tune.edits import EDITS, apply_all
from qinsight_plugin.tune.illuminant import cast
from qinsight_plugin.tune.objective import Eye

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels, Source

LIGHTNESS, CONTRAST, CHROMA = (54.0, 18.4), (19.9, 6.6), (17.0, 11.0)
"""Mean and deviation of `Traits` over photographs: the 207 of CID22-512's training part."""

CAST = (0.25, 0.1)
"""Of the logarithms of `cast`: more than four of five of those photographs have less; and
what counts as a deviation more."""

USUAL = 1.3
"""Deviations of lightness, contrast and chroma that are nothing unusual."""

WEIGHT = 0.5
"""MOS for a deviation more."""

MIN_GAIN = 0.15
"""What an edit must be worth."""

TOLERANCE = 0.03
"""By which the score may fall and still count as unchanged."""

ROUGHER = 1.25
"""The factor by which sharpening may raise the noise: soft pictures have room for it."""

DETAIL = ("denoise", "sharpen")
"""Edits that the score sees well; the others are of light and colour."""

MIN_SIDE = 32


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One edit, on top of those before it.

    Attributes:
        edit, strength, unit: see `edits.Edit`.
        gain: what it adds to the score.
        worth: the same, and what it does for the look; why it is suggested.
    """

    edit: str
    strength: float
    unit: str
    gain: float
    worth: float


@dataclass(frozen=True, slots=True)
class Suggestions:
    """For one picture.

    Attributes:
        before, after: the scores of the picture and of the edited one.
        edits: in the order in which they were found, the most useful first; empty: leave it.
        original, edited: uint8 [H, W, 3].
    """

    source: str
    before: float
    after: float
    edits: tuple[Suggestion, ...]
    original: Pixels
    edited: Pixels


def suggest(
    source: Source, *, scorer: str = DEFAULT_SCORER, min_gain: float = MIN_GAIN
) -> Suggestions:
    """Look for edits that are worth it.

    Args:
        source: as for `qinsight_plugin.score`.
        min_gain: what each edit must be worth, in units of the score.

    Raises:
        QInsightError: the picture cannot be used, or the scorer not loaded.
    """
    if not min_gain >= 0:
        raise ConfigError(f"min_gain must be 0 or more, not {min_gain}")
    from qinsight_plugin.decode import decode

    pipeline = Pipeline(scorer)
    Eye(pipeline)  # refuses scorers that cannot be maximised
    full = decode(source)
    if min(full.pixels.shape[:2]) < MIN_SIDE:
        raise ImageTooSmallError(
            f"{full.source} is {full.width}x{full.height}; edits are suggested for pictures from "
            f"{MIN_SIDE}x{MIN_SIDE} up"
        )
    seen = pipeline.decode(full).pixels
    state = Judged(score_of(pipeline, seen), unusual(seen), noise_of(seen))
    before, found, chosen = state, [], dict[str, float]()
    while True:
        best = best_addition(pipeline, seen, chosen, state)
        if best is None or best[1].total - state.total < min_gain:
            break
        (name, strength), now = best
        unit = next(edit.unit for edit in EDITS if edit.name == name)
        gain, worth = now.score - state.score, now.total - state.total
        found.append(Suggestion(name, strength, unit, gain, worth))
        chosen[name] = strength
        state = now
    edited = apply_all(full.pixels, chosen)
    return Suggestions(full.source, before.score, state.score, tuple(found), full.pixels, edited)


@dataclass(frozen=True, slots=True)
class Judged:
    """A picture's score; how unusual it looks; its noise."""

    score: float
    unusual: float
    noise: float

    @property
    def total(self) -> float:
        return self.score - WEIGHT * self.unusual


def best_addition(
    pipeline: Pipeline, seen: Pixels, chosen: dict[str, float], state: Judged
) -> tuple[tuple[str, float], Judged] | None:
    """The best edit that was not chosen yet; None where none is sound."""
    best: tuple[tuple[str, float], Judged] | None = None
    for edit in EDITS:
        if edit.name in chosen:
            continue
        for strength in edit.strengths:
            pixels = apply_all(seen, {**chosen, edit.name: strength})
            look, noise = unusual(pixels), noise_of(pixels)
            # Before it is scored, which takes longest.
            rough = noise > ROUGHER * state.noise
            if rough if edit.name in DETAIL else look >= state.unusual:
                continue
            now = Judged(score_of(pipeline, pixels), look, noise)
            if now.score < state.score - TOLERANCE:
                continue
            if best is None or now.total > best[1].total:
                best = (edit.name, strength), now
    return best


def score_of(pipeline: Pipeline, pixels: Pixels) -> float:
    (score,) = pipeline.score_images([pipeline.decode(pixels)])
    return score.value


def unusual(pixels: Pixels) -> float:
    """By how many deviations a picture is beyond the usual: too dark or light, too flat or hard,
    too pale, with too much of a cast; summed. Vivid colours may be meant."""
    found = traits(pixels)
    beyond = [
        abs(found.lightness - LIGHTNESS[0]) / LIGHTNESS[1] - USUAL,
        abs(found.contrast - CONTRAST[0]) / CONTRAST[1] - USUAL,
        (CHROMA[0] - found.chroma) / CHROMA[1] - USUAL,
        (math.hypot(*cast(pixels)) - CAST[0]) / CAST[1],
    ]
    return sum(max(0.0, far) for far in beyond)
