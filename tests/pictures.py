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


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    Image.fromarray(skimage.data.astronaut()).save(FOLDER / "astronaut.jpg", quality=95)
    draw(FOLDER / "scores.jpg")


if __name__ == "__main__":
    main()
