"""In which order rows are asked about, laid out before training starts.

So what has been asked by a step is known from the step alone, and a run that goes on skips it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


def schedule(
    sizes: Sequence[int], weights: Sequence[float | None], count: int, seed: int
) -> list[tuple[int, int]]:
    """What to ask about, in order.

    Every set goes through its rows in a new random order each time. The sets are spread as evenly
    as their shares allow, so that every batch has the stated mix.

    Args:
        sizes: rows of each set, 1 or more.
        weights: of each set; None in all: by size, so that each row comes as often as any other.
        count: how many.
        seed: of the orders.

    Returns:
        `count` pairs of set and row.
    """
    shares = [
        float(size) if weight is None else weight
        for size, weight in zip(sizes, weights, strict=True)
    ]
    endless = [_endless(size, random.Random(f"{seed} {k}")) for k, size in enumerate(sizes)]
    total, given = sum(shares), [0] * len(sizes)
    order = []
    for done in range(1, count + 1):
        # The set that is furthest behind its share.
        owing = [share / total * done - had for share, had in zip(shares, given, strict=True)]
        chosen = max(range(len(sizes)), key=lambda k: owing[k])
        given[chosen] += 1
        order.append((chosen, next(endless[chosen])))
    return order


def _endless(size: int, rng: random.Random) -> Iterator[int]:
    rows = list(range(size))
    while True:
        rng.shuffle(rows)
        yield from rows
