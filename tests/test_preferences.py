"""Learning from pairs: who is measured on what, and by which sums."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.pairs import Pairs
from qinsight_plugin.student.preferences import (
    OPINION_SPREAD,
    Compared,
    batch_of_pairs,
    pair_accuracy,
    pair_loss,
    split_pairs,
)

answers = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.0, 0.5, 1.0])).filter(
        lambda answer: answer[0] != answer[1]
    ),
    min_size=1,
    max_size=60,
)


def pairs_of(rows: list[tuple[int, int, float]], split: tuple[str, ...] | None = None) -> Pairs:
    a, b, preference = zip(*rows, strict=True)
    return Pairs(tuple(Path(f"{k}.png") for k in range(7)), a, b, preference, split)


def compared(rows: list[tuple[int, int, float]]) -> Compared:
    first, second, preferred = (np.array(column) for column in zip(*rows, strict=True))
    return Compared(first, second, preferred.astype(np.float32))


def rows_of(part: Compared) -> list[tuple[int, int, float]]:
    return list(
        zip(part.first.tolist(), part.second.tolist(), part.preferred.tolist(), strict=True)
    )


@given(answers, st.floats(0, 0.5), st.integers(0, 99))
def test_no_picture_is_both_learnt_from_and_measured_on(
    rows: list[tuple[int, int, float]], hold_out: float, seed: int
) -> None:
    train, test = (rows_of(part) for part in split_pairs(pairs_of(rows), hold_out, seed))
    learnt, held = ({k for row in part for k in row[:2]} for part in (train, test))
    assert not learnt & held
    left = Counter(rows) - Counter(train + test)
    assert left.total() == len(rows) - len(train) - len(test)
    assert not any({a, b} <= learnt or {a, b} <= held for a, b, _ in left)


def test_about_the_wanted_share_of_pairs_is_held_out() -> None:
    """Of all pairs of 46 pictures a fifth: those of 21."""
    rows = [(a, b, 1.0) for a, b in itertools.combinations(range(46), 2)]
    pairs = Pairs(tuple(Path(f"{k}.png") for k in range(46)), *zip(*rows, strict=True))
    train, test = split_pairs(pairs, 0.2, 0)
    assert len(test) == 21 * 20 / 2 == pytest.approx(0.2 * len(rows), rel=0.02)
    assert len(train) == 25 * 24 / 2
    assert [len(part) for part in split_pairs(pairs, 0.0, 0)] == [len(rows), 0]


def test_of_pairs_at_random_as_many_are_left_as_the_page_says() -> None:
    """The student's README: 300 pairs of 100 pictures, a fifth held out."""
    kept = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first = rng.integers(0, 100, 300)
        second = (first + rng.integers(1, 100, 300)) % 100
        paths = tuple(Path(f"{k}.png") for k in range(100))
        pairs = Pairs(paths, tuple(first.tolist()), tuple(second.tolist()), (1.0,) * 300)
        kept.append([len(part) for part in split_pairs(pairs, 0.2, seed)])
    assert np.mean(kept, 0) == pytest.approx([105, 60], abs=4)


def test_the_files_own_split_is_kept_and_val_rows_train() -> None:
    rows = [(0, 1, 1.0), (1, 2, 0.0), (2, 3, 0.5)]
    train, test = split_pairs(pairs_of(rows, ("train", "test", "val")), 0.5, 0)
    assert rows_of(train) == [rows[0], rows[2]]
    assert rows_of(test) == [rows[1]]


def test_accuracy_is_the_share_of_decided_answers_foretold() -> None:
    """Right, wrong, right, not decided, and a tie of scores, which foretells nothing."""
    mos = np.array([4.0, 3.0, 2.0, 2.0], np.float32)
    rows = [(0, 1, 1.0), (0, 2, 0.0), (2, 1, 0.0), (0, 3, 0.5), (2, 3, 1.0)]
    accuracy = pair_accuracy(mos, compared(rows))
    assert accuracy is not None
    assert accuracy.value == 0.5
    assert accuracy.low <= 0.5 <= accuracy.high


def test_the_interval_of_the_accuracy_is_the_binomials() -> None:
    """Of 400 answers 300 right: normal approximation of the binomial."""
    mos = np.array([2.0, 1.0], np.float32)
    accuracy = pair_accuracy(mos, compared([(0, 1, 1.0)] * 300 + [(0, 1, 0.0)] * 100))
    assert accuracy is not None
    half = scipy.stats.norm.ppf(0.975) * math.sqrt(0.75 * 0.25 / 400)
    assert (accuracy.low, accuracy.high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.01)


def test_where_nothing_is_decided_there_is_no_accuracy() -> None:
    assert pair_accuracy(np.zeros(2, np.float32), compared([(0, 1, 0.5)])) is None


@given(answers.filter(lambda rows: any(row[2] != 0.5 for row in rows)), st.integers(0, 99))
def test_accuracy_does_not_change_when_a_and_b_are_swapped(
    rows: list[tuple[int, int, float]], seed: int
) -> None:
    mos = np.random.default_rng(seed).integers(0, 4, 7).astype(np.float32)
    swapped = [(b, a, 1 - preferred) for a, b, preferred in rows]
    one, other = (pair_accuracy(mos, compared(own)) for own in (rows, swapped))
    assert one == other


@given(st.floats(1, 5), st.floats(1, 5), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_loss_is_the_fidelity_of_thurstones_probability_either_way_round(
    a: float, b: float, preferred: float
) -> None:
    given_ = scipy.stats.norm.cdf((a - b) / (math.sqrt(2) * OPINION_SPREAD))
    agreement = math.sqrt(preferred * given_) + math.sqrt((1 - preferred) * (1 - given_))
    first, second = torch.tensor([a]).double(), torch.tensor([b]).double()
    answer = torch.tensor([preferred]).double()
    loss = pair_loss(first, second, answer).item()
    assert loss == pytest.approx(1 - agreement, abs=2e-3)
    assert loss == pytest.approx(pair_loss(second, first, 1 - answer).item(), abs=1e-9)


def test_batches_are_drawn_from_all_answers_and_stay_together() -> None:
    rows = [(k, k + 1, float(k % 2)) for k in range(6)]
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(30):
        first, second, preferred = batch_of_pairs(compared(rows), 4, rng)
        assert len(first) == 4
        found |= set(zip(first.tolist(), second.tolist(), preferred.tolist(), strict=True))
    assert found == set(rows)
