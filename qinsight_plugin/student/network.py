"""The student network: inverted residuals, pooled at several depths, under the heads.

The student that ships stands on MobileNetV2; `layouts` has other networks, to teach it or to be
tried. BatchNorm is folded into the convolutions, so that training and inference are the same
function and the graph quantises well.

Pooling mean and deviation at several depths follows what no-reference IQA found to matter: noise
and compression live in shallow layers, blur and composition in deep ones (Hosu et al.,
"Effective Aesthetics Prediction with Multi-level Spatially Pooled Features", CVPR 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from qinsight_plugin.errors import WeightsError
from qinsight_plugin.student.depthwise import DepthwiseConv
from qinsight_plugin.student.heads import Heads, JudgingHeads, Outputs, outputs_of
from qinsight_plugin.student.layouts import LAYOUTS, Block


class StemOutput(NamedTuple):
    """What the frozen blocks make of a picture; cached, it is what the tail trains on.

    Attributes:
        feature_map: float [B, channels, ceil(H/16), ceil(W/16)].
        shallow: float [B, width], mean and deviation of the shallow taps.
    """

    feature_map: Tensor
    shallow: Tensor


def conv_relu6(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    kind = nn.Conv2d if groups == 1 else DepthwiseConv
    conv = kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.ReLU6())


class Bottleneck(nn.Module):
    """A spatial convolution among many channels, and a linear pointwise one to few; with a
    shortcut where shapes allow.

    Depthwise between two pointwise convolutions (an inverted residual), or dense and by itself.
    """

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        if block.expansion:
            hidden = inputs * block.expansion
            expand = [conv_relu6(inputs, hidden, 1)] if block.expansion > 1 else []
            spatial = conv_relu6(hidden, hidden, block.kernel, block.stride, groups=hidden)
        else:
            hidden, expand = block.hidden, []
            spatial = conv_relu6(inputs, hidden, block.kernel, block.stride)
        self.conv = nn.Sequential(*expand, spatial, nn.Conv2d(hidden, block.outputs, 1))
        self.shortcut = block.stride == 1 and inputs == block.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


def features_of(blocks: Sequence[Block]) -> nn.Sequential:
    inputs = 3
    made: list[nn.Module] = []
    for block in blocks:
        if block.expansion or block.hidden:
            made.append(Bottleneck(inputs, block))
        else:
            made.append(conv_relu6(inputs, block.outputs, block.kernel, block.stride))
        inputs = block.outputs
    return nn.Sequential(*made)


def mean_and_deviation(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 2C]. Two passes: E[x^2] - E[x]^2 loses digits on flat pictures."""
    x = x.float()  # sums over pixels do not fit half precision
    mean = x.mean((2, 3), keepdim=True)
    distance = x - mean
    deviation = ((distance * distance).mean((2, 3)) + 1e-6).sqrt()
    return torch.cat([mean.flatten(1), deviation], 1)


Seen: TypeAlias = StemOutput | Tensor
"""What a student looks at in training: its stem's output, or uint8 [B, H, W, 3]."""


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

    @property
    def all_features(self) -> nn.Module:
        """All blocks, for training that starts from pictures."""
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


def stem_of(student: AnyStudent, seen: Seen) -> StemOutput:
    """What the stem makes of pictures, or made of them, where the student is."""
    device = device_of(student)
    if isinstance(seen, Tensor):
        return student.stem(seen.to(device))
    return StemOutput(seen.feature_map.to(device), seen.shallow.to(device))


def half_precision(device: torch.device, wanted: bool) -> torch.autocast:
    """In which convolutions are computed in half precision, where that is wanted and not absurd:
    what oneDNN cannot do on a processor PyTorch does number by number, at ten times float32's time.
    """
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has = device.type != "cpu" or (onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has)


def device_of(student: AnyStudent) -> torch.device:
    return next(student.parameters()).device


class Student(AnyStudent):
    """A network of `LAYOUTS`; the first is the one that ships."""

    map_step = 2

    def __init__(self, network: str = "mobilenetv2") -> None:
        super().__init__()
        layout = LAYOUTS[network]
        blocks = layout.blocks
        self.network, self.layout = network, layout
        self.features = features_of(blocks)
        self.stem_blocks, self.taps = layout.stem_blocks, layout.taps
        self.stem_channels = blocks[self.stem_blocks - 1].outputs
        widths = {tap: 2 * blocks[tap].outputs for tap in self.taps}
        self.stem_shallow = sum(widths[tap] for tap in self.taps if tap < self.stem_blocks)
        self.heads = JudgingHeads(sum(widths.values()), blocks[-1].outputs)

    def stem(self, images: Tensor) -> StemOutput:
        x, pooled = self.run(self.normalised(images), range(self.stem_blocks))
        return StemOutput(x, torch.cat(pooled, 1))

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float [B, 3, H, W] in -1..1."""
        return images.float().permute(0, 3, 1, 2) / 127.5 - 1.0

    def run(self, x: Tensor, blocks: range) -> tuple[Tensor, list[Tensor]]:
        """What comes out of these blocks, and the statistics of those that are pooled."""
        pooled = []
        for index in blocks:
            x = self.features[index](x)
            if index in self.taps:
                pooled.append(mean_and_deviation(x))
        return x, pooled

    @property
    def tail_features(self) -> nn.Module:
        return self.features[self.stem_blocks :]

    @property
    def all_features(self) -> nn.Module:
        return self.features

    def stem_state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.features[: self.stem_blocks].state_dict()
        return state

    def describe(self, stem: StemOutput) -> tuple[Tensor, Tensor]:
        tail = range(self.stem_blocks, len(self.features))
        x, pooled = self.run(stem.feature_map, tail)
        return torch.cat([stem.shallow, *pooled], 1), x


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


def load_features(student: Student, state: Mapping[str, Tensor], name: str) -> None:
    """Copy `features.*` into the student; raise WeightsError unless every tensor is there."""
    own = {key for key in student.state_dict() if key.startswith("features.")}
    if missing := own - state.keys():
        raise WeightsError(
            f"{name} does not fit the student: {len(missing)} tensors are missing, {min(missing)} "
            "for one; give a student's .onnx of this version"
        )
    try:
        student.load_state_dict({key: state[key] for key in own}, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{name} does not fit the student: {reason}") from error
