"""Heads that learn what 8 bits make of a picture, from what the float32 student says of it.

Rounded activations, most of all in the first blocks, are noise in the statistics that the heads
see, and heads that know exact ones only take it for sharpness. No rating is needed: the float32
student's own answers about the same pictures teach them (after Mishra and Marr, "Apprentice: Using
Knowledge Distillation Techniques To Improve Low-Precision Network Accuracy", ICLR 2018).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from qinsight_plugin.records import Pixels
from qinsight_plugin.scorers.student import open_session
from qinsight_plugin.student.distort import WORST, spoil
from qinsight_plugin.student.export import load_student
from qinsight_plugin.student.graph import also_giving, read_float_graph, tensors
from qinsight_plugin.student.heads import JudgingHeads

EPOCHS, BATCH, RATE, DECAY = 30, 64, 2e-4, 0.01
HELD_OUT = 5
"""One in so many pictures judges when the heads are best."""

STANDARDISED = "heads.pooled_mean"
"""The weight that is subtracted from the description of a picture."""

Watch: TypeAlias = Callable[[Iterable[Pixels], int, str], Iterable[Pixels]]
"""Gives the items on, one by one; it is told how many they are, and what is done with them."""


def unwatched(items: Iterable[Pixels], total: int, label: str) -> Iterable[Pixels]:
    del total, label
    return items


def relearn_heads(
    quantised: ModelProto, source: Path, pictures: Sequence[Pixels], watch: Watch = unwatched
) -> None:
    """Replace the weights of the heads of `quantised`, which was made of `source`.

    They learn from the pictures, and from each with one distortion, since collections that people
    have lack what is badly blurred or compressed. On a fifth of these, which teaches nothing, they
    are never further from the float32 student's than they were. A file of the first version, which
    has other heads, stays as it is.
    """
    if STANDARDISED not in tensors(quantised):
        return
    heads = load_student(source)[0].heads
    rng = np.random.default_rng(0)
    spoilt = (spoil(pixels, rng, worst=WORST)[0] for pixels in pictures)
    describe = [describer(model, source) for model in (read_float_graph(source), quantised)]
    every = watch(itertools.chain(pictures, spoilt), 2 * len(pictures), "Teaching the heads")
    rows = [[one(pixels) for one in describe] for pixels in every]
    exact, rounded = (torch.from_numpy(np.concatenate(own)) for own in zip(*rows, strict=True))
    learnt = taught(heads, exact, rounded).state_dict()
    for name, tensor in tensors(quantised).items():
        own = name.removeprefix("heads.")
        if own != name and own in learnt:
            tensor.CopyFrom(numpy_helper.from_array(learnt[own].numpy(), name))


def describer(model: ModelProto, name: Path) -> Callable[[Pixels], npt.NDArray[np.float32]]:
    """What tells what the heads of a student's graph are given of a picture: float [1, width]."""
    (node,) = (node for node in model.graph.node if STANDARDISED in node.input)
    (pooled,) = (name for name in node.input if name != STANDARDISED)
    session = open_session(name, also_giving(model, [pooled]).SerializeToString(), "cpu")
    return lambda pixels: session.run([pooled], {"image": pixels[None]})[0]


def taught(teacher: JudgingHeads, exact: Tensor, rounded: Tensor) -> JudgingHeads:
    """Heads that say of the rounded descriptions what the teacher says of the exact ones."""
    wanted = answers(teacher, exact).detach()
    pupil = copy.deepcopy(teacher).eval()
    order = torch.randperm(len(rounded), generator=torch.Generator().manual_seed(0))
    held, learnt = order[::HELD_OUT], torch.cat([order[k::HELD_OUT] for k in range(1, HELD_OUT)])

    def distance(rows: Tensor) -> Tensor:
        return nn.functional.mse_loss(answers(pupil, rounded[rows]), wanted[rows])

    optimizer = torch.optim.AdamW(pupil.parameters(), lr=RATE, weight_decay=DECAY)
    best, least = copy.deepcopy(pupil), distance(held).item()
    for epoch in range(EPOCHS):
        shuffled = torch.Generator().manual_seed(epoch + 1)
        for rows in torch.split(learnt[torch.randperm(len(learnt), generator=shuffled)], BATCH):
            optimizer.zero_grad()
            distance(rows).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if (now := distance(held).item()) < least:
            best, least = copy.deepcopy(pupil), now
    return best


def answers(heads: JudgingHeads, pooled: Tensor) -> Tensor:
    """[N, 22]: score, logarithm of the spread, and chances of each severity of each distortion."""
    nowhere = pooled.new_zeros(len(pooled), heads.map_channels, 1, 1)
    judged = heads(pooled, nowhere)
    reached = torch.sigmoid(judged.at_least.flatten(1))
    return torch.cat([judged.mos[:, None], judged.spread.log()[:, None], reached], 1)
