"""The measurement of the large model, run on a small one: only a GPU has room for the other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .conftest import ROOT


@pytest.mark.slow
def test_every_stage_ends_and_says_what_it_took() -> None:
    command = [sys.executable, "-m", "tests.seven_billion", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [stage for k in (1, 2, 3) for stage in ("replies", f"step {k}")]
    assert [one["stage"] for one in told] == ["model", "questions", "questions", *steps, *steps]
    for one in told[1:3]:
        assert one["written_tokens"] == 128 * one["at_once"]
    for one in told[4::2]:
        assert 0 < one["of_it_writing_s"] < one["step_s"]
        assert one["of_it_learning_s"] > 0
