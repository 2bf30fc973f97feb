"""A third party's plugin that uses every hook, as its author would write it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image

from qinsight_plugin import Gate, Report, Verdict, hookimpl
from qinsight_plugin.attempts import Attempt, RewardSpec
from qinsight_plugin.records import EncoderSpec, Image, Score, ScorerSpec, Source


class Brightness:
    """Scores the mean level; answers nonsense for pictures that are all one colour."""

    def __init__(self, argument: str) -> None:
        self.spec = SPEC
        self.gain = float(argument or 1)

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        return [
            Score(float("nan") if np.ptp(i.pixels) == 0 else self.gain * float(i.pixels.mean()))
            for i in images
        ]


SPEC = ScorerSpec("brightness", Brightness, "mean level of all pixels", range=(0.0, 255.0))


@hookimpl
def qinsight_register_scorers(register: Callable[[ScorerSpec], None]) -> None:
    register(SPEC)


class Posterise:
    """An encoder of its own: as many levels as the quality factor says, as a PNG file."""

    version = "1"

    def encode(self, picture: PIL.Image.Image, quality_factor: int) -> bytes:
        buffer = io.BytesIO()
        picture.quantize(quality_factor).save(buffer, "PNG")
        return buffer.getvalue()

    def decode(self, data: bytes) -> PIL.Image.Image:
        return PIL.Image.open(io.BytesIO(data)).convert("RGB")


@hookimpl
def qinsight_register_encoders(register: Callable[[EncoderSpec], None]) -> None:
    register(EncoderSpec("posterise", lambda _: Posterise(), "a palette", ".png", range(2, 257)))


@hookimpl
def qinsight_decode_image(source: Source) -> Image | None:
    """A format of its own: `flat:LEVEL` is a gray picture."""
    if not (isinstance(source, str) and source.startswith("flat:")):
        return None
    level = int(source.removeprefix("flat:"))  # a ValueError is this plugin's bug, kept for tests
    pixels = np.full((64, 64, 3), level, np.uint8)
    pixels[0] = 255 - level
    return Image(pixels, source, 64, 64, format="FLAT")


@hookimpl
def qinsight_score_images(images: Sequence[Image]) -> list[Score] | None:
    """A cache that knows one picture."""
    return [Score(4.75)] if [image.source for image in images] == ["flat:7"] else None


@hookimpl
def qinsight_enrich_report(image: Image) -> Mapping[str, Any]:
    return {"sample": {"mean": round(float(image.pixels.mean()), 3)}}


@hookimpl
def qinsight_judge_report(report: Report, gate: Gate) -> Verdict | None:
    """House policy: nothing called vip is ever turned away."""
    if "vip" in report.source:
        return Verdict(report.source, True, ("very important picture",))
    return None


@hookimpl
def qinsight_report_ready(report: Report, verdict: Verdict | None) -> None:
    if path := os.environ.get("SAMPLE_LOG"):
        accepted = None if verdict is None else verdict.accepted
        with Path(path).open("a") as log:
            log.write(json.dumps([report.source, accepted]) + "\n")


def brevity(attempts: Sequence[Attempt], *, length: float) -> list[float]:
    """The shorter the better; told to, it divides by nothing, as a plugin with a bug would."""
    if os.environ.get("SAMPLE_REWARD_FAILS"):
        return [length / 0 for _ in attempts]
    return [length / (length + len(one.reply)) for one in attempts]


@hookimpl
def qinsight_register_rewards(register: Callable[[RewardSpec], None]) -> None:
    register(RewardSpec("brevity", brevity, ("score",), "short replies", {"length": 100}))


@hookimpl
def qinsight_training_step(step: int, metrics: Mapping[str, float]) -> None:
    if path := os.environ.get("SAMPLE_LOG"):
        with Path(path).open("a") as log:
            log.write(json.dumps([step, sorted(metrics)]) + "\n")


@hookimpl
def qinsight_register_commands(cli: click.Group) -> None:
    @cli.command("hello")
    def hello() -> None:
        """Say hello, from a plugin."""
        click.echo("hello from the sample plugin")
