"""What TRL takes for a model's processor: in it, our own `Encoder`.

So a model in training sees a picture just as the scorer will show it: decoded, limited and scaled
by the same code. Prompts hold pictures as paths, which are opened when a batch is made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qinsight_plugin.attempts import Row
from qinsight_plugin.decode import decode
from qinsight_plugin.reasoning.encoding import Encoded, Encoder
from qinsight_plugin.reasoning.libraries import need
from qinsight_plugin.reasoning.loading import seen_pixels
from qinsight_plugin.reasoning.model import Prompt
from qinsight_plugin.reasoning.prompts import ask_distortion, ask_preference, ask_rating
from qinsight_plugin.records import Image

if TYPE_CHECKING:
    import torch

_KEPT = 16
"""Prompts kept as tensors, 24 MB for each megapixel: a group's replies ask for the same one."""


def prompt_of(row: Row, pixels: int) -> Prompt:
    """The question that a row asks, its pictures decoded.

    Raises:
        ImageError: a picture cannot be decoded.
    """
    return question(row, [decode(path, max_pixels=seen_pixels(pixels)) for path in row.pictures])


def question(row: Row, pictures: Sequence[Image]) -> Prompt:
    """The question that a row asks, to the letter of `reasoning.prompts`."""
    if row.task == "score":
        return ask_rating(pictures[0])
    if row.task == "degradation":
        return ask_distortion(pictures[0])
    return ask_preference(*pictures)


def messages_of(row: Row) -> list[dict[str, Any]]:
    """The same as a conversation for TRL, in which a picture is its path."""
    import numpy as np

    # A question is made of any pictures; what stands for them is put in by its place.
    blank = Image(np.zeros((1, 1, 3), np.uint8), "", 1, 1)
    prompt = question(row, [blank] * len(row.pictures))
    order = iter(shown_order(row))
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": os.fspath(next(order))}
        for part in prompt.parts
    ]
    return [
        {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
        {"role": "user", "content": parts},
    ]


def shown_order(row: Row) -> tuple[Path, ...]:
    """The pictures in the order in which they stand in the prompt: the reference comes first."""
    return (*row.pictures[2:], *row.pictures[:2])


def make_processor(encoder: Encoder) -> Any:
    """A `transformers.ProcessorMixin` around an encoder, with what TRL's trainer calls of one."""
    transformers = need("transformers")

    @lru_cache(maxsize=_KEPT)
    def encoded(text: str, paths: tuple[str, ...]) -> Encoded:
        pictures = [decode(path, max_pixels=seen_pixels(encoder.pixels)) for path in paths]
        return encoder.encode_text(text, pictures)

    class Processor(transformers.ProcessorMixin):  # type: ignore[misc, name-defined]
        """The class must be a subclass, for TRL asks whether it is."""

        def __init__(self) -> None:
            self.tokenizer = encoder.tokenizer
            self.image_processor = encoder.images
            self.chat_template = encoder.tokenizer.chat_template

        @property
        def model_input_names(self) -> list[str]:
            return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]

        def apply_chat_template(
            self, conversation: Sequence[Any], *, tokenize: bool = False, **_: Any
        ) -> Any:
            """The text of one conversation, or of several their tokens and patches."""
            if not tokenize:
                return encoder.text(_prompt(conversation))
            rows = [encoded(encoder.text(_prompt(one)), tuple(_paths(one))) for one in conversation]
            batch = encoder.batch(rows, [()] * len(rows))
            tokens = [row.tokens for row in rows]
            kinds = [[int(t == encoder.image_token) for t in row] for row in tokens]
            return {"input_ids": tokens, "mm_token_type_ids": kinds, **_shown(batch)}

        def __call__(
            self, images: Sequence[Sequence[str]], text: Sequence[str], **_: Any
        ) -> Mapping[str, torch.Tensor]:
            """Rendered prompts, filled up on the left."""
            rows = [encoded(t, tuple(paths)) for t, paths in zip(text, images, strict=True)]
            batch: Mapping[str, torch.Tensor] = transformers.BatchFeature(
                encoder.batch(rows, [()] * len(rows))
            )
            return batch

        def batch_decode(self, *arguments: Any, **settings: Any) -> list[str]:
            texts: list[str] = self.tokenizer.batch_decode(
                *arguments, clean_up_tokenization_spaces=False, **settings
            )
            return texts

        def save_pretrained(self, folder: str | os.PathLike[str], **_: Any) -> None:
            self.tokenizer.save_pretrained(folder)
            self.image_processor.save_pretrained(folder)

    return Processor()


def _prompt(conversation: Sequence[Mapping[str, Any]]) -> Prompt:
    """A conversation as a prompt whose pictures are still paths: enough for its text."""
    system, user = conversation
    parts = [part["text"] if part["type"] == "text" else part for part in user["content"]]
    return Prompt(system["content"][0]["text"], tuple(parts))


def _paths(conversation: Sequence[Mapping[str, Any]]) -> list[str]:
    return [part["image"] for part in conversation[1]["content"] if part["type"] == "image"]


def _shown(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("pixel_values", "image_grid_thw")}
