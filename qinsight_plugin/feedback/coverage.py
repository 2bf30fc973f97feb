"""Which pictures to ask about first, so that a hundred of them stand for the folder.

A picture is described by where its colours and edges lie: enough to tell kinds of pictures apart,
quick enough for thousands, and no model's opinion of their quality.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.Image

from qinsight_plugin._imports import require

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

Matrix: TypeAlias = npt.NDArray[np.float64]

LOOKED_AT = 256 * 256
"""Pixels that a description needs, at most: decoding stops there."""

_SIDE, _CELLS, _BINS = 64, 4, 8


def describe(pixels: Pixels) -> npt.NDArray[np.float64]:
    """[176]: mean colour in 4 x 4 cells, and in each the strength of edges in 8 directions."""
    small = PIL.Image.fromarray(pixels).resize((_SIDE, _SIDE), PIL.Image.Resampling.BOX)
    colour = np.asarray(small, np.float64) / 255
    layout = _by_cell(colour).mean(1)
    down, across = np.gradient(colour.mean(-1))
    strength = np.hypot(down, across)
    direction = np.floor(np.arctan2(down, across) % np.pi / np.pi * _BINS).astype(int) % _BINS
    edges = _by_cell(strength[..., None] * (direction[..., None] == np.arange(_BINS))).sum(1)
    edges = np.sqrt(edges / max(edges.sum(), 1e-9))  # Hellinger: a strong edge is not all there is
    described: npt.NDArray[np.float64] = np.concatenate([layout.ravel(), edges.ravel()])
    return described


def _by_cell(plane: Matrix) -> Matrix:
    """[64, 64, C] -> [16 cells, 256 pixels, C]."""
    step = _SIDE // _CELLS
    cells: Matrix = plane.reshape(_CELLS, step, _CELLS, step, -1).swapaxes(1, 2)
    return cells.reshape(_CELLS**2, step**2, -1)


def clusters(features: Matrix, count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """[n]: the cluster of each row, by k-means++; some numbers may be of no row."""
    vq = require("scipy.cluster.vq", package="scipy", extra="label", purpose="grouping pictures")
    scaled = _scaled(features)
    count = min(count, len(np.unique(scaled, axis=0)))  # copies of one picture make one cluster
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a cluster that lost its last row
        _, found = vq.kmeans2(scaled, count, minit="++", seed=seed)
    return np.asarray(found, np.int64)


def _scaled(features: Matrix) -> Matrix:
    """Colours and edges with equal say."""
    colour, edges = features[:, : 3 * _CELLS**2], features[:, 3 * _CELLS**2 :]
    parts = (colour, edges)
    scaled: Matrix = np.hstack([p / max(p.std(0).mean(), 1e-9) / p.shape[1] ** 0.5 for p in parts])
    return scaled


def diverse(features: Matrix, count: int, seed: int = 0) -> list[int]:
    """Rows that stand for all: of each of `count` clusters the one nearest its centre, large
    clusters first."""
    if len(features) <= count:
        return list(range(len(features)))
    found, scaled = clusters(features, count, seed), _scaled(features)
    groups = sorted((np.flatnonzero(found == k) for k in np.unique(found)), key=len, reverse=True)
    chosen = []
    for rows in groups:
        distance = np.linalg.norm(scaled[rows] - scaled[rows].mean(0), axis=1)
        chosen.append(int(rows[distance.argmin()]))
    while len(chosen) < count:  # pictures that are all alike make fewer clusters
        nearest = np.linalg.norm(scaled[:, None] - scaled[None, chosen], axis=2).min(1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def least_sure(
    scores: Sequence[float], uncertainty: Sequence[float], teacher: Sequence[float] | None = None
) -> list[int]:
    """Rows by how much an answer would teach the student, most first: how unsure it is, and how far
    it is from its teacher where there is one; each by rank, since the two have no common unit."""
    doubt = _rank(np.asarray(uncertainty, np.float64))
    if teacher is not None:
        apart = np.abs(np.asarray(scores) - np.asarray(teacher))
        doubt = np.maximum(doubt, _rank(apart))
    return [int(k) for k in np.argsort(-doubt, kind="stable")]


def _rank(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return order / max(1, len(values) - 1)
