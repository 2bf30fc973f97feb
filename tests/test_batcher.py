"""Batches of what threads ask: nothing lost, nothing mixed up, nobody left waiting."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinsight_plugin.batcher import Batcher

PATIENCE = 30.0
"""Seconds after which a test gives up on what should come at once."""


class Recorder:
    """Answers n with -n, and remembers the batches and whether two of them ever overlapped."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.overlapped = False
        self._inside = threading.Lock()

    def __call__(self, batch: list[int]) -> list[int]:
        self.overlapped |= not self._inside.acquire(blocking=False)
        self.batches.append(batch)
        time.sleep(0.0005)
        if not self.overlapped:
            self._inside.release()
        return [-n for n in batch]


class Gate:
    """Holds the first batch until it is opened, so that later questions queue."""

    def __init__(self, answer: Any = None) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []
        self._answer = answer or (lambda batch: [-n for n in batch])

    def __call__(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        self.entered.set()
        assert self.opened.wait(PATIENCE)
        answers: list[int] = self._answer(batch)
        return answers


def queued(batcher: Batcher[int, int], count: int) -> None:
    """Wait until so many questions are waiting."""
    for _ in range(int(PATIENCE / 0.001)):
        if len(batcher._waiting) >= count:
            return
        time.sleep(0.001)
    raise AssertionError(f"{len(batcher._waiting)} of {count} questions are waiting")


@settings(max_examples=40)
@given(
    askers=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    size=st.integers(1, 5),
    linger=st.sampled_from([0.0, 0.002]),
)
def test_each_question_is_answered_once_in_its_place_and_no_batch_is_too_large(
    askers: list[int], size: int, linger: float
) -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, size, linger)
    asked = [[100 * k + n for n in range(count)] for k, count in enumerate(askers)]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(batcher.submit, asked))
    assert answers == [[-n for n in questions] for questions in asked]
    assert sorted(chain(*recorder.batches)) == sorted(chain(*asked))
    assert all(1 <= len(batch) <= size for batch in recorder.batches)
    assert not recorder.overlapped
    for questions in asked:  # each asker's go in their order
        seen = [n for batch in recorder.batches for n in batch if n in questions]
        assert seen == questions


def test_what_queues_while_a_batch_runs_is_the_next_batch() -> None:
    gate = Gate()
    batcher = Batcher(gate, 4)
    with ThreadPoolExecutor(7) as pool:
        first = pool.submit(batcher.submit, [0])
        assert gate.entered.wait(PATIENCE)
        later = []
        for n in range(1, 7):
            later.append(pool.submit(batcher.submit, [n]))
            queued(batcher, n)
        gate.opened.set()
        assert [f.result(PATIENCE) for f in (first, *later)] == [[-n] for n in range(7)]
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_more_questions_than_fit_a_batch_are_answered() -> None:
    recorder = Recorder()
    assert Batcher(recorder, 3).submit(list(range(10))) == [-n for n in range(10)]
    assert [len(batch) for batch in recorder.batches] == [3, 3, 3, 1]


def test_no_questions_have_no_answers_and_run_nothing() -> None:
    recorder = Recorder()
    assert Batcher(recorder, 3).submit([]) == []
    assert recorder.batches == []


def test_a_full_batch_does_not_linger_and_a_partial_one_is_joined() -> None:
    """With a wait longer than the test's patience, only filling up can end it."""
    recorder = Recorder()
    batcher = Batcher(recorder, 4, linger=10 * PATIENCE)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(batcher.submit, [n]) for n in range(4)]
        _, waiting = wait(asked, PATIENCE)
    assert not waiting
    assert [len(batch) for batch in recorder.batches] == [4]


def test_an_error_reaches_all_askers_of_its_batch_and_nobody_else() -> None:
    def answer(batch: list[int]) -> list[int]:
        if 2 in batch:
            raise ValueError("two")
        return [-n for n in batch]

    gate = Gate(answer)
    batcher = Batcher(gate, 3)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(batcher.submit, [0])]
        assert gate.entered.wait(PATIENCE)
        for n in range(1, 6):
            asked.append(pool.submit(batcher.submit, [n]))
            queued(batcher, n)
        gate.opened.set()
        wait(asked, PATIENCE)
    assert gate.batches == [[0], [1, 2, 3], [4, 5]]
    assert [f.result() for f in (asked[0], *asked[4:])] == [[0], [-4], [-5]]
    for future in asked[1:4]:
        with pytest.raises(ValueError, match="two"):
            future.result()
    assert batcher.submit([7]) == [-7]  # it works on


def test_what_an_asker_still_waits_for_is_taken_back_when_its_batch_fails() -> None:
    recorder, told = Recorder(), threading.Event()

    def answer(batch: list[int]) -> list[int]:
        recorder(batch)
        if 0 in batch:
            raise ValueError("zero")
        assert told.wait(PATIENCE)
        return [-n for n in batch]

    batcher = Batcher(answer, 2)
    with pytest.raises(ValueError, match="zero"):
        batcher.submit(list(range(50)))
    told.set()
    assert batcher.submit([60]) == [-60]
    # One batch may have begun before the asker knew.
    assert recorder.batches in ([[0, 1], [60]], [[0, 1], [2, 3], [60]])


@pytest.mark.parametrize("answers", [[], [1], [1, 2, 3]])
def test_a_wrong_number_of_answers_is_an_error_and_not_a_wait(answers: list[int]) -> None:
    batcher: Batcher[int, int] = Batcher(lambda batch: answers, 2)
    with pytest.raises(ValueError, match="zip"):
        batcher.submit([5, 6])


def test_even_an_exit_inside_a_batch_ends_the_wait() -> None:
    def leave(batch: list[int]) -> list[int]:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        Batcher(leave, 2).submit([1])


def test_no_thread_and_nothing_of_the_model_is_left_when_nobody_asks() -> None:
    class Model:
        def answer(self, batch: list[int]) -> list[int]:
            return batch

    model = Model()
    batcher: Batcher[int, int] | None = Batcher(model.answer, 2)
    assert batcher is not None
    assert batcher.submit([1, 2, 3]) == [1, 2, 3]
    for thread in threading.enumerate():
        if thread.name == "qinsight-batch":
            thread.join(PATIENCE)
    assert all(thread.name != "qinsight-batch" for thread in threading.enumerate())
    left = weakref.ref(model)
    del model, batcher
    gc.collect()
    assert left() is None
