"""Families: one picture in six states of known order, for what no person rated.

After KADIS-700K's recipe: Lin, Hosu and Saupe, "DeepFL-IQA: Weak Supervision for Deep IQA Feature
Learning", 2020. Class, severity and order inside a family are weak labels: they are sure, but they
are about what was done, not about what people saw. How much was lost can be compared between
families too: as in that paper, by a full-reference metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.fidelity.ssimulacra2 import Ssimulacra2
from qinsight_plugin.parallel import in_order
from qinsight_plugin.records import DISTORTIONS
from qinsight_plugin.scorers.student import SPEC
from qinsight_plugin.student.cache import Cache, Pixels, Record
from qinsight_plugin.student.distort import Severities, graded_ladder, harmless, spoil
from qinsight_plugin.student.views import file_digest, native_view

OnCached: TypeAlias = Callable[[int, int], None]

RUNGS = 6
NEAR = 8
"""Families of a step are drawn from so many times their number that are next to each other in
size."""
SPOILT = 0.25
"""Share of the families whose every member has a second distortion besides, always the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Six states of one picture, each worse than the one before it.

    Attributes:
        records: where their stem outputs lie.
        severities: float32 [6, 4], of the classes in the order of `DISTORTIONS`.
        likeness: float32 [6], SSIMULACRA2 against the undistorted picture, 0 to 100; NaN where the
            picture is darkened, which it minds more than people do, or has two distortions.
    """

    records: list[Record]
    severities: npt.NDArray[np.float32]
    likeness: npt.NDArray[np.float32]

    @property
    def kind(self) -> int:
        """The class that grows from member to member."""
        return int((self.severities[-1] - self.severities[0]).argmax())


class Member(NamedTuple):
    """A picture of a family; fields as in `Family`."""

    pixels: Pixels
    severities: Severities
    likeness: float


def cache_families(
    cache: Cache[Any],
    pools: Sequence[Sequence[Path]],
    count: int,
    seed: int,
    on_cached: OnCached | None = None,
    *,
    measured: bool = True,
) -> list[Family]:
    """`count` families in order of size; those that the cache holds are not made again.

    Args:
        pools: collections of undistorted pictures; each that is not empty gives as many families
            as any other, its pictures taken in turn.
        measured: whether their likeness is to be known; it takes longer than all else.

    Raises:
        ImageError: a source cannot be decoded.
    """
    pools = [pool for pool in pools if pool]
    kept_as = "measured family" if measured else "unmeasured family"

    def prepare(number: int) -> tuple[str, list[Member] | None]:
        turn, pool = divmod(number, len(pools))
        again, place = divmod(turn, len(pools[pool]))
        source = pools[pool][place]
        key = f"{file_digest(source)}:{kept_as}:{seed}:{again}"
        if f"{key}:{RUNGS - 1}" in cache:
            return key, None
        rng = np.random.default_rng((seed, int(key[:12], 16), again))
        return key, make_family(native_view(source), rng, measured=measured)

    families: list[Family] = []
    for key, members in in_order(prepare, range(count if pools else 0)):
        families.append(family_of(cache, key, members))
        if on_cached is not None:
            on_cached(len(families), count)
    return sorted(families, key=smaller_side)


def smaller_side(family: Family) -> int:
    return min(family.records[0].height, family.records[0].width)


def family_of(cache: Cache[Any], key: str, members: list[Member] | None) -> Family:
    if members is None:
        records = [cache[f"{key}:{rung}"] for rung in range(RUNGS)]
    else:
        records = [
            cache.add(f"{key}:{rung}", pixels, about=[*severities.tolist(), likeness])
            for rung, (pixels, severities, likeness) in enumerate(members)
        ]
    about = np.array([record.about for record in records], np.float32)
    return Family(records, about[:, :-1], about[:, -1])


def make_family(pixels: Pixels, rng: np.random.Generator, *, measured: bool = True) -> list[Member]:
    """A view of the picture, spoilt or not, and five rungs of one more distortion on top of it."""
    view = window_or_half(pixels, rng)
    if rng.random() < 0.5:
        # What is harmless must not come to mean "nothing wrong", so it is met on all rungs.
        view = harmless(view, rng)
    measure = likeness_to(view) if measured else None
    severities = np.zeros(4, np.float32)
    if rng.random() < SPOILT:
        view, severities = spoil(view, rng)
    ladder = graded_ladder(view, rng, without=list(severities > 0))
    rungs = [(rung.pixels, np.maximum(rung.severities, severities)) for rung in ladder.rungs]
    return [Member(*rung, measure(*rung) if measure else math.nan) for rung in rungs]


def likeness_to(reference: Pixels) -> Callable[[Pixels, Severities], float]:
    """What measures a picture of those severities, see `Family.likeness`."""
    metric = Ssimulacra2(reference)
    darken = DISTORTIONS.index("darken")

    def measure(pixels: Pixels, severities: Severities) -> float:
        known = severities[darken] == 0 and np.count_nonzero(severities) < 2
        return max(0.0, metric.score(pixels)) if known else math.nan

    return measure


def window_or_half(pixels: Pixels, rng: np.random.Generator, side: int = 384) -> Pixels:
    """Half the time a window, half the time all of it at half its size, so that distortions are
    met at both densities of detail."""
    from PIL import Image

    height, width = pixels.shape[:2]
    if rng.random() < 0.5 and min(height, width) >= 4 * SPEC.min_side:
        return np.asarray(Image.fromarray(pixels).reduce(2))
    top = rng.integers(max(1, height - side + 1))
    left = rng.integers(max(1, width - side + 1))
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def draw_families(families: Sequence[Family], count: int, rng: np.random.Generator) -> list[Family]:
    """Families that are nearly of one size, so that they can share a batch of windows.

    Args:
        families: in order of size, see `cache_families`.
    """
    near = min(len(families), NEAR * count)
    start = int(rng.integers(-near // 2, len(families) - near // 2))
    start = min(max(start, 0), len(families) - near)
    return [families[start + k] for k in rng.choice(near, count)]
