"""The student's heads: from a description of the picture to score, spread, distortions and map.

They know nothing of the network under them, so any backbone can carry them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qinsight_plugin.records import DISTORTIONS, SEVERITIES

SPREAD_RANGE = (0.1, 1.0)
"""Standard deviations of the score's error that can be stated, in MOS."""


class Outputs(NamedTuple):
    """What the student says of a picture, in the order of the exported graph's outputs.

    Attributes:
        score: float [B], MOS in 1..5, the mean of `levels`.
        uncertainty: float [B], standard deviation of the error to expect in the score, in MOS.
        levels: float [B, 5], probabilities of the five ACR levels, bad to excellent.
        distortion: float [B, 5], probabilities of none, noise, compression, blur, darken.
        severity: float [B, 4], 0 (absent) to 5 (catastrophic) of each but none.
        quality_map: float [B, ceil(H/32), ceil(W/32)], MOS in 1..5: what the picture would score
            if it looked everywhere as it does there.
    """

    score: Tensor
    uncertainty: Tensor
    levels: Tensor
    distortion: Tensor
    severity: Tensor
    quality_map: Tensor


class Heads(NamedTuple):
    """What training works on.

    Attributes:
        mos: float [B] in (1, 5), the centre of the belief about the picture's MOS.
        spread: float [B], its standard deviation.
        at_least: logits [B, 4, 5]: that a distortion has at least the severity 1 to 5.
        quality_map: as in `Outputs`.
    """

    mos: Tensor
    spread: Tensor
    at_least: Tensor
    quality_map: Tensor


class JudgingHeads(nn.Module):
    """Small networks on the standardised description of a picture.

    Args:
        width: of the description.
        map_channels: of the features from which the map is drawn.
    """

    pooled_mean: Tensor
    pooled_scale: Tensor

    def __init__(
        self, width: int, map_channels: int, hidden: int = 128, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self._arguments = (width, map_channels, hidden, dropout)
        self.map_channels = map_channels
        self.register_buffer("pooled_mean", torch.zeros(width))
        self.register_buffer("pooled_scale", torch.ones(width))
        self.regressor = perceptron(width, hidden, 1, dropout)
        self.spreader = nn.Linear(hidden, 1)
        self.distortions = perceptron(width, hidden, len(DISTORTIONS) * len(SEVERITIES), dropout)
        self.mapper = nn.Sequential(nn.Conv2d(map_channels, 64, 1), nn.ReLU(), nn.Conv2d(64, 1, 1))
        with torch.no_grad():
            self.spreader.weight.zero_()
            self.spreader.bias.fill_(math.log(0.4))

    def anew(self) -> JudgingHeads:
        """Heads of the same shape that know nothing."""
        return JudgingHeads(*self._arguments)

    @property
    def last_layer(self) -> nn.Linear:
        """What turns the regressor's hidden units into the logit of the score."""
        layer = self.regressor[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, pooled: Tensor, local: Tensor) -> Heads:
        """pooled: float [B, width]; local: float [B, map_channels, h, w]."""
        pooled = self.standardise(pooled)
        hidden = self.regressor[:-1](pooled)
        at_least = self.distortions(pooled).unflatten(1, (len(DISTORTIONS), len(SEVERITIES)))
        mos = on_scale(self.last_layer(hidden)[:, 0])
        return Heads(mos, self.spread(hidden), at_least, self.draw_map(local))

    def spread(self, hidden: Tensor) -> Tensor:
        """[B], from the regressor's hidden units; what it learns may not change the score."""
        return torch.exp(self.spreader(hidden.detach())[:, 0]).clamp(*SPREAD_RANGE)

    def standardise(self, pooled: Tensor) -> Tensor:
        """[B, width]; what no training picture came near is not taken further."""
        return ((pooled - self.pooled_mean) * self.pooled_scale).clamp(-6.0, 6.0)

    def draw_map(self, local: Tensor) -> Tensor:
        """The quality map [B, h, w]; what it learns may not change what the score looks at."""
        return on_scale(self.mapper(local.detach())[:, 0])

    @torch.no_grad()
    def recalibrate(self, gain: float, offset: float) -> None:
        """Replace the score's logit z by gain * z + offset: monotone, and it cannot leave the
        scale."""
        last = self.last_layer
        last.weight.mul_(gain)
        last.bias.mul_(gain).add_(offset)

    @torch.no_grad()
    def widen(self, factor: float) -> None:
        """Multiply the spread."""
        self.spreader.bias.add_(math.log(factor))


def outputs_of(heads: Heads) -> Outputs:
    """What training works on -> what the student says."""
    levels = level_probabilities(heads.mos, heads.spread)
    # A product with a vector is what OpenCV cannot read.
    score = (levels * torch.arange(1.0, 6.0)).sum(1)
    distortion, severity = name_distortions(heads.at_least)
    return Outputs(score, heads.spread, levels, distortion, severity, heads.quality_map)


def perceptron(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


def on_scale(logit: Tensor) -> Tensor:
    """A logit -> MOS in (1, 5)."""
    return 1.0 + 4.0 * torch.sigmoid(logit)


def level_probabilities(mos: Tensor, spread: Tensor) -> Tensor:
    """Probabilities [B, 5] of the ACR levels, for a MOS believed to be N(mos, spread^2).

    A MOS between two levels counts for both, the nearer one more (linear interpolation), so the
    mean of the levels is the mean of the belief, cut at 1 and 5. In closed form: with
    F(t) = E[max(x - t, 0)], the chance of a level above k is F(k) - F(k + 1).
    """
    levels = torch.arange(1.0, 6.0)
    distance = mos[:, None] - levels
    u = distance / spread[:, None]
    below = 0.5 * (1.0 + torch.erf(u * math.sqrt(0.5)))
    density = torch.exp(-0.5 * u * u) * (1.0 / math.sqrt(2.0 * math.pi))
    excess = spread[:, None] * density + distance * below
    above = excess[:, :-1] - excess[:, 1:]
    one, zero = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
    # Rounding may leave a level that is as good as impossible a hair under 0.
    return torch.relu(torch.cat([one, above], 1) - torch.cat([above, zero], 1))


def name_distortions(at_least: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, 4, 5] -> probabilities [B, 5] of none and the four classes, and severities
    [B, 4], the expected number of levels reached.

    The worst distortion is the one named; where several are likely they share the probability.
    """
    reached = torch.sigmoid(at_least)
    severity = reached.sum(2)
    present = reached[:, :, 0]
    none = torch.prod(1.0 - present, 1, keepdim=True)
    share = present * severity + 1e-6
    share = share / share.sum(1, keepdim=True)
    return torch.cat([none, (1.0 - none) * share], 1), severity
