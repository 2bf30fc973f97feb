"""The views of rated pictures that training sees, and what the stem makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.decode import decode
from qinsight_plugin.errors import ImageError, LabelsError, QInsightError, one_line
from qinsight_plugin.labels import Labels
from qinsight_plugin.parallel import in_order
from qinsight_plugin.scorers.student import SPEC
from qinsight_plugin.student.cache import Cache, Pixels, Record
from qinsight_plugin.tables import first_few

OnCached: TypeAlias = Callable[[int, int], None]
Vector: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RatedSet:
    """Pictures to learn from, rated together on one scale.

    Attributes:
        labels: the ratings.
        chosen: indices into them.
        weight: reliability of each rating of `labels`, 0 to 1; None: all 1.
        severities: float32 [N, 4] of all pictures of `labels`, NaN where not known; None: none is.
    """

    labels: Labels
    chosen: Sequence[int]
    weight: Vector | None = None
    severities: Vector | None = None


@dataclass(frozen=True, slots=True)
class Rated:
    """Rated pictures in the cache; item i of every field is about picture i.

    Attributes:
        views: stem outputs of each picture's views, native first.
        mos: float32 [N], on the picture's set's own scale.
        variance: float32 [N], squared spread of the opinions; 0 where not known.
        weight: float32 [N], reliability of the rating, 0 to 1.
        severities: float32 [N, 4], NaN where not known.
        group: int64 [N]: pictures that were rated together; no group spans two sets.
        scale: int64 [N]: the set.
    """

    views: list[list[Record]]
    mos: Vector
    variance: Vector
    weight: Vector
    severities: Vector
    group: npt.NDArray[np.int64]
    scale: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.views)


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, so that the cache knows a picture whatever its name."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LabelsError(f"cannot read {path}: {error.strerror}; check the file") from error


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
    cache: Cache[Any],
    sets: Sequence[RatedSet],
    *,
    jitter: int | None = None,
    on_cached: OnCached | None = None,
) -> Rated:
    """Each picture as the scorer sees it, to be measured on; with `jitter`, which is a seed, to be
    learnt from, and a smaller one too.

    What the cache holds is not decoded again.

    Raises:
        LabelsError: pictures cannot be used; all of them are counted.
    """

    def try_to_load(path: Path) -> list[tuple[str, Pixels | None]] | QInsightError:
        try:
            return load(path)
        except (ImageError, LabelsError) as error:
            if isinstance(error.__cause__, MemoryError):  # the machine's fault, not the picture's
                raise
            return error

    def load(path: Path) -> list[tuple[str, Pixels | None]]:
        digest = file_digest(path)
        keys = [f"{digest}:native"]
        if jitter is not None:
            keys.append(f"{digest}:smaller:{jitter}")
        if all(key in cache for key in keys):
            return [(key, None) for key in keys]
        native = native_view(path)
        rng = np.random.default_rng((jitter or 0, int(digest[:12], 16)))
        views = [native, smaller_view(native, rng)][: len(keys)]
        return list(zip(keys, views, strict=True))

    paths = [rated.labels.paths[i] for rated in sets for i in rated.chosen]
    views: list[list[Record]] = []
    errors: list[QInsightError] = []
    for loaded in in_order(try_to_load, paths):
        if isinstance(loaded, QInsightError):
            errors.append(loaded)
            continue
        views.append([cache.have(key, pixels, exact=jitter is None) for key, pixels in loaded])
        if on_cached is not None:
            on_cached(len(views), len(paths))
    if errors:
        raise LabelsError(
            f"{len(errors)} of {len(paths)} pictures cannot be learnt from: "
            f"{first_few([one_line(error) for error in errors])}: mend or convert them, or take "
            "their rows out of the labels"
        ) from errors[0]
    return with_ratings(views, sets)


def with_ratings(views: list[list[Record]], sets: Sequence[RatedSet]) -> Rated:
    columns: dict[str, list[npt.NDArray[np.generic]]] = {}
    names: list[tuple[int, str]] = []
    for scale, rated in enumerate(sets):
        labels, chosen = rated.labels, list(rated.chosen)
        count = len(labels.paths)
        spread = np.array(labels.std or [0.0] * count, np.float32)
        weight = np.ones(count, np.float32) if rated.weight is None else rated.weight
        unknown = np.full((count, 4), np.nan, np.float32)
        severities = unknown if rated.severities is None else rated.severities
        for name, column in (
            ("mos", np.array(labels.mos, np.float32)),
            ("variance", spread**2),
            ("weight", weight),
            ("severities", severities),
            ("scale", np.full(count, scale)),
        ):
            columns.setdefault(name, []).append(column[chosen])
        groups = labels.group or ("",) * count
        names += [(scale, groups[i]) for i in chosen]
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    group = np.array([order[name] for name in names], np.int64)
    return Rated(views, **{k: np.concatenate(v) for k, v in columns.items()}, group=group)
