"""Answers -> what is seen: small pictures and text on the node, the map as an image, JSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import numpy.typing as npt
from PIL import Image

import qinsight_plugin as qi
from qinsight_plugin.explain import explain
from qinsight_plugin.overlay import overlay
from qinsight_plugin.report import to_row

from .asking import Answer
from .pictures import Levels, Tensor, rgb

PREVIEW_SIDE = 320
LOW, HIGH = 1.0, 5.0
"""The scale of all models that can be chosen: MOS."""


def on_node(pictures: Iterable[dict[str, str]], lines: Sequence[str]) -> dict[str, Any]:
    """The `ui` of a node: ComfyUI shows the images, web/qinsight.js the text."""
    return {"images": list(pictures), "qinsight": ["\n".join(lines)]}


def say(answers: Sequence[Answer], notes: Sequence[str] | None = None) -> list[str]:
    """A line a picture."""
    said = [phrase(answer.report) for answer in answers]
    if notes is not None:
        said = [f"{note}: {line}" for note, line in zip(notes, said, strict=True)]
    if len(said) < 2:
        return said
    return [f"{number}. {line}" for number, line in enumerate(said, 1)]


def phrase(report: qi.Report) -> str:
    """Such as "3.4 ± 0.3: obvious blur, worst on the left", or why there is no score."""
    return report.error or "not scored" if report.score is None else explain(report.score)


def preview(answer: Answer) -> list[dict[str, str]]:
    """A small picture under its quality map in ComfyUI's folder of temporary files, and where.

    Returns:
        one entry; none for a picture that is broken.
    """
    if answer.levels is None:
        return []
    small = shrunk(rgb(answer.levels))
    drawn = map_of(answer)
    return [temporary(small if drawn is None else overlay(small, drawn, LOW, HIGH))]


def map_of(answer: Answer) -> npt.NDArray[np.float32] | None:
    return None if answer.report.score is None else answer.report.score.quality_map


def shrunk(pixels: Levels) -> Levels:
    """Box means, of no more than `PREVIEW_SIDE` pixels a side; of every other row where that is
    enough, which halves the time."""
    factor = 1
    while max(pixels.shape[:2]) > factor * PREVIEW_SIDE:
        factor *= 2
    skip = 2 if factor >= 4 else 1
    rows = np.ascontiguousarray(pixels[::skip])
    return np.asarray(Image.fromarray(rows).reduce((factor, factor // skip)))


def temporary(pixels: Levels) -> dict[str, str]:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"qinsight_{uuid.uuid4().hex}.jpg"
    Image.fromarray(pixels).save(folder / name, quality=85)
    return {"filename": name, "subfolder": "", "type": "temp"}


def map_image(quality_map: npt.NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """The quality map as an IMAGE [1, H, W, 3], gray: black is MOS 1, white is MOS 5.

    Interpolated between the centres of its cells. The three channels share their memory.
    """
    import torch

    height, width = size
    values = np.clip((quality_map - LOW) / (HIGH - LOW), 0, 1).astype(np.float32)
    left, right, share = between_cells(values.shape[1], width)
    wide = values[:, left] * (1 - share) + values[:, right] * share
    upper, lower, share = between_cells(values.shape[0], height)
    gray = np.empty(size, np.float32)
    shares = np.stack([1 - share, share], 1)
    # Block by block between two rows of cells: one product of large matrices would start threads,
    # and take ten times as long where the cores are busy.
    for cell in np.unique(upper):
        rows = slice(*np.searchsorted(upper, [cell, cell + 1]))
        np.matmul(shares[rows], wide[[cell, lower[rows.start]]], out=gray[rows])
    return torch.from_numpy(gray)[None, :, :, None].expand(-1, -1, -1, 3)


@lru_cache(maxsize=16)
def between_cells(cells: int, pixels: int) -> tuple[Any, Any, Any]:
    """Of each pixel along a side: the cells on both sides of it, and the share of the second.
    Beyond the centres of the outer cells there is but one."""
    place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    first = place.astype(int)
    return first, np.minimum(first + 1, cells - 1), (place - first).astype(np.float32)


def in_json(answers: Iterable[Answer], verdicts: Iterable[qi.Verdict] | None = None) -> str:
    reports = [answer.report for answer in answers]
    decided = [None] * len(reports) if verdicts is None else list(verdicts)
    rows = [to_row(report, verdict) for report, verdict in zip(reports, decided, strict=True)]
    return in_lines(rows)


def in_lines(rows: Iterable[dict[str, Any]]) -> str:
    """A JSON list, a line a row."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"


def worst_fault(report: qi.Report) -> tuple[str, str]:
    """The worst distortion and its severity; "none" where there is none, "unknown" where the
    scorer does not look for any."""
    found = None if report.score is None else report.score.distortions
    if found is None:
        return "unknown", "unknown"
    return (found[0].name, found[0].severity) if found else ("none", "none")
