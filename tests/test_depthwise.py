"""A depthwise convolution learns in half precision what PyTorch's own does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qinsight_plugin.student.depthwise import DepthwiseConv

CHANNELS = 12


def learnt(conv: nn.Module, x: Tensor, half: bool) -> list[Tensor]:
    """What comes out, and the gradients of weight, bias and, where it has one, of the input."""
    x = x.detach().clone().requires_grad_(x.requires_grad)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = conv(x)
    y.float().square().mean().backward()
    gradients = [*(parameter.grad for parameter in conv.parameters()), x.grad]
    return [y.detach(), *(tensor for tensor in gradients if tensor is not None)]


@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_outputs_and_gradients_are_those_of_pytorch(
    kernel: int, stride: int, of_input: bool
) -> None:
    torch.manual_seed(0)
    sizes = (CHANNELS, CHANNELS, kernel, stride, kernel // 2)
    own, plain, exact = (
        DepthwiseConv(*sizes, groups=CHANNELS),
        *(nn.Conv2d(*sizes, groups=CHANNELS) for _ in range(2)),
    )
    for conv in (plain, exact):
        conv.load_state_dict(own.state_dict())
    x = torch.randn(2, CHANNELS, 17, 15, requires_grad=of_input)
    ours, theirs = learnt(own, x, True), learnt(plain, x, True)
    assert len(ours) == (4 if of_input else 3)
    for found, expected, full in zip(ours, theirs, learnt(exact, x, False), strict=True):
        assert found.dtype == expected.dtype
        assert (found.float() - full).norm() < 0.01 * full.norm()  # 8 bits for a number
        assert (found.float() - expected.float()).norm() < 0.01 * full.norm()


def test_in_full_precision_it_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    own = DepthwiseConv(CHANNELS, CHANNELS, 5, 1, 2, groups=CHANNELS)
    x = torch.randn(2, CHANNELS, 9, 9)
    expected = torch.conv2d(x, own.weight, own.bias, padding=2, groups=CHANNELS)
    assert torch.equal(own(x), expected)
