"""Prompts as the tensors that a model takes.

What `AutoProcessor` does for the Qwen-VL families, without it: the half of their processors that
reads videos needs torchvision, without which the whole does not load (transformers 4.57 to 5.23),
and with which pictures would be resized by another algorithm than Q-Insight was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qinsight_plugin.errors import ConfigError, ScorerError
from qinsight_plugin.reasoning.model import Prompt
from qinsight_plugin.records import Image

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A prompt as a model reads it.

    Attributes:
        tokens: ids, with one placeholder for each token that a picture takes.
        pictures: `pixel_values`, float32 [patches, values], and `image_grid_thw`, int64
            [pictures, 3], the patches in time, height and width.
        notes: how pictures were scaled.
    """

    tokens: list[int]
    pictures: Mapping[str, torch.Tensor]
    notes: tuple[str, ...]


class Encoder:
    """A checkpoint's tokenizer and image processor. Safe to use from several threads.

    Args:
        tokenizer: with a chat template.
        images: an image processor that cuts pictures into a grid, as Qwen-VL's do.
        image_token: the id of the placeholder for a picture's tokens.
        pixels: what a picture is scaled down to at most.
    """

    def __init__(self, tokenizer: Any, images: Any, image_token: int, pixels: int) -> None:
        self.tokenizer = tokenizer
        self.images = images
        self.pixels = pixels
        self.image_token = image_token
        # The first call settles how the tokenizer pads; later ones change nothing in it, which is
        # what lets threads share it.
        self.ids("")

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, nothing added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def next_ids(self, prefix: str, choices: Sequence[str]) -> tuple[list[int], list[int]]:
        """The tokens of `prefix`, and the one with which each of `choices` would go on.

        Raises:
            ConfigError: one of them would not be a token of its own there.
        """
        before = self.ids(prefix)
        after = []
        for choice in choices:
            whole = self.ids(prefix + choice)
            if whole[:-1] != before:
                raise ConfigError(
                    f"{choice!r} after {prefix!r} is not one token to this model: ask for choices "
                    "that are, after a prefix that ends where a token does"
                )
            after.append(whole[-1])
        return before, after

    def encode(self, prompt: Prompt) -> Encoded:
        """The tokens and patches of one prompt, up to the model's turn.

        Raises:
            ScorerError: the model cannot take one of its pictures, there is none, or the text has a
                placeholder of the model's.
        """
        pictures = [part for part in prompt.parts if not isinstance(part, str)]
        return self.encode_text(self.text(prompt), pictures)

    def encode_text(self, text: str, pictures: Sequence[Image]) -> Encoded:
        """The same of a conversation in the model's own template, and the pictures in it."""
        if not pictures:  # without one these models number the padding too, and depend on it
            raise ScorerError("a prompt shows no picture: put one among its parts")
        seen, counts, notes = self._look(pictures)
        ids = self.ids(text)
        if ids.count(self.image_token) != len(pictures):
            raise ScorerError("a prompt's text holds the model's placeholder for a picture")
        left = iter(counts)
        tokens = [t for i in ids for t in ([i] * next(left) if i == self.image_token else [i])]
        return Encoded(tokens, seen, notes)

    def batch(
        self, rows: Sequence[Encoded], after: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """Several prompts, each with the tokens that come after it, filled up on the left.

        Returns:
            `input_ids`, `attention_mask` and `mm_token_type_ids` (1 at pictures), int64 [B, T], and
            what the pictures are, one after the other.
        """
        import torch

        whole = [[*row.tokens, *more] for row, more in zip(rows, after, strict=True)]
        length = max(len(tokens) for tokens in whole)
        gaps = [length - len(tokens) for tokens in whole]
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * gap + t for gap, t in zip(gaps, whole, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * (length - gap) for gap in gaps])
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self.image_token).long(),
            **{
                name: torch.cat([row.pictures[name] for row in rows])
                for name in ("pixel_values", "image_grid_thw")
            },
        }

    def text(self, prompt: Prompt) -> str:
        """The conversation in the model's own template."""
        parts: list[dict[str, str]] = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in prompt.parts
        ]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
            {"role": "user", "content": parts},
        ]
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text

    def _look(
        self, pictures: Sequence[Image]
    ) -> tuple[Mapping[str, torch.Tensor], list[int], tuple[str, ...]]:
        """What the model sees of the pictures, the tokens that each takes, and the notes."""
        from PIL import Image as PILImage

        try:
            seen = self.images(
                images=[PILImage.fromarray(picture.pixels) for picture in pictures],
                return_tensors="pt",
            )
        except ValueError as error:  # sides more unequal than 1 to 200
            reason = str(error).partition("\n")[0]
            names = ", ".join(picture.source for picture in pictures)
            raise ScorerError(f"the model cannot take {names}: {reason}") from error
        grids = [[int(n) for n in grid] for grid in seen["image_grid_thw"]]
        counts = [t * h * w // self.images.merge_size**2 for t, h, w in grids]
        notes = []
        for picture, (_, rows, columns) in zip(pictures, grids, strict=True):
            if note := self._scaled(picture, rows, columns):
                notes.append(note if len(pictures) == 1 else f"{picture.source}: {note}")
        shown = {name: seen[name] for name in ("pixel_values", "image_grid_thw")}
        return shown, counts, tuple(notes)

    def _scaled(self, picture: Image, rows: int, columns: int) -> str:
        """A note where a picture was scaled by more than rounding its sides to whole tokens."""
        patch = self.images.patch_size
        token = patch * self.images.merge_size
        height, width = picture.pixels.shape[:2]
        seen_height, seen_width = rows * patch, columns * patch
        if max(abs(seen_height - height), abs(seen_width - width)) <= token // 2:
            return ""
        return f"scaled to {seen_width}x{seen_height} for the model"
