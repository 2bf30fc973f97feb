"""The views of a picture that training sees, and what the stem makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.decode import decode
from qinsight_plugin.labels import Labels
from qinsight_plugin.parallel import in_order
from qinsight_plugin.scorers.student import SPEC
from qinsight_plugin.student.cache import Pixels, StemCache
from qinsight_plugin.student.distort import ladder
from qinsight_plugin.student.network import Student

OnCached: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rated:
    """Rated pictures; `views[i]` are indices of picture i's views in the cache, native first."""

    cache: StemCache
    views: list[list[int]]
    mos: npt.NDArray[np.float32]
    group: npt.NDArray[np.int64]


def native_view(path: Path) -> Pixels:
    """The pixels that the scorer would see."""
    return decode(path, max_pixels=SPEC.max_pixels, min_side=SPEC.min_side).pixels


def smaller_view(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The picture at 0.5 to 0.9 of its size: halving to a pixel budget lands anywhere in an
    octave, and ratings hardly change with it."""
    from PIL import Image

    image = Image.fromarray(pixels)
    factor = max(rng.uniform(0.5, 0.9), SPEC.min_side / min(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def cache_rated(
    student: Student,
    labels: Labels,
    chosen: Sequence[int],
    *,
    jitter: int | None = None,
    on_cached: OnCached | None = None,
) -> Rated:
    """Each picture as the scorer sees it, and with `jitter`, which is a seed, a smaller one too."""

    def load(index: int) -> list[Pixels]:
        pixels = native_view(labels.paths[index])
        if jitter is None:
            return [pixels]
        return [pixels, smaller_view(pixels, np.random.default_rng((jitter, index)))]

    cache = StemCache()
    views: list[list[int]] = []
    for pixels in in_order(load, chosen):
        views.append([cache.add(student, view) for view in pixels])
        if on_cached is not None:
            on_cached(len(views), len(chosen))
    names = labels.group or ("",) * len(labels.paths)
    _, group = np.unique([names[i] for i in chosen], return_inverse=True)
    mos = np.array([labels.mos[i] for i in chosen], np.float32)
    return Rated(cache, views, mos, group.astype(np.int64))


def cache_ladders(
    student: Student, labels: Labels, train: Sequence[int], count: int, seed: int
) -> tuple[StemCache, list[list[int]]]:
    """Distortion ladders of the better half of the pictures: what is bad already shows no steps.

    Args:
        count: ladders to make, at most one a picture.

    Returns:
        the cache, and one list of six indices a ladder, best level first.
    """
    rng = np.random.default_rng((seed, 1))
    threshold = float(np.median([labels.mos[i] for i in train]))
    good = [i for i in train if labels.mos[i] >= threshold]
    sources = rng.permutation(good)[:count]

    def load(index: int) -> list[Pixels]:
        own = np.random.default_rng((seed, 2, index))
        return ladder(window_or_half(native_view(labels.paths[index]), own), own)[1]

    cache = StemCache()
    return cache, [[cache.add(student, p) for p in rungs] for rungs in in_order(load, sources)]


def window_or_half(pixels: Pixels, rng: np.random.Generator, side: int = 384) -> Pixels:
    """Half the time a window, half the time all of it at half its size, so that distortions are
    met at both densities of detail."""
    from PIL import Image

    height, width = pixels.shape[:2]
    if rng.random() < 0.5 and min(height, width) >= 2 * SPEC.min_side:
        return np.asarray(Image.fromarray(pixels).reduce(2))
    top = rng.integers(max(1, height - side + 1))
    left = rng.integers(max(1, width - side + 1))
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
