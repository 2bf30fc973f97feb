"""After training: the scale made to mean what it says, and the uncertainty too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qinsight_plugin.student.cache import Cache, of_one_size
from qinsight_plugin.student.heads import Heads, outputs_of
from qinsight_plugin.student.network import AnyStudent, stem_of
from qinsight_plugin.student.views import Rated

Vector: TypeAlias = npt.NDArray[np.float32]


def logit(mos: Tensor) -> Tensor:
    """MOS in (1, 5) -> the value of which it is the scaled sigmoid."""
    return torch.logit((mos - 1) / 4, eps=1e-3)


@torch.inference_mode()
def judge_all(student: AnyStudent, cache: Cache[Any], rated: Rated) -> list[Heads]:
    """What the student says of each picture's native view, a few at a time."""
    student.eval()
    batches = of_one_size([views[0] for views in rated.views])
    return [student.tail(stem_of(student, cache.all_of(batch))) for batch in batches]


def predict(student: AnyStudent, cache: Cache[Any], rated: Rated) -> tuple[Vector, Vector]:
    """The MOS of each picture, as training has it, and its spread."""
    heads = judge_all(student, cache, rated)
    mos, spread = (torch.cat([getattr(h, name) for h in heads]) for name in ("mos", "spread"))
    return mos.numpy(), spread.numpy()


def score_all(student: AnyStudent, cache: Cache[Any], rated: Rated) -> Vector:
    """The score of each picture, as the exported student will give it."""
    heads = judge_all(student, cache, rated)
    return torch.cat([outputs_of(h).score for h in heads]).numpy()


def calibrate(student: AnyStudent, cache: Cache[Any], rated: Rated, *, unseen: bool = True) -> None:
    """Fit gain and offset of the score, then a factor of the spread, to ratings.

    A drawn-in scale is what averaging and regularising leave behind; order is not changed. What was
    learnt on the training pictures is too sure of itself on others: the factor is the most likely
    one for the errors seen here.

    Args:
        unseen: whether all of the pictures were held back. Errors on pictures that were trained on
            are too small to narrow the spread by: then it is widened, or stays.
    """
    predicted, spread = predict(student, cache, rated)
    z, mos = logit(torch.from_numpy(predicted)), torch.from_numpy(rated.mos)
    affine = torch.tensor([1.0, 0.0], requires_grad=True)

    def mapped() -> Tensor:
        return 1 + 4 * torch.sigmoid(affine[0] * z + affine[1])

    minimise(affine, lambda: torch.nn.functional.mse_loss(mapped(), mos))
    gain, offset = affine.tolist()
    # A gain of 0 or less would erase or turn the order: there is nothing to calibrate then.
    if gain > 0:
        student.heads.recalibrate(gain, offset)
        predicted = mapped().detach().numpy()
    errors = (predicted - rated.mos) / spread
    factor = math.sqrt(float((errors**2).mean()) + 1e-6)
    student.heads.widen(factor if unseen else max(1.0, factor))


def minimise(parameters: Tensor, loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
