"""Small pictures, and a student of random weights, on which the tests train."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image as PILImage
from torch import nn

from qinsight_plugin.scorers.student import SHIPPED_WEIGHTS
from qinsight_plugin.student.export import load_student
from qinsight_plugin.student.network import Student
from qinsight_plugin.student.recipe import FROM_STUDENT, Recipe, read_recipe

from .conftest import Pixels

BLURS = 8
"""Degrees of blur, 0 none."""


def toy_student(seed: int = 0) -> Student:
    """Random weights under which signals keep their size (He et al., ICCV 2015): untrained, its
    features still tell blurred pictures from sharp ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = Student()
        for layer in student.features.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return student.eval()


def seeing_student() -> Student:
    """The features of the shipped student, under heads that know nothing."""
    student = toy_student()
    student.features = load_student(SHIPPED_WEIGHTS)[0].features
    return student


def toy_recipe(**changes: Any) -> Recipe:
    """The shipped recipe for pictures of one's own, with few families and small batches."""
    few: dict[str, Any] = {"epochs": 2.0, "batch": 8, "families": 2, "checkpoint_seconds": 0.0}
    return dataclasses.replace(read_recipe(FROM_STUDENT), **(few | changes))


def blurred_windows(count: int, side: int = 64) -> list[tuple[Pixels, int]]:
    """Windows of a photograph, and how blurred each is, 0 to 7 in turn."""
    photograph = skimage.data.astronaut()
    rng = np.random.default_rng(0)
    made = []
    for k in range(count):
        top, left = rng.integers(0, len(photograph) - side, 2)
        window = PILImage.fromarray(photograph[top : top + side, left : left + side])
        small = round(side / (1 + 0.9 * (k % BLURS)))
        blurred = window.resize((small, small)).resize((side, side))
        made.append((np.asarray(blurred), k % BLURS))
    return made


def write_pictures(folder: Path, count: int, side: int = 64) -> list[tuple[str, int]]:
    """`blurred_windows` as files; their names, and how blurred they are."""
    folder.mkdir(exist_ok=True)
    named = []
    for k, (pixels, blur) in enumerate(blurred_windows(count, side)):
        PILImage.fromarray(pixels).save(folder / f"{k}.png")
        named.append((f"{k}.png", blur))
    return named


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path
