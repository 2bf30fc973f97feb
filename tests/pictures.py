"""Makes the README's pictures: `python -m tests.pictures`. A test compares the scores in them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import skimage.data
import skimage.filters
import skimage.util
from PIL import Image, ImageDraw, ImageFont

import qinsight_plugin
from qinsight_plugin.explain import explain
from qinsight_plugin.overlay import overlay

from .conftest import ROOT, Pixels

FOLDER = ROOT / ".github" / "pictures"
PANEL = 300


def panels() -> dict[str, Pixels]:
    """A photograph, and four ways to spoil it, by skimage and Pillow."""
    photograph: Pixels = skimage.data.astronaut()
    blurred = skimage.filters.gaussian(photograph, 3, channel_axis=-1)
    noisy = skimage.util.random_noise(photograph, var=0.02, rng=0)
    buffer = io.BytesIO()
    Image.fromarray(photograph).save(buffer, "JPEG", quality=8)
    return {
        "as it is": photograph,
        "blur": skimage.util.img_as_ubyte(blurred),
        "noise": skimage.util.img_as_ubyte(noisy),
        "JPEG at 8": np.asarray(Image.open(buffer)),
        "darkened": (photograph * 0.25).astype(np.uint8),
    }


def captions() -> list[str]:
    return [f"{name}: {qinsight_plugin.score(p).value:.2f}" for name, p in panels().items()]


def draw(path: Path) -> None:
    font = ImageFont.load_default(size=24)
    strip = Image.new("RGB", (PANEL * 5 + 4 * 8, PANEL + 44), "white")
    pen = ImageDraw.Draw(strip)
    for column, (caption, pixels) in enumerate(zip(captions(), panels().values(), strict=True)):
        left = column * (PANEL + 8)
        # A crop, not a reduced picture: reducing would hide what the scores are about.
        strip.paste(Image.fromarray(pixels).crop((100, 0, 100 + PANEL, PANEL)), (left, 0))
        pen.text((left + PANEL // 2, PANEL + 22), caption, "black", font, anchor="mm")
    strip.save(path, quality=90)


def faulty() -> Pixels:
    """The photograph, its right third out of focus."""
    photograph = skimage.data.astronaut()
    blurred = skimage.util.img_as_ubyte(skimage.filters.gaussian(photograph, 4, channel_axis=-1))
    edge = photograph.shape[1] * 2 // 3
    picture: Pixels = np.concatenate([photograph[:, :edge], blurred[:, edge:]], 1)
    return picture


def fault() -> str:
    """What the student says of it."""
    score = qinsight_plugin.score(faulty()).score
    assert score is not None
    return explain(score)


def draw_fault(path: Path) -> None:
    """The picture, and beside it its quality map."""
    picture = faulty()
    score = qinsight_plugin.score(picture).score
    assert score is not None
    assert score.quality_map is not None
    shown = overlay(picture, score.quality_map)
    pair = Image.new("RGB", (2 * shown.shape[1] + 8, shown.shape[0]), "white")
    pair.paste(Image.fromarray(picture), (0, 0))
    pair.paste(Image.fromarray(shown), (shown.shape[1] + 8, 0))
    pair.save(path, quality=90)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    Image.fromarray(skimage.data.astronaut()).save(FOLDER / "astronaut.jpg", quality=95)
    draw(FOLDER / "scores.jpg")
    draw_fault(FOLDER / "fault.jpg")


if __name__ == "__main__":
    main()
