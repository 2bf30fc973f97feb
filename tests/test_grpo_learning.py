"""That a model learns by GRPO what is in pictures, and not only to please on the average."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qinsight_plugin.evaluate import evaluate
from qinsight_plugin.grpo.plots import draw_seeds
from qinsight_plugin.grpo.run import read_curve

from .conftest import run_command
from .grpo_toy import beginner, write_scores

SEEDS = (0, 1, 2)

SETTINGS = """
model = "model"
output = "out"

[[data]]
task = "score"
labels = "data/scores.csv"
scale = [1, 5]

[rewards]
format = 0.5
continuous = 1

[train]
epochs = 1
generations = 8
batch = 64
per_device = 64
max_tokens = 40
learning_rate = 1e-3
seed = {seed}

[validation]
every = 5
"""


def learn(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The curve of a training of a beginner on 320 pictures, measured on 60 others."""
    beginner(folder / "model", seed)
    write_scores(folder / "data", 320, 60, seed)
    config = folder / "run.toml"
    config.write_text(SETTINGS.format(seed=seed))
    done = run_command("train", "grpo", config, env={"OMP_NUM_THREADS": "1"}, timeout=1500)
    assert done.returncode == 0, done.stderr
    return read_curve(folder / "out" / "curve.jsonl")


def best_of(curve: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was held back, before training and at the step that is kept."""
    held = [entry for entry in curve if entry["kind"] == "held out"]
    return held[0], max(held[1:], key=lambda entry: entry["merit"])


def summary(folder: Path, seed: int, curve: Sequence[dict[str, Any]]) -> str:
    """A row of the README's table."""
    entries = best_of(curve)
    intervals = [interval(folder / "out" / "held-out", entry["step"]) for entry in entries]
    rewards = [f"{entry['reward']:.2f}" for entry in entries]
    return f"| {' | '.join([str(seed), *intervals, *rewards, str(entries[1]['step'])])} |"


def interval(folder: Path, step: int) -> str:
    lines = (folder / f"step-{step:06d}.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    answers, truths = ([float(one[key]) for one in told] for key in ("answer", "truth"))
    return str(evaluate(answers, truths).srcc)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_beginner_learns_how_dark_is_how_bad(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = learn(tmp_path, seed)
    with capsys.disabled():
        print(f"\n{summary(tmp_path, seed, curve)}")
    start, best = best_of(curve)
    assert best["score/srcc"] > max(0.6, start["score/srcc"] + 0.3)
    assert best["reward"] > start["reward"] + 0.15
    assert best["score/unreadable"] < 0.05


if __name__ == "__main__":  # python -m tests.test_grpo_learning FOLDER PICTURE: for the README
    home, picture = map(Path, sys.argv[1:])
    with ProcessPoolExecutor(2) as pool:
        found = pool.map(learn, [home / str(seed) for seed in SEEDS], SEEDS)
    curves = dict(zip(SEEDS, found, strict=True))
    for seed, curve in curves.items():
        print(summary(home / str(seed), seed, curve))
    draw_seeds(curves, picture)
