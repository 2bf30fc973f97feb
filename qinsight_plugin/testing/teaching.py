"""Teach a tiny model its lessons, by cross-entropy on the replies: its answers still mean nothing.

What it has learnt is the format of an answer, and to tell dark from light.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qinsight_plugin.reasoning.encoding import Encoded, Encoder
from qinsight_plugin.reasoning.libraries import need, quiet
from qinsight_plugin.reasoning.loading import load_encoder
from qinsight_plugin.testing.lessons import Lesson, brightness_lessons
from qinsight_plugin.testing.tiny import tiny_checkpoint

if TYPE_CHECKING:
    import torch

_LESSONS: Final = 1000
_STEPS: Final = 200
_BATCH: Final = 8
_LEARNING_RATE: Final = 4e-3
_NOT_LEARNT: Final = -100  # what transformers leaves out of the loss


def tiny_reasoner(folder: Path, *, seed: int = 0) -> Path:
    """Save a `tiny_checkpoint` that answers Q-Insight's questions, about brightness only.

    Its ratings follow how bright a picture is, it calls dark pictures "darken", and of two pictures
    it prefers the brighter, not always rightly. NONE of this says anything about a real picture's
    quality: it is there so that code has replies to read.

    Args:
        folder: where to.
        seed: of the weights and the lessons; the same seed gives the same bits on one machine.

    Returns:
        `folder`.

    Raises:
        MissingExtraError: torch or transformers is not installed.
    """
    tiny_checkpoint(folder, seed=seed)
    teach(folder, brightness_lessons(_LESSONS, seed=seed), steps=_STEPS, seed=seed)
    return folder


def teach(folder: Path, lessons: Sequence[Lesson], *, steps: int, seed: int = 0) -> None:
    """Train a checkpoint on lessons, in place: AdamW, cross-entropy on what is to be learnt.

    Args:
        folder: a checkpoint of `tiny_checkpoint`.
        lessons: what to learn.
        steps: of optimisation, 8 lessons each.
        seed: of the order of the lessons.
    """
    torch, transformers = need("torch"), need("transformers")
    with quiet():
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
        encoder = load_encoder(folder, model.config)
    takes = inspect.signature(model.forward).parameters  # 4.57 refuses what it has no use for
    exercises = [_exercise(encoder, lesson) for lesson in lessons]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
    order = random.Random(seed)
    model.train()
    with _one_thread(torch):
        for _ in range(steps):
            batch = _batch(encoder, order.choices(exercises, k=_BATCH))
            optimizer.zero_grad()
            model(**{k: v for k, v in batch.items() if k in takes}).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    with quiet():
        model.save_pretrained(folder)


class _Exercise(NamedTuple):
    """A lesson in tokens."""

    question: Encoded
    given: list[int]
    learnt: list[int]


def _exercise(encoder: Encoder, lesson: Lesson) -> _Exercise:
    rest = lesson.reply.removeprefix(lesson.given)
    end = encoder.tokenizer.eos_token_id
    return _Exercise(
        encoder.encode(lesson.prompt), encoder.ids(lesson.given), [*encoder.ids(rest), end]
    )


def _batch(encoder: Encoder, exercises: Sequence[_Exercise]) -> dict[str, torch.Tensor]:
    batch = encoder.batch(
        [exercise.question for exercise in exercises],
        [exercise.given + exercise.learnt for exercise in exercises],
    )
    labels = batch["input_ids"].new_full(batch["input_ids"].shape, _NOT_LEARNT)
    for row, ids, exercise in zip(labels, batch["input_ids"], exercises, strict=True):
        learnt = len(exercise.learnt)
        row[-learnt:] = ids[-learnt:]
    return {**batch, "labels": labels}


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """The order in which threads add is in the last bits of a sum."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
