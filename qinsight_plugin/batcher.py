"""What several threads ask, answered together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Puts what threads ask at the same time into batches, as inference servers do.

    While a batch runs, questions queue; the next batch is what has queued up, in the order of
    asking. Safe to use from any number of threads. The thread that runs the batches lives while
    there are questions, so that there is nothing to close, and what `run` holds on to can be freed.

    Args:
        run: answers a batch of 1 to `size` questions, an answer each, in their order; is never
            called more than `lanes` times at once.
        size: most questions in a batch.
        linger: seconds to wait for more questions before a batch that is not full. A batch of one
            takes nearly as long as a full one, and without a wait threads that ask one question
            after another fall into two camps: while one camp's batch runs, the other camp queues.
        lanes: most batches that run at once.
    """

    def __init__(
        self,
        run: Callable[[list[Q]], Sequence[A]],
        size: int,
        linger: float = 0.0,
        lanes: int = 1,
    ) -> None:
        self._run = run
        self._size = size
        self._linger = linger
        self._lanes = lanes
        self._waiting: deque[tuple[Q, Future[A]]] = deque()
        self._arrival = threading.Condition()  # guards what is above and below
        self._working = 0  # lanes with a thread

    def enqueue(self, questions: Sequence[Q]) -> list[Future[A]]:
        """The answers to come, in the order of the questions; does not wait for them. One that is
        cancelled before its batch begins is not asked."""
        asked: list[tuple[Q, Future[A]]] = [(question, Future()) for question in questions]
        with self._arrival:
            for _ in asked[: self._lanes - self._working]:
                threading.Thread(target=self._work, name="qinsight-batch", daemon=True).start()
                self._working += 1
            self._waiting.extend(asked)
            self._arrival.notify_all()
        return [future for _, future in asked]

    def submit(self, questions: Sequence[Q]) -> list[A]:
        """The answers, in the order of the questions; waits for them.

        Raises:
            Exception: whatever `run` raised on a batch that one of the questions was in; those
                that are still waiting are then taken back. Other questions are not affected.
        """
        asked = self.enqueue(questions)
        try:
            return [future.result() for future in asked]
        finally:
            for future in asked:
                future.cancel()  # does nothing to those that are answered

    def _work(self) -> None:
        while batch := self._take():
            try:
                answers = self._run([question for question, _ in batch])
                answered = list(zip(batch, answers, strict=True))
            except BaseException as error:  # the askers wait for it, whatever it is
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), answer in answered:
                    future.set_result(answer)

    def _take(self) -> list[tuple[Q, Future[A]]]:
        """The next batch; empty when nobody asks: the lane's thread is then to end."""
        with self._arrival:
            if self._waiting:
                self._arrival.wait_for(lambda: len(self._waiting) >= self._size, self._linger)
            batch: list[tuple[Q, Future[A]]] = []
            while self._waiting and len(batch) < self._size:
                asked = self._waiting.popleft()
                if asked[1].set_running_or_notify_cancel():
                    batch.append(asked)
            if not batch:
                self._working -= 1
            return batch
