"""The student network: MobileNetV2 features, pooled at several depths, under the heads.

Backbone: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, in
torchvision's layout and key names. BatchNorm is folded into the convolutions, so that training
and inference are the same function and the graph quantises well.

Pooling mean and deviation at several depths follows what no-reference IQA found to matter: noise
and compression live in shallow layers, blur and composition in deep ones (Hosu et al.,
"Effective Aesthetics Prediction with Multi-level Spatially Pooled Features", CVPR 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qinsight_plugin.errors import WeightsError
from qinsight_plugin.student.heads import Heads, JudgingHeads, Outputs, outputs_of

EXPANSION_CHANNELS_REPEATS_STRIDE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

STEM_BLOCKS = 8
"""Blocks that stay as they were pretrained: 8 of 18 leave 64 channels at stride 16."""

STEM_TAPS = (3, 6)
TAIL_TAPS = (10, 13, 16, 17)
"""Blocks whose output is pooled into the description of the picture."""


class StemOutput(NamedTuple):
    """What the frozen blocks make of a picture; cached, it is what the tail trains on.

    Attributes:
        feature_map: float [B, 64, ceil(H/16), ceil(W/16)].
        shallow: float [B, 112], mean and deviation of the shallow taps.
    """

    feature_map: Tensor
    shallow: Tensor


def conv_relu6(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.ReLU6())


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection, with a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [conv_relu6(inputs, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


def mobilenet_v2_features() -> tuple[nn.Sequential, list[int]]:
    """The first 18 blocks, and the channels that each of them puts out.

    The 19th, which widens to 1280 channels for ImageNet's classes, told nothing of quality that
    the others did not.
    """
    channels = [32]
    blocks: list[nn.Module] = [conv_relu6(3, 32, 3, 2)]
    for expansion, outputs, repeats, stride in EXPANSION_CHANNELS_REPEATS_STRIDE:
        for index in range(repeats):
            block_stride = stride if index == 0 else 1
            blocks.append(InvertedResidual(channels[-1], outputs, block_stride, expansion))
            channels.append(outputs)
    return nn.Sequential(*blocks), channels


def mean_and_deviation(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 2C]. Two passes: E[x^2] - E[x]^2 loses digits on flat pictures."""
    x = x.float()  # sums over pixels do not fit half precision
    mean = x.mean((2, 3), keepdim=True)
    distance = x - mean
    deviation = ((distance * distance).mean((2, 3)) + 1e-6).sqrt()
    return torch.cat([mean.flatten(1), deviation], 1)


class AnyStudent(nn.Module):
    """Judges pictures: `forward` takes uint8 [B, H, W, 3] sRGB, H and W at least 32.

    A stem that never changes, so that training can keep what it makes of a picture; a tail that
    learns; heads.

    Attributes:
        stem_channels, stem_shallow: sizes of the stem's outputs.
        map_step: cells of the stem's map, in each direction, that are one of the quality map.
    """

    heads: JudgingHeads
    stem_channels: int
    stem_shallow: int
    map_step: int

    def stem(self, images: Tensor) -> StemOutput:
        """What the blocks that stay frozen make of uint8 [B, H, W, 3]."""
        raise NotImplementedError

    @property
    def tail_features(self) -> nn.Module:
        """The blocks that training changes, from the stem's map to that of `describe`."""
        raise NotImplementedError

    def stem_state(self) -> dict[str, Tensor]:
        """The weights that decide what `stem` makes of a picture."""
        raise NotImplementedError

    def describe(self, stem: StemOutput) -> tuple[Tensor, Tensor]:
        """The pooled description [B, width] of the picture, and the features [B, C, h, w] from
        which its map is drawn."""
        raise NotImplementedError

    def draw_map(self, feature_map: Tensor) -> Tensor:
        """The quality map [B, h, w] of a stem's feature map [B, C, H, W]."""
        with torch.no_grad():
            local: Tensor = self.tail_features(feature_map)
        return self.heads.draw_map(local)

    def tail(self, stem: StemOutput) -> Heads:
        heads: Heads = self.heads(*self.describe(stem))
        return heads

    def forward(self, images: Tensor) -> Outputs:
        return outputs_of(self.tail(self.stem(images)))


class Student(AnyStudent):
    """The student that ships: MobileNetV2, its first blocks as ImageNet left them."""

    map_step = 2

    def __init__(self) -> None:
        super().__init__()
        self.features, channels = mobilenet_v2_features()
        self.stem_channels = channels[STEM_BLOCKS - 1]
        self.stem_shallow = 2 * sum(channels[tap] for tap in STEM_TAPS)
        width = 2 * sum(channels[tap] for tap in STEM_TAPS + TAIL_TAPS)
        self.heads = JudgingHeads(width, channels[-1])

    def stem(self, images: Tensor) -> StemOutput:
        x = images.float().permute(0, 3, 1, 2) / 127.5 - 1.0
        shallow = []
        for index in range(STEM_BLOCKS):
            x = self.features[index](x)
            if index in STEM_TAPS:
                shallow.append(mean_and_deviation(x))
        return StemOutput(x, torch.cat(shallow, 1))

    @property
    def tail_features(self) -> nn.Module:
        return self.features[STEM_BLOCKS:]

    def stem_state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.features[:STEM_BLOCKS].state_dict()
        return state

    def describe(self, stem: StemOutput) -> tuple[Tensor, Tensor]:
        x, pooled = stem.feature_map, [stem.shallow]
        for index in range(STEM_BLOCKS, len(self.features)):
            x = self.features[index](x)
            if index in TAIL_TAPS:
                pooled.append(mean_and_deviation(x))
        return torch.cat(pooled, 1), x


@torch.no_grad()
def mean_of_tails(students: Sequence[Student]) -> Student:
    """A student whose tail is the mean of the others' ("model soup", Wortsman et al., ICML 2022).

    Networks that were trained from one start lie in one basin, and the middle of it is better than
    its rim. Heads drawn anew do not: those of the first are copied, and are to be trained again.

    Raises:
        WeightsError: their stems differ, so they did not begin alike.
    """
    first, *others = students
    mean = copy.deepcopy(first)
    for other in others:
        stem, known = other.stem_state(), first.stem_state()
        if any(not torch.equal(stem[key], known[key]) for key in known):
            raise WeightsError(
                "the students' first blocks differ, so that they were not trained from one start, "
                "and the mean of their weights means nothing; give students of one backbone"
            )
    tails = [student.tail_features.parameters() for student in students]
    for weights, *all_weights in zip(mean.tail_features.parameters(), *tails, strict=True):
        weights.copy_(torch.stack(all_weights).mean(0))
    return mean


def fold_batch_norm(state: Mapping[str, Tensor], epsilon: float = 1e-5) -> dict[str, Tensor]:
    """torchvision's MobileNetV2 state dict -> the same network without BatchNorm.

    A BatchNorm's key differs from its convolution's in the last index, which is one higher.
    """
    folded: dict[str, Tensor] = {}
    for key, variance in state.items():
        if not key.endswith(".running_var"):
            continue
        norm = key.removesuffix(".running_var")
        parent, index = norm.rsplit(".", 1)
        conv = f"{parent}.{int(index) - 1}"
        gain = state[f"{norm}.weight"] / torch.sqrt(variance + epsilon)
        folded[f"{conv}.weight"] = state[f"{conv}.weight"] * gain[:, None, None, None]
        folded[f"{conv}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    return folded


def load_backbone(student: Student, state: Mapping[str, Tensor], name: str) -> None:
    """Copy `features.*` into the student; raise WeightsError unless every tensor is there."""
    own = {key for key in student.state_dict() if key.startswith("features.")}
    missing = own - state.keys()
    if missing:
        raise WeightsError(
            f"{name} is no MobileNetV2 1.0: {len(missing)} tensors are missing, {min(missing)} for "
            "one; give torchvision's features as safetensors, or a student's .onnx"
        )
    try:
        student.load_state_dict({key: state[key] for key in own}, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{name} does not fit the student: {reason}") from error
