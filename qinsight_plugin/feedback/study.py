"""What a study asks: blocks of one kind of question each, and in which order a person gets them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qinsight_plugin.feedback.questions import Kind, Role

REPEAT_DISTANCE = 8
"""Questions between one and its repetition, where there are so many: a memory is no judgement."""


@dataclass(frozen=True, slots=True)
class Block:
    """Questions of one kind, asked in a row.

    Attributes:
        kind: what is asked.
        count: main questions to each person.
        about: see `Question`.
    """

    kind: Kind
    count: int
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the store knows it."""
        detail = self.about.get("distortion") or self.about.get("parameter") or ""
        return f"{self.kind} {detail}".strip()


@dataclass(frozen=True, slots=True)
class Golden:
    """A question with a known answer: a rating's is a MOS, a pair's "left", "right" or "same"."""

    kind: Kind
    pictures: tuple[str, ...]
    truth: Any


@dataclass(frozen=True, slots=True)
class Study:
    """All that is asked of each person.

    Attributes:
        blocks: in order.
        golden: with known answers; mixed in.
        practice: training examples at the start of each block; they never count.
        repeat: share of the main questions that are asked a second time.
        set_size: pictures in a question for the best.
        compared: pictures that pairs are made of.
        rest: questions after which a break is proposed; 0: never.
    """

    blocks: Sequence[Block]
    golden: Sequence[Golden] = ()
    practice: int = 3
    repeat: float = 0.1
    set_size: int = 4
    compared: int = 40
    rest: int = 50

    def schedule(self, block: Block, rater: int) -> list[Role]:
        """The role of each question of a block, in order; the same whenever it is asked for.

        Golden questions lie anywhere, repetitions in the second half.
        """
        rng = random.Random(f"{block.name} {rater}")
        golden = sum(one.kind == block.kind for one in self.golden)
        roles: list[Role] = ["main"] * block.count
        roles += ["golden"] * golden
        rng.shuffle(roles)
        for _ in range(round(self.repeat * block.count)):
            roles.insert(rng.randint(len(roles) // 2, len(roles)), "repeat")
        practice: list[Role] = ["practice"] * min(self.practice, block.count)
        return practice + roles
