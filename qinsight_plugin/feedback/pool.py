"""Which of a folder's pictures a study asks about: first some that stand for all of it, then those
of which an answer would teach the student most."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from qinsight_plugin.errors import ImageError, MissingExtraError
from qinsight_plugin.feedback.coverage import LOOKED_AT, describe, diverse
from qinsight_plugin.feedback.showing import HEIC_SUFFIXES, pixels_of
from qinsight_plugin.feedback.store import Store
from qinsight_plugin.parallel import in_order
from qinsight_plugin.suffixes import SUFFIXES

CANDIDATES = 2000
"""Pictures that are looked at, drawn at random from a larger folder."""

FIRST = 100
"""Pictures chosen to cover the folder, before the student has a say."""

Doubt: TypeAlias = Callable[[Sequence[str]], list[int]]
"""Paths -> their indices by how much an answer would teach, most first."""


def pictures_of(folder: Path) -> list[str]:
    """The pictures in a folder and below it, from it, in order; hidden ones left out."""
    wanted = SUFFIXES | HEIC_SUFFIXES
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside_of = Path(parent).relative_to(folder)
        names = (n for n in sorted(files) if not n.startswith("."))
        found += [(inside_of / n).as_posix() for n in names if Path(n).suffix.lower() in wanted]
    return found


def fill_pool(
    store: Store,
    folder: Path,
    listing: Sequence[str],
    wanted: int,
    doubt: Doubt,
    on_looked: Callable[[str, str | None], None],
) -> None:
    """Bring the store's pool to `wanted` pictures, as far as the folder has them.

    What is in the pool stays, so that a study that goes on, or is enlarged, keeps its order.

    Args:
        listing: the folder's pictures, from it.
        on_looked: told of each picture that was looked at, and why it cannot be used, or None.
    """
    pool = store.pool()
    known = set(pool)
    fresh = [path for path in listing if path not in known]
    if len(pool) >= wanted or not fresh:
        return
    count = max(CANDIDATES, 2 * wanted)
    drawn = random.Random(0).sample(fresh, count) if len(fresh) > count else fresh

    def look(path: str) -> tuple[str, np.ndarray | None, str | None]:
        try:
            return path, describe(pixels_of(folder / path, LOOKED_AT)), None
        except (ImageError, MissingExtraError) as error:
            return path, None, str(error)

    usable, features = [], []
    for path, feature, error in in_order(look, drawn):
        on_looked(path, error)
        if feature is not None:
            usable.append(path)
            features.append(feature)
    if not usable:
        return
    first = min(max(FIRST - len(pool), 0), wanted - len(pool))
    chosen = diverse(np.array(features), first) if first else []
    store.extend_pool([usable[k] for k in chosen], "covers the folder")
    missing = wanted - len(pool) - len(chosen)
    rest = [path for k, path in enumerate(usable) if k not in set(chosen)]
    if missing > 0 and rest:
        store.extend_pool([rest[k] for k in doubt(rest)[:missing]], "the student is unsure")
