"""The student network: MobileNetV2 features, pooled at several depths, and a small regressor.

Backbone: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, in
torchvision's layout and key names. BatchNorm is folded into the convolutions, so that training
and inference are the same function and the graph quantises well.

Pooling mean and deviation at several depths follows what no-reference IQA found to matter: noise
and compression live in shallow layers, blur and composition in deep ones (Hosu et al.,
"Effective Aesthetics Prediction with Multi-level Spatially Pooled Features", CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qinsight_plugin.errors import WeightsError

EXPANSION_CHANNELS_REPEATS_STRIDE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST_CHANNELS = 1280

STEM_BLOCKS = 8
"""Blocks that stay as they were pretrained: 8 of 19 leave 64 channels at stride 16."""

STEM_TAPS = (3, 6)
TAIL_TAPS = (13, 17, 18)
"""Blocks whose output is pooled into the regressor's input."""


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
    """The 19 blocks, and the channels that each of them puts out."""
    channels = [32]
    blocks: list[nn.Module] = [conv_relu6(3, 32, 3, 2)]
    for expansion, outputs, repeats, stride in EXPANSION_CHANNELS_REPEATS_STRIDE:
        for index in range(repeats):
            block_stride = stride if index == 0 else 1
            blocks.append(InvertedResidual(channels[-1], outputs, block_stride, expansion))
            channels.append(outputs)
    blocks.append(conv_relu6(channels[-1], LAST_CHANNELS, 1))
    return nn.Sequential(*blocks), [*channels, LAST_CHANNELS]


def mean_and_deviation(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 2C]. Two passes: E[x^2] - E[x]^2 loses digits on flat pictures."""
    mean = x.mean((2, 3), keepdim=True)
    deviation = (((x - mean) ** 2).mean((2, 3)) + 1e-6).sqrt()
    return torch.cat([mean.flatten(1), deviation], 1)


class Student(nn.Module):
    """Predicts the MOS of pictures.

    `forward` takes uint8 [B, H, W, 3] sRGB, H and W at least 32, and returns float [B] in (1, 5).
    """

    pooled_mean: Tensor
    pooled_scale: Tensor

    def __init__(self, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.features, channels = mobilenet_v2_features()
        width = 2 * sum(channels[tap] for tap in STEM_TAPS + TAIL_TAPS)
        self.register_buffer("pooled_mean", torch.zeros(width))
        self.register_buffer("pooled_scale", torch.ones(width))
        self.regressor = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    @property
    def last_layer(self) -> nn.Linear:
        """What turns the regressor's hidden units into the logit of the score."""
        layer = self.regressor[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def stem(self, images: Tensor) -> StemOutput:
        """The blocks that stay frozen. images: uint8 [B, H, W, 3]."""
        x = images.float().permute(0, 3, 1, 2) / 127.5 - 1.0
        shallow = []
        for index in range(STEM_BLOCKS):
            x = self.features[index](x)
            if index in STEM_TAPS:
                shallow.append(mean_and_deviation(x))
        return StemOutput(x, torch.cat(shallow, 1))

    def pool(self, stem: StemOutput) -> Tensor:
        """The blocks that are trained, and the pooled description [B, width] of the picture."""
        x, pooled = stem.feature_map, [stem.shallow]
        for index in range(STEM_BLOCKS, len(self.features)):
            x = self.features[index](x)
            if index in TAIL_TAPS:
                pooled.append(mean_and_deviation(x))
        return torch.cat(pooled, 1)

    def tail(self, stem: StemOutput) -> Tensor:
        """MOS, float [B], from the stem's output."""
        pooled = (self.pool(stem) - self.pooled_mean) * self.pooled_scale
        return 1.0 + 4.0 * torch.sigmoid(self.regressor(pooled)[:, 0])

    @torch.no_grad()
    def recalibrate(self, gain: float, offset: float) -> None:
        """Replace the logit z by gain * z + offset: monotone, and it cannot leave the scale."""
        last = self.last_layer
        last.weight.mul_(gain)
        last.bias.mul_(gain).add_(offset)

    def forward(self, images: Tensor) -> Tensor:
        return self.tail(self.stem(images))


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
