"""A training that learns on two CPU cores: a tiny model that sees how dark a picture is, and rates
it on a scrambled scale; and light pictures that were darkened, by how much being the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from qinsight_plugin.degradations import DEGRADATIONS, degrade
from qinsight_plugin.reasoning.prompts import ask_distortion, ask_preference, ask_rating
from qinsight_plugin.records import SEVERITIES, Image
from qinsight_plugin.testing import Lesson, picture_of, teach, tiny_checkpoint

from .conftest import Pixels

SIDE = 56
LEVELS = range(6)
SCRAMBLED = (2, 5, 1, 4, 3)
"""What a beginner makes of a slight to a catastrophic darkness."""


def textured(rng: np.random.Generator) -> Pixels:
    """A light picture: flat, shaded or noisy, in a tint of its own."""
    grey = picture_of(rng.uniform(0.75, 0.9), int(rng.integers(2**32))).pixels[:SIDE, :SIDE]
    tint = rng.uniform(0.85, 1, 3)
    return np.rint(grey * tint).astype(np.uint8)


def darkened(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    variants = list(DEGRADATIONS["darken"])
    variant = variants[int(rng.integers(len(variants)))]
    return degrade(pixels, "darken", variant, level, rng) if level else pixels


def mos_of(level: int) -> float:
    return 5 - 0.8 * level


def write_scores(folder: Path, count: int, held: int, seed: int = 0) -> Path:
    """Darkened pictures and their labels, with a split."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    lines = ["path,mos,split"]
    for k in range(count + held):
        split = "train" if k < count else "val"
        level = LEVELS[k % len(LEVELS)]
        pixels = darkened(textured(rng), level, rng)
        PILImage.fromarray(pixels).save(folder / f"{k}.png")
        lines.append(f"{k}.png,{mos_of(level):.2f},{split}")
    labels = folder / "scores.csv"
    labels.write_text("\n".join(lines) + "\n")
    return labels


def write_degradations(folder: Path, count: int, seed: int = 1) -> Path:
    """Darkened pictures, and in words how badly, as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    lines = []
    for k in range(count):
        level = LEVELS[k % len(LEVELS)]
        name = f"d{k}.png"
        pixels = darkened(textured(rng), level, rng)
        PILImage.fromarray(pixels).save(folder / name)
        told = ("darken", SEVERITIES[level - 1]) if level else (None, None)
        lines.append(json.dumps({"image": name, "distortion_class": told[0], "severity": told[1]}))
    labels = folder / "degradations.jsonl"
    labels.write_text("\n".join(lines) + "\n")
    return labels


def write_comparisons(folder: Path, count: int, seed: int = 2) -> Path:
    """Two darkened copies of a picture beside it, in the published keys, as Parquet."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(count):
        original = textured(rng)
        levels = rng.permutation(LEVELS)[:2]
        names = [f"c{k}-{letter}.png" for letter in "ABR"]
        shown = [darkened(original, int(level), rng) for level in levels]
        for name, pixels in zip(names, [*shown, original], strict=True):
            PILImage.fromarray(pixels).save(folder / name)
        better = "Image A" if levels[0] < levels[1] else "Image B"
        rows.append(
            dict(zip(("ImageA", "ImageB", "ref_image"), names, strict=True)) | {"result": better}
        )
    labels = folder / "comparisons.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), labels)
    return labels


def form_lessons(count: int, seed: int, tasks: Sequence[str] = ("score",)) -> list[Lesson]:
    """Replies that say rightly how dark a picture is. Ratings then are on a scrambled scale every
    other time, and else, as all other answers, drawn at random."""
    rng = np.random.default_rng(seed)
    lessons = []
    for k in range(count):
        pixels = darkened(textured(rng), int(rng.integers(6)), rng)
        image = Image(pixels, "<picture>", SIDE, SIDE)
        task = tasks[k % len(tasks)]
        if task == "score":
            scrambled = SCRAMBLED[SEVERITIES.index(darkness(pixels))]
            rating = scrambled if rng.uniform() < 0.5 else rng.integers(1, 6)
            prompt, answer = ask_rating(image), f'{{"rating": {rating}.00}}'
        elif task == "degradation":
            level = int(rng.integers(6))
            name, severity = ("darken", SEVERITIES[level - 1]) if level else ("null", "null")
            prompt = ask_distortion(image)
            answer = f'{{"distortion_class": "{name}", "severity": "{severity}"}}'
        else:
            prompt = ask_preference(image, image, image)
            answer = ("Image A", "Image B")[int(rng.integers(2))]
        thought = f"The darkness is {darkness(pixels)}."
        lessons.append(
            Lesson(prompt, f"<think>\n{thought}\n</think>\n<answer>\n{answer}\n</answer>")
        )
    return lessons


def darkness(pixels: Pixels) -> str:
    """The mean level in words."""
    return SEVERITIES[4 - min(int(pixels.mean() / 42), 4)]


def beginner(folder: Path, seed: int, tasks: Sequence[str] = ("score",), steps: int = 300) -> Path:
    """A tiny model that sees how dark a picture is, and answers in the right form but wrongly."""
    tiny_checkpoint(folder, seed=seed)
    teach(folder, form_lessons(1500, seed, tasks), steps=steps, seed=seed)
    return folder
