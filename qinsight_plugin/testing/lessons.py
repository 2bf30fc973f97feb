"""What a tiny model is taught: to answer in the published format, by how bright a picture is.

Brightness stands in for quality because a model of this size can see it. It is NOT quality: what a
model says that was taught this means nothing about a real picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.reasoning.model import Prompt
from qinsight_plugin.reasoning.prompts import (
    ANSWER_PREFIX,
    ask_distortion,
    ask_preference,
    ask_rating,
)
from qinsight_plugin.records import ACR_LEVELS, SEVERITIES, Image

SIDES: Final = (56, 84, 112)
"""Heights and widths of the pictures of `picture_of`, pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A question, and what to answer.

    Attributes:
        prompt: the question.
        reply: the whole of the model's turn, without the token that ends it.
        given: so much of the reply's beginning is not learnt: it is put into the model's mouth.

    Raises:
        ConfigError: the reply does not begin with what is given.
    """

    prompt: Prompt
    reply: str
    given: str = ""

    def __post_init__(self) -> None:
        if not self.reply.startswith(self.given):
            raise ConfigError(f"a lesson's reply must begin with what is given, {self.given!r}")


def picture_of(brightness: float, seed: int) -> Image:
    """A flat, shaded or noisy grey picture.

    Args:
        brightness: the mean to aim at, from 0 (black) to 1 (white); see `brightness_of`.
        seed: of its kind, its size (`SIDES`) and its noise.
    """
    random = np.random.default_rng(seed)
    height, width = random.choice(SIDES, 2)
    room = min(brightness, 1 - brightness)
    pattern = {
        "flat": np.zeros((height, width)),
        "shaded": np.broadcast_to(np.linspace(-room, room, width), (height, width)),
        "noisy": random.uniform(-room, room, (height, width)),
    }[random.choice(("flat", "shaded", "noisy"))]
    grey = np.rint(255 * (brightness + 0.8 * pattern)).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    return Image(pixels, f"<brightness {brightness:.2f}>", int(width), int(height))


def brightness_of(image: Image) -> float:
    """The mean of all values, from 0 to 1."""
    return float(image.pixels.mean()) / 255


def rating_lesson(image: Image) -> Lesson:
    """Black is 1, white is 5, in steps of a half."""
    brightness = brightness_of(image)
    thought = f"The picture is {_word(brightness)}."
    return Lesson(ask_rating(image), _reply(thought, f'{{"rating": {_rating(brightness):.2f}}}'))


def direct_lesson(image: Image) -> Lesson:
    """The same rating, without a thought."""
    answer = f"{_rating(brightness_of(image)):.2f}}}\n</answer>"
    return Lesson(ask_rating(image), ANSWER_PREFIX + answer, given=ANSWER_PREFIX)


def distortion_lesson(image: Image) -> Lesson:
    """Darkened where it is under a half, the darker the worse; else nothing is wrong."""
    brightness = brightness_of(image)
    dark = brightness < 0.5
    name = "darken" if dark else "null"
    severity = SEVERITIES[4 - int(10 * brightness)] if dark else "null"
    answer = f'{{"distortion_class": "{name}", "severity": "{severity}"}}'
    return Lesson(ask_distortion(image), _reply(f"The darkness is {severity}.", answer))


def preference_lesson(a: Image, b: Image, reference: Image | None = None) -> Lesson:
    """The brighter is better; within the same fifth of the scale they are similar."""
    levels = [_level(brightness_of(image)) for image in (a, b)]
    answer = "Similar"
    if levels[0] != levels[1]:
        answer = "Image A" if levels[0] > levels[1] else "Image B"
    first, second = (ACR_LEVELS[level] for level in levels)
    return Lesson(ask_preference(a, b, reference), _reply(f"A is {first}, B is {second}.", answer))


def brightness_lessons(count: int, *, seed: int = 0) -> list[Lesson]:
    """The four kinds of lessons in turn, every other comparison with a reference.

    Args:
        count: how many in all.
        seed: of the pictures, which are of every brightness.
    """
    random = np.random.default_rng(seed)

    def picture() -> Image:
        return picture_of(random.uniform(), int(random.integers(2**32)))

    makers: tuple[Callable[[], Lesson], ...] = (
        lambda: rating_lesson(picture()),
        lambda: direct_lesson(picture()),
        lambda: distortion_lesson(picture()),
        lambda: preference_lesson(picture(), picture()),
        lambda: rating_lesson(picture()),
        lambda: direct_lesson(picture()),
        lambda: distortion_lesson(picture()),
        lambda: preference_lesson(picture(), picture(), picture()),
    )
    return [makers[index % len(makers)]() for index in range(count)]


def _reply(thought: str, answer: str) -> str:
    return f"<think>\n{thought}\n</think>\n<answer>\n{answer}\n</answer>"


def _rating(brightness: float) -> float:
    return 1 + round(8 * brightness) / 2


def _level(brightness: float) -> int:
    return min(int(5 * brightness), 4)


def _word(brightness: float) -> str:
    return ACR_LEVELS[_level(brightness)]
