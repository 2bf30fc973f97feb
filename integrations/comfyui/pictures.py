"""ComfyUI's IMAGE tensors -> the 8-bit pictures that its SaveImage would write.

A node gets a list of tensors [B, H, W, C], float 0 to 1; the sizes may differ from item to item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.decode import decode
from qinsight_plugin.errors import ConfigError, ImageDecodeError
from qinsight_plugin.records import Image

Tensor: TypeAlias = Any
Levels: TypeAlias = "npt.NDArray[np.uint8]"

CHANNELS = (1, 3, 4)
_STRIP = 1 << 16  # pixels


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture of a node's input.

    Attributes:
        name: what reports and errors call it: "image 2 of 5".
        batch: the tensor [B, H, W, C] in which it lies.
        item: which of the node's tensors that is, counted from 0.
        frame: its place in the tensor.
    """

    name: str
    batch: Tensor
    item: int
    frame: int

    @property
    def tensor(self) -> Tensor:
        """[1, H, W, C]."""
        return self.batch[self.frame : self.frame + 1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.batch.shape[1], self.batch.shape[2]


def pictures_of(images: Sequence[Tensor], name: str = "image") -> list[Picture]:
    """The pictures of a node's input, in order.

    Raises:
        ImageDecodeError: a tensor is no batch of pictures.
    """
    for tensor in images:
        shape = tuple(getattr(tensor, "shape", ()))
        if len(shape) != 4 or shape[3] not in CHANNELS or 0 in shape[1:]:
            raise ImageDecodeError(
                f"{name} has the shape {list(shape)}, which is no batch of pictures: connect "
                "[B, H, W, C] with 1, 3 or 4 channels"
            )
    places = [(item, frame) for item, t in enumerate(images) for frame in range(t.shape[0])]
    return [
        Picture(f"{name} {number} of {len(places)}", images[item], item, frame)
        for number, (item, frame) in enumerate(places, 1)
    ]


def require_some(pictures: Sequence[Picture]) -> Sequence[Picture]:
    """
    Raises:
        ConfigError: there are none.
    """
    if not pictures:
        raise ConfigError("the batch of images is empty: connect at least one picture")
    return pictures


def levels_of(picture: Picture) -> Levels:
    """The first of what `read` gives."""
    return read(picture)[0]


def read(picture: Picture) -> tuple[Levels, object]:
    """uint8 [H, W, C], clipped and truncated as SaveImage does: that is the picture to be judged.
    And a fingerprint of it, in this process only: another picture has it by a chance of 2**-64.

    Raises:
        ImageDecodeError: a value is NaN or infinite.
    """
    frame = picture.batch[picture.frame].detach().cpu()
    if str(frame.dtype) == "torch.bfloat16":  # NumPy has none
        frame = frame.float()
    samples = frame.numpy()
    levels = np.empty(samples.shape, np.uint8)
    marks: list[object] = [levels.shape]
    # So few rows at a time that what is made of them stays in the cache.
    step = max(1, _STRIP // levels.shape[1])
    for top in range(0, len(levels), step):
        rows = slice(top, top + step)
        strip = samples[rows] * 255.0
        low, high = strip.min(), strip.max()
        # NaN makes both NaN, and compares false with everything.
        if not (low > -np.inf and high < np.inf):
            raise ImageDecodeError(
                f"{picture.name} holds NaN or infinite values, as a VAE leaves them that overflows "
                "in half precision: start ComfyUI with --fp32-vae or --bf16-vae"
            )
        if low < 0 or high > 255:
            np.clip(strip, 0, 255, out=strip)
        levels[rows] = strip
        marks.append(hash(levels[rows].tobytes()))
    return levels, tuple(marks)


def source_of(picture: Picture, levels: Levels) -> Image:
    """What to give to the scorer.

    Transparent pictures go through the package's own alpha rule, as their PNG file would.
    """
    if levels.shape[2] == 4:
        return replace(decode(levels, limit=levels.size), source=picture.name)
    height, width = picture.size
    return Image(rgb(levels), picture.name, width, height)


def rgb(levels: Levels) -> Levels:
    """Gray repeated, alpha left out."""
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels[..., :3]


def kept(pictures: Iterable[Picture]) -> list[Tensor]:
    """These pictures as tensors, each batch's in one tensor, in the order of the batches."""
    chosen: dict[int, list[Picture]] = {}
    for picture in pictures:
        chosen.setdefault(picture.item, []).append(picture)
    return [
        batch if len(own) == len(batch := own[0].batch) else batch[[p.frame for p in own]]
        for _, own in sorted(chosen.items())
    ]


def in_this_order(pictures: Sequence[Picture]) -> list[Tensor]:
    """These pictures as tensors: one batch where all have one shape, else one tensor each."""
    import torch

    tensors = [picture.tensor for picture in pictures]
    if len({(*t.shape, t.dtype) for t in tensors}) == 1:
        return [torch.cat(tensors)]
    return tensors
