"""Bad days of a real server, in small; `python -m tests.faults` and `tests.load` are the large
ones."""

from __future__ import annotations

import asyncio

import pytest

from . import faults, load
from .serving import serving

pytestmark = pytest.mark.slow


def test_a_killed_decoder_costs_no_answer() -> None:
    told = faults.killed_decoders(30, pause=2.0)
    assert "scored" in told


def test_clients_that_hang_up_leave_nothing_behind() -> None:
    assert "then 6 scored" in faults.hung_up(40)


def test_slow_clients_hold_nobody_up() -> None:
    assert "beside them 24 scored" in faults.slow_loris(30)


def test_a_full_disk_stops_nothing() -> None:
    assert "18 scored" in faults.full_disk()


def test_a_model_that_is_swapped_is_taken_whole_or_not_at_all() -> None:
    assert "the junk was refused" in faults.swapped_model(60, pause=0.5)


def test_what_was_accepted_before_the_end_is_answered() -> None:
    assert "exit code 0" in faults.ended_in_mid_work(12)


def test_twice_the_load_loses_nothing() -> None:
    """More clients than the queue holds: each request is answered rightly, or 429."""
    right = faults.expected(load.FILES)
    with serving("--capacity", "8") as server:
        run = asyncio.run(load.Load(server, right).closed(24, 6))
        same = load.counted(server)
    assert set(run.statuses) == {200, 429}
    assert (same[200], same[429]) == (run.statuses[200], run.statuses[429])
    assert run.wrong == 0
