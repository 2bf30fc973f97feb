"""Sampling that depends on the prompt and the seed, not on the batch that the prompt is in.

`generate(do_sample=True)` draws all rows from one stream of random numbers, with one temperature.
Here each row has its own of both, by the Gumbel-max trick: the likeliest token after adding noise
from the standard Gumbel distribution to the logits is an exact draw from their softmax (Gumbel
1954; Maddison, Tarlow and Minka, "A* Sampling", NeurIPS 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qinsight_plugin.reasoning.model import Prompt, Sampling

if TYPE_CHECKING:
    import torch


class Sampler:
    """A logits processor of transformers, for `generate(do_sample=False)`, whose choice of the
    largest value it turns into a draw.

    Rows with temperature 0 pass as they are.

    Args:
        samplings: how to draw, one a row.
        digests: of the prompts (see `digest`), one a row.
        start: tokens in a row before the first that is drawn, padding included.
    """

    def __init__(self, samplings: Sequence[Sampling], digests: Sequence[bytes], start: int) -> None:
        self._rows = list(zip(samplings, digests, strict=True))
        self._start = start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[B, T] token ids, [B, V] logits -> [B, V] whose largest of each row is to be taken."""
        step = input_ids.shape[1] - self._start
        drawn = scores.float().clone()
        for row, (sampling, prompt) in enumerate(self._rows):
            if sampling.temperature > 0:
                logits = restrict(drawn[row] / sampling.temperature, sampling.top_k, sampling.top_p)
                noise = gumbel(len(logits), sampling.seed, prompt, step, logits.device)
                drawn[row] = logits + noise
        return drawn


def restrict(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Logits [V] with minus infinity for what cannot be drawn.

    Args:
        top_k: only the k likeliest tokens can be, and those equal to the last of them; 0: all.
        top_p: of those, with their probabilities made to sum to 1, only the likeliest that
            together reach p, at least one.
    """
    import torch

    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    if top_p < 1:
        # From the least likely, as transformers does it: rounding then hits what hardly counts.
        ascending, order = logits.sort()
        dropped = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        dropped[-1] = False
        logits = logits.masked_fill(
            torch.zeros_like(dropped).scatter(0, order, dropped), -torch.inf
        )
    return logits


def gumbel(
    size: int, seed: int, prompt: bytes, step: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Float32 [size] from the standard Gumbel distribution, always the same for the same arguments.

    Drawn on the CPU, whose generator gives the same numbers everywhere.
    """
    import torch

    key = hashlib.sha256(f"{seed}/{step}/".encode() + prompt).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big", signed=True))
    uniform = torch.rand(size, generator=generator).to(device)
    # 0 is drawn once in 2^24 times, and would be minus infinity, what cannot be drawn at all.
    return uniform.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_().log_().neg_()


def digest(prompt: Prompt) -> bytes:
    """SHA-256 of all that a model is shown: the texts, and the pictures' pixels."""
    hashed = hashlib.sha256()
    for part in (prompt.system, *prompt.parts):
        if isinstance(part, str):
            data, kind = part.encode(), "text"
        else:
            data, kind = part.pixels.tobytes(), f"{part.pixels.shape}"
        hashed.update(f"{kind} {len(data)}:".encode())
        hashed.update(data)
    return hashed.digest()
