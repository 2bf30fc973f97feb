"""Training by GRPO as its user does it: from the command line, with a tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from qinsight_plugin.attempts import Row
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.grpo.config import Config, DataSet
from qinsight_plugin.grpo.run import (
    WHOLE,
    Curve,
    RunFolder,
    identity_of,
    newest_checkpoint,
    read_curve,
    write_whole,
)

from .conftest import ROOT, Run, run_command
from .grpo_toy import write_comparisons, write_degradations, write_scores

slow = pytest.mark.slow

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "QINSIGHT_BLOCK_PLUGINS": "sample,broken"}


def write_config(folder: Path, model: Path, extra: str = "", **train: Any) -> Path:
    """All three tasks, six steps."""
    if not (folder / "data").exists():
        write_scores(folder / "data", 18, 6)
        write_degradations(folder / "data", 12)
        write_comparisons(folder / "data", 6)
    settings = {
        "epochs": 0.4,
        "generations": 4,
        "batch": 8,
        "per_device": 4,
        "max_tokens": 40,
        "learning_rate": 1e-3,
        **train,
    }
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    path = folder / "run.toml"
    path.write_text(
        f"""
model = {json.dumps(str(model))}
output = "out"

[[data]]
task = "score"
labels = "data/scores.csv"
scale = [1, 5]
weight = 2

[[data]]
task = "degradation"
labels = "data/degradations.jsonl"
weight = 1
proxy = true

[[data]]
task = "comparison"
labels = "data/comparisons.parquet"
weight = 1

[rewards]
format = 0.5
continuous = 1
rank = 0.5
degradation = 1
comparison = 1

[train]
{lines}

[validation]
every = 2
share = 0.2

{extra}
"""
    )
    return path


def figures_of(folder: Path) -> list[dict[str, Any]]:
    """The curve, without what the clock says."""
    return [
        {name: value for name, value in entry.items() if name != "step_time"}
        for entry in read_curve(folder / "out" / "curve.jsonl")
    ]


def weights_of(folder: Path) -> Mapping[str, Any]:
    from safetensors.numpy import load_file

    return load_file(folder / "out" / "model" / "model.safetensors")


def trained(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    done = run_command("train", "grpo", config, env=ENVIRONMENT, cwd=folder, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done


LORA = "[lora]\nrank = 4\nalpha = 8\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, reasoner: Path) -> Any:
    """A finished training, made once for each kind of parameters."""
    made: dict[str, tuple[Path, str]] = {}

    def run(kind: str) -> tuple[Path, str]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            config = write_config(folder, reasoner, LORA if kind == "lora" else "")
            made[kind] = folder, trained(folder, config).stdout
        return made[kind]

    return run


@slow
def test_check_says_that_nothing_is_wrong(tmp_path: Path, reasoner: Path) -> None:
    done = run_command("train", "check", write_config(tmp_path, reasoner), env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "scores.csv: 18 rows of score to train on",
        "degradations.jsonl: 10 rows of degradation to train on",
        "comparisons.parquet: 5 rows of comparison to train on",
        "9 rows are held back to measure on",
        "Nothing is wrong; training will take 6 steps.",
    ]


@slow
def test_check_lists_all_that_is_wrong(tmp_path: Path, reasoner: Path) -> None:
    config = write_config(tmp_path, reasoner)
    (tmp_path / "data" / "3.png").unlink()
    (tmp_path / "data" / "4.png").write_text("no picture")
    with (tmp_path / "data" / "scores.csv").open("a") as file:
        file.write("5.png,3.0,train\n")
    labels = tmp_path / "data" / "degradations.jsonl"
    labels.write_text(labels.read_text().replace('"slight"', '"tiny"', 1))
    done = run_command("train", "check", config, env=ENVIRONMENT)
    assert done.returncode == 3
    assert "there is no picture 3.png" in done.stdout
    assert "4.png" in done.stdout
    assert "scores.csv line 26: the same picture was named in scores.csv line 7" in done.stdout
    assert "the prompt names no severity 'tiny'" in done.stdout
    assert done.stderr == "4 problems: mend or remove these rows\n"
    refused = run_command("train", "grpo", config, env=ENVIRONMENT)
    assert refused.returncode == 3
    assert "and 3 more problems: see qinsight train check" in refused.stderr
    assert not (tmp_path / "out").exists()


@slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_three_tasks_in_one_run(runs: Any, kind: str) -> None:
    folder, printed = runs(kind)
    curve = figures_of(folder)
    assert [entry["step"] for entry in curve if entry["kind"] == "train"] == list(range(1, 7))
    assert [entry["step"] for entry in curve if entry["kind"] == "held out"] == [0, 2, 4, 6]
    for task in ("score", "degradation", "comparison"):
        assert any(f"{task}/reward" in entry for entry in curve if entry["kind"] == "train")
        assert all(f"{task}/unreadable" in entry for entry in curve if entry["kind"] == "held out")
    assert curve[1]["kl"] == 0  # the reference is the model that training starts from
    merits = {entry["step"]: entry["merit"] for entry in curve if "merit" in entry}
    del merits[0]
    best = max(merits, key=lambda step: merits[step])
    assert f"Wrote {folder / 'out' / 'model'}, step {best} of 6." in printed
    kept = {path.name for path in (folder / "out" / "checkpoints").iterdir()}
    assert kept == {f"checkpoint-{best}", "checkpoint-6"}


@slow
def test_what_a_training_leaves_behind(runs: Any) -> None:
    folder, _ = runs("full")
    out = folder / "out"
    for topic in ("reward", "unreadable", "agreement", "optimisation"):
        with PILImage.open(out / "curves" / f"{topic}.png") as picture:
            assert picture.size == (800, 450)
        assert (out / "model" / "curves" / f"{topic}.png").exists()
    text = (out / "samples" / "step-000006.txt").read_text()
    assert text.count("--- reward") == 8
    assert "truth:" in text
    lines = (out / "held-out" / "step-000006.jsonl").read_text().splitlines()
    held = [json.loads(line) for line in lines]
    assert len(held) == 9
    assert {"row", "task", "picture", "truth", "answer", "reply"} == set(held[0])
    card = (out / "model" / "README.md").read_text()
    assert "| degradations.jsonl | degradation | 10 | computed by a program |" in card
    assert "| score/srcc | 6 |" in card
    assert "learning_rate = 0.001" in card
    assert re.search(
        r"95 % bootstrap intervals, over the [3-6] ratings that can be read: SRCC", card
    )
    assert str(folder.parent) not in card
    assert "merit" not in card

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 7))
    assert {"reward", "agreement"} <= set(board.Tags()["images"])


@slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_scorer_loads_what_was_trained(runs: Any, kind: str, qinsight: Run) -> None:
    folder, _ = runs(kind)
    picture = folder / "data" / "0.png"
    done = qinsight("score", picture, "--scorer", f"reasoning:{folder / 'out' / 'model'}", "--json")
    assert done.returncode == 0, done.stderr
    assert "score" in json.loads(done.stdout)[0]


@slow
def test_a_finished_training_is_not_done_again(runs: Any) -> None:
    folder, _ = runs("lora")
    again = trained(folder, folder / "run.toml")
    assert "is there: this training is done" in again.stdout


def killed_in_step(folder: Path, config: Path, step: int) -> None:
    """Start a training and kill it without warning in the step after `step`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qinsight_plugin", "train", "grpo", str(config)],
        env={**os.environ, **ENVIRONMENT},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    curve = folder / "out" / "curve.jsonl"
    end = time.monotonic() + 1200
    while time.monotonic() < end:
        if any(e["step"] == step and e["kind"] == "train" for e in read_curve(curve)):
            break
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_killed_and_resumed_is_as_uninterrupted(
    tmp_path: Path, runs: Any, reasoner: Path, kind: str
) -> None:
    """Killed once in the step after a checkpoint, and once where none is yet."""
    whole, _ = runs(kind)
    config = write_config(tmp_path, reasoner, LORA if kind == "lora" else "")
    killed_in_step(tmp_path, config, 1)
    killed_in_step(tmp_path, config, 3)
    torn = tmp_path / "out" / "checkpoints" / "checkpoint-4"
    torn.mkdir(exist_ok=True)  # as if it had been killed in the middle of saving
    (torn / WHOLE).unlink(missing_ok=True)
    done = trained(tmp_path, config)
    assert "goes on after step 2" in done.stdout
    assert figures_of(tmp_path) == figures_of(whole)
    ours, theirs = weights_of(tmp_path), weights_of(whole)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@slow
def test_another_training_does_not_take_the_folder(tmp_path: Path, runs: Any) -> None:
    folder, _ = runs("full")
    other = folder / "other.toml"
    other.write_text((folder / "run.toml").read_text().replace("rank = 0.5", "rank = 0.25"))
    done = run_command("train", "grpo", other, env=ENVIRONMENT)
    assert done.returncode == 3
    assert "holds a training with other rewards: name another output" in done.stderr


@slow
def test_it_stops_when_nothing_better_comes(tmp_path: Path, reasoner: Path) -> None:
    """A learning rate of nothing: the first measurement is as good as any."""
    config = write_config(tmp_path, reasoner, learning_rate=1e-12, epochs=2)
    config.write_text(config.read_text().replace("every = 2", "every = 1\npatience = 2"))
    done = trained(tmp_path, config)
    assert "Stopped early: 2 measurements brought no better." in done.stdout
    assert "step 1 of" in done.stdout
    assert read_curve(tmp_path / "out" / "curve.jsonl")[-1]["step"] == 3


@slow
def test_a_reward_that_fails_stops_the_run_and_names_the_row(
    tmp_path: Path, reasoner: Path, plugin_folder: Path
) -> None:
    config = write_config(tmp_path, reasoner)
    config.write_text(config.read_text().replace("rank = 0.5", "brevity = 1"))
    path = os.pathsep.join(filter(None, [str(plugin_folder), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "SAMPLE_REWARD_FAILS": "1"}
    environment["SAMPLE_LOG"] = str(tmp_path / "log")
    done = run_command("train", "grpo", config, env=environment, cwd=tmp_path)
    assert done.returncode == 3
    assert "reward brevity failed on scores.csv line" in done.stderr
    assert done.stderr.count("\n") <= 2  # one line, beside that of the plugin made broken
    assert not (tmp_path / "out" / "model").exists()


@slow
def test_two_processes_share_a_batch(tmp_path: Path, reasoner: Path) -> None:
    """As on two GPUs, by gloo: each writes and judges half of the replies."""
    config = write_config(tmp_path, reasoner, epochs=0.15)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    done = subprocess.run(
        [*launch, "-m", "qinsight_plugin", "train", "grpo", str(config)],
        env={**os.environ, **ENVIRONMENT},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    curve = read_curve(tmp_path / "out" / "curve.jsonl")
    assert [entry["step"] for entry in curve if entry["kind"] == "train"] == [1, 2]
    assert (tmp_path / "out" / "model" / "README.md").exists()


def test_a_curve_forgets_what_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    curve = Curve(path, -1)
    for step in range(4):
        curve.add(step, "train", {"loss": float(step)})
    with path.open("a") as file:
        file.write('{"step": 4, "ki')  # cut short by a kill
    assert [entry["step"] for entry in Curve(path, 2).entries] == [0, 1, 2]
    assert [entry["step"] for entry in read_curve(path)] == [0, 1, 2]


def test_a_run_folder_is_one_training_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out", {"seed": 1})
    with pytest.raises(ConfigError, match="another training is at work in it"):
        RunFolder(tmp_path / "out", {"seed": 1})
    folder.close()
    with pytest.raises(ConfigError, match="holds a training with other seed"):
        RunFolder(tmp_path / "out", {"seed": 2})
    RunFolder(tmp_path / "out", {"seed": 1}).close()


def test_a_training_is_of_its_weights_and_of_what_is_held_back() -> None:
    def identity(cut: int, weight: float) -> dict[str, Any]:
        data = DataSet("score", Path("scores.csv"), scale=(1, 5), weight=weight)
        rows = [Row("score", (Path(f"{k}.png"),), float(k), f"line {k}") for k in range(6)]
        return identity_of(Config("model", Path("out"), (data,)), [rows[:cut], rows[cut:]], "abc")

    start = identity(4, 1)
    assert identity(4, 1) == start
    for other, what in ((identity(3, 1), "data"), (identity(4, 2), "weights")):
        assert {name for name in start if other[name] != start[name]} == {what}


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out", {})
    assert newest_checkpoint(folder.folder) is None
    for step, whole in ((2, True), (10, True), (12, False)):
        path = folder.checkpoints / f"checkpoint-{step}"
        path.mkdir(parents=True)
        if whole:
            write_whole(path / WHOLE, "")
    assert newest_checkpoint(folder.folder) == (10, folder.checkpoints / "checkpoint-10")
    folder.close()
    RunFolder(tmp_path / "out", {}).close()
    assert {path.name for path in folder.checkpoints.iterdir()} == {"checkpoint-2", "checkpoint-10"}
