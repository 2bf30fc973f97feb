"""Networks, and where their weights come from: against EfficientNet-Lite in its own terms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qinsight_plugin.errors import WeightsError
from qinsight_plugin.student.export import load_student
from qinsight_plugin.student.layouts import LAYOUTS, fold, pretrained_weights
from qinsight_plugin.student.network import Student


class LiteBlock(nn.Module):
    """An inverted residual in the names and with the BatchNorm of the published conversion."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(
            hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False
        )
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x
        if hasattr(self, "_expand_conv"):
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class Lite(nn.Module):
    """EfficientNet-Lite's convolutions, written from the paper's table."""

    def __init__(self, widths: list[int], repeats: list[int]) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList()
        inputs = 32
        kernels, strides = [3, 3, 5, 3, 5, 5, 3], [1, 2, 2, 2, 1, 2, 1]
        for stage, (outputs, count) in enumerate(zip(widths, repeats, strict=True)):
            for n in range(count):
                stride = strides[stage] if n == 0 else 1
                expansion = 1 if stage == 0 else 6
                self._blocks.append(LiteBlock(inputs, outputs, kernels[stage], stride, expansion))
                inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            y = block(y)
        return y


# Widths and repeats as Google publishes them for width and depth factors (1, 1), (1, 1.1) and
# (1.1, 1.2) less what is not scaled: the first and the last stage.
PUBLISHED = {
    "lite0": ([16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1]),
    "lite1": ([16, 24, 40, 80, 112, 192, 320], [1, 3, 3, 4, 4, 5, 1]),
    "lite2": ([16, 24, 48, 88, 120, 208, 352], [1, 3, 3, 4, 4, 5, 1]),
}


@pytest.fixture(scope="module")
def published() -> dict[str, Lite]:
    torch.manual_seed(0)
    made = {}
    for name, (widths, repeats) in PUBLISHED.items():
        made[name] = Lite(widths, repeats).eval()
        for layer in made[name].modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.uniform_(-0.2, 0.2)
                layer.running_var.uniform_(0.5, 2.0)
    return made


def test_a_folded_convolution_is_the_convolution_and_its_batch_norm() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    pair = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2.0)
    weight, bias = fold(pair.state_dict(), "0", "1", 1e-5)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias), pair(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_student_on_efficientnet_lite_computes_what_that_computes(
    name: str, published: dict[str, Lite]
) -> None:
    student = Student(name).eval()
    found = pretrained_weights(published[name].state_dict(), student.layout, "x.pth")
    assert not student.load_state_dict(found, strict=False).unexpected_keys
    images = torch.randint(0, 256, (1, 97, 64, 3), dtype=torch.uint8)
    x = student.normalised(images)
    with torch.inference_mode():
        torch.testing.assert_close(student.features(x), published[name](x), rtol=1e-3, atol=1e-4)


def test_the_fast_student_keeps_all_but_its_new_blocks(
    published: dict[str, Lite], tmp_path: Path
) -> None:
    torch.save(published["lite0"].state_dict(), tmp_path / "lite0.pth")
    whole, fresh = load_student(tmp_path / "lite0.pth", "lite0")
    fast, _ = load_student(tmp_path / "lite0.pth", "fast")
    assert fresh
    for n, block in enumerate(fast.layout.blocks):
        if block.origin is not None:
            theirs = whole.features[block.origin + 1].state_dict()
            for key, weights in fast.features[n].state_dict().items():
                assert torch.equal(weights, theirs[key])
    assert [block.origin for block in fast.layout.blocks[:3]] == [None] * 3


def test_weights_of_another_network_are_refused_by_name(
    published: dict[str, Lite], tmp_path: Path
) -> None:
    torch.save(published["lite0"].state_dict(), tmp_path / "lite0.pth")
    with pytest.raises(WeightsError, match=r"lite0\.pth is no mobilenetv2: features\.0\."):
        load_student(tmp_path / "lite0.pth")
    with pytest.raises(WeightsError, match=r"lite0\.pth is no lite1: _blocks\.\d+\."):
        load_student(tmp_path / "lite0.pth", "lite1")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"junk\.pth holds no weights that can be read"):
        load_student(tmp_path / "junk.pth", "lite0")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_network_can_be_trained_on_from_its_stem(name: str) -> None:
    """Its stem ends at stride 16, and what is pooled ends at the last block."""
    student = Student(name).eval()
    images = torch.zeros(1, 70, 100, 3, dtype=torch.uint8)
    with torch.inference_mode():
        stem = student.stem(images)
        outputs = student(images)
    assert stem.feature_map.shape == (1, student.stem_channels, 5, 7)
    assert stem.shallow.shape == (1, student.stem_shallow)
    assert outputs.quality_map.shape == (1, 3, 4)
    assert student.taps[-1] == len(student.features) - 1
