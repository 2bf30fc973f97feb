"""Times decoding and scoring, apart and together, on pictures made on the spot."""

from __future__ import annotations

import io
import statistics
from dataclasses import dataclass

from qinsight_plugin.bench.turns import Stage, take_turns
from qinsight_plugin.decode import decode
from qinsight_plugin.pipeline import Pipeline

SIZES = ((640, 480), (1152, 864), (4000, 3000))


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over `n` rounds for one size of picture.

    Attributes:
        megapixels: of the file.
        full_decode_ms: decoding every pixel, for comparison.
        decode_ms: decoding as much as the scorer looks at.
        score_ms: from those pixels to the score.
        total_ms: from the file's bytes to the score.
    """

    megapixels: float
    full_decode_ms: float
    decode_ms: float
    score_ms: float
    total_ms: float
    n: int


def measure(scorer: str, seconds: float) -> list[Timing]:
    """One timing a size. The stages take turns, so that a slow spell hits them all.

    Args:
        scorer: as for `qinsight_plugin.score`.
        seconds: time spent on each size; three rounds at least are made.
    """
    pipeline = Pipeline(scorer)
    return [measure_size(pipeline, width, height, seconds) for width, height in SIZES]


def measure_size(pipeline: Pipeline, width: int, height: int, seconds: float) -> Timing:
    data = photograph(width, height)
    image = pipeline.decode(data)
    stages: tuple[Stage, ...] = (
        lambda: decode(data),
        lambda: pipeline.decode(data),
        lambda: pipeline.score_images([image]),
        lambda: pipeline.report(data),
    )
    series = take_turns(stages, seconds)
    full, decoded, scored, total = (statistics.median(times) for times in series)
    return Timing(width * height / 1e6, full, decoded, scored, total, len(series[0]))


def photograph(width: int, height: int) -> bytes:
    """A JPEG file with a photograph's share of smooth and busy parts: noise whose power falls
    with frequency, which is what a decoder's time depends on."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    sheet = np.zeros((height, width, 3), np.float32)
    for octave in range(8):
        small = (max(2, width >> octave), max(2, height >> octave))
        noise = rng.normal(0, 1, (small[1], small[0], 3)).astype(np.float32)
        layers = [
            Image.fromarray(noise[..., c]).resize((width, height), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        sheet += 4 * 1.5**octave * np.stack([np.asarray(layer) for layer in layers], -1)
    pixels = np.clip(sheet + 128, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
