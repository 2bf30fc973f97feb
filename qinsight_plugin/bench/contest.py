"""Times the student beside its peers, on the same pixels, in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from qinsight_plugin.bench.ours import SIZE, Student
from qinsight_plugin.bench.peers import PEERS, Judge, Peer, UnavailableError, first_line, hold_to
from qinsight_plugin.bench.stages import photograph
from qinsight_plugin.bench.turns import take_turns
from qinsight_plugin.decode import decode

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels


@dataclass(frozen=True, slots=True)
class Entry:
    """One that was to be timed.

    Attributes:
        ms: median time from the decoded pixels to the answer; None where it could not be timed.
        times_ours: `ms` over that of the first student.
        note: what about the time is to be known, or why there is none.
    """

    name: str
    ms: float | None
    times_ours: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Contest:
    """Medians over `n` rounds for one picture; every entry is given all of these pixels.

    Attributes:
        title: how the picture came to have its size.
        width, height: in pixels.
    """

    title: str
    width: int
    height: int
    n: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One that may enter: without a judge it cannot, and its note says why."""

    name: str
    judge: Judge | None
    note: str = ""

    @classmethod
    def of(cls, peer: Peer) -> Candidate:
        try:
            return cls(peer.name, peer.ready(), peer.note)
        except UnavailableError as error:
            return cls(peer.name, None, str(error))

    def tried_on(self, pixels: Pixels) -> Candidate:
        """Itself, or without its judge where that fails on such a picture."""
        try:
            if self.judge is not None:
                self.judge(pixels)
        except Exception as error:  # a third party's code may raise anything
            return Candidate(self.name, None, f"fails: {first_line(error)}")
        return self


def measure_peers(
    scorers: Sequence[str], seconds: float, threads: int, peers: Sequence[Peer] = PEERS
) -> list[Contest]:
    """Time students and peers on one megapixel, and on what the first student looks at of it.

    Sets the number of threads of OpenCV and PyTorch in this process.

    Args:
        scorers: `student` or `student:PATH`; the first is what the others are compared with.
        seconds: time spent on each size; three rounds at least are made.
        threads: that each of them may use.

    Raises:
        ConfigError: a scorer is no student.
        QInsightError: a student cannot be loaded.
    """
    students = [Student.open(name, threads) for name in scorers]
    candidates = [Candidate(student.name, student.judge) for student in students]
    others = [Candidate.of(peer) for peer in peers]
    hold_to(threads)
    data, first = photograph(*SIZE), students[0]
    whole = decode(data).pixels
    reduced = decode(data, max_pixels=first.budget, min_side=first.scorer.spec.min_side).pixels
    return [
        hold("every pixel of the file", whole, candidates, others, seconds),
        hold(f"as decoded for {first.name}", reduced, candidates, others, seconds),
    ]


def hold(
    title: str,
    pixels: Pixels,
    students: Sequence[Candidate],
    others: Sequence[Candidate],
    seconds: float,
) -> Contest:
    """One contest, of the students and of those others that can judge this picture."""
    candidates = [*students, *(other.tried_on(pixels) for other in others)]
    able = {c.name: partial(c.judge, pixels) for c in candidates if c.judge is not None}
    series = take_turns(list(able.values()), seconds)
    medians = dict(zip(able, map(statistics.median, series), strict=True))
    ours = medians[students[0].name]
    entries = []
    for candidate in candidates:
        ms = medians.get(candidate.name)
        ratio = None if ms is None else ms / ours
        entries.append(Entry(candidate.name, ms, ratio, candidate.note))
    height, width = pixels.shape[:2]
    return Contest(title, width, height, len(series[0]), tuple(entries))
