"""The circle: look, rate, scale, train, gate. The raters are made up, and so is their taste."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient
from PIL import Image
from scipy.stats import binomtest

from qinsight_plugin.cli.label_command import ANSWERS
from qinsight_plugin.cli.main import cli
from qinsight_plugin.feedback.app import make_app
from qinsight_plugin.feedback.asking import Asker
from qinsight_plugin.feedback.store import Store
from qinsight_plugin.feedback.study import Block, Study
from qinsight_plugin.student.recipe import FROM_STUDENT

from .simulated_raters import Sort, crowd

RATED, KEPT = 100, 120
SIDE = 96
THRESHOLD = 3.0
PEOPLE: Sequence[Sort] = ("honest",) * 4 + ("noisy", "random")


def casts(folder: Path, count: int, seed: int) -> dict[str, float]:
    """Windows of photographs with a yellow cast, and what this domain's people think of it: 4.6
    without any, 1.4 at its worst. To the shipped student a cast is a matter of taste."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    truth = {}
    for k in range(count):
        photograph = photographs[k % 3]
        top, left = (int(rng.integers(0, side - SIDE)) for side in photograph.shape[:2])
        level = float(rng.uniform(0, 1))
        window = photograph[top : top + SIDE, left : left + SIDE] * np.array(
            [1, 1, 1 - 0.8 * level]
        )
        Image.fromarray(window.astype(np.uint8)).save(folder / f"{k:03}.png")
        truth[f"{k:03}.png"] = 4.6 - 3.2 * level
    return truth


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def rate(folder: Path, truth: dict[str, float]) -> None:
    """Everyone answers every question, through the server."""
    rng = np.random.default_rng(0)
    with closing(Store(folder / ANSWERS)) as store:
        store.extend_pool(sorted(truth), "test")
        study = Study([Block("rating", len(truth))], practice=0, repeat=0.05)
        people = {store.rater(person.name).token: person for person in crowd(rng, PEOPLE)}
        with TestClient(make_app(Asker(study, store, folder))) as client:
            for token, person in people.items():
                state = client.post(f"/api/{token}/open", json={"window": "w"}).json()
                while state["questions"]:
                    number = state["questions"][0]["number"]
                    question = store.question(number)
                    assert question is not None
                    value = person.rate(truth[question.pictures[0].path], rng)
                    body = {"window": "w", "question": number, "value": value, "seconds": 2.0}
                    state = client.post(f"/api/{token}/answer", json=body).json()


def quick_recipe(path: Path) -> Path:
    """The recipe for pictures of one's own, with two families and small batches."""
    text = FROM_STUDENT.read_text("utf-8")
    for name, value in (("epochs", 12), ("batch", 8), ("families", 2), ("heads_rate", 1e-3)):
        text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
    path.write_text(text)
    return path


def right(folder: Path, truth: dict[str, float], scorer: str) -> list[bool]:
    """Whether the gate decides about each picture as the domain's people would."""
    done = invoke("gate", folder, "--min-score", THRESHOLD, "--scorer", scorer, "--jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(truth)
    return [row["accepted"] == (truth[Path(row["source"]).name] >= THRESHOLD) for row in rows]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for a core that other tests keep busy take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_what_people_say_makes_the_gate_decide_as_they_would(tmp_path: Path) -> None:
    truth = casts(tmp_path / "rated", RATED, 0)
    unseen = casts(tmp_path / "unseen", KEPT, 1)
    rate(tmp_path / "rated", truth)

    labels = tmp_path / "labels.csv"
    answers = tmp_path / "rated" / ANSWERS
    said = invoke("scale", answers)
    ((spammer, suggested),) = re.findall(
        r"^(\S+): .*--leave-out '(.+)'$", said.output, re.MULTILINE
    )
    assert spammer == suggested == "random-5"
    done = invoke("scale", answers, "--leave-out", spammer, "--out", labels)
    assert done.exit_code == 0, done.output
    with labels.open() as file:
        scaled = {Path(row["path"]).name: float(row["mos"]) for row in csv.DictReader(file)}
    off = [scaled[name] - mos for name, mos in truth.items()]
    assert np.sqrt(np.mean(np.square(off))) < 0.4

    out = tmp_path / "mine.onnx"
    recipe = quick_recipe(tmp_path / "quick.toml")
    done = invoke("fit", labels, "--scale", "1:5", "--recipe", recipe, "--out", out)
    assert done.exit_code == 0, done.output
    (srcc,) = re.findall(r"^SRCC +(\S+) \[.*?\] -> (\S+) \[(\S+),", done.output, re.MULTILINE)
    assert float(srcc[1]) > float(srcc[0])  # of twenty pictures: no more can be asked of it

    before = right(tmp_path / "unseen", unseen, "student")
    after = right(tmp_path / "unseen", unseen, f"student:{out}")
    intervals = [binomtest(sum(own), KEPT).proportion_ci(0.95, "wilson") for own in (before, after)]
    for own, interval in zip((before, after), intervals, strict=True):
        print(f"gate right: {np.mean(own):.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    gain = np.subtract(after, before, dtype=float)  # the same pictures: a paired comparison
    draws = np.random.default_rng(0).integers(0, KEPT, (2000, KEPT))
    low, high = np.quantile(gain[draws].mean(1), (0.025, 0.975))
    print(f"gain: {gain.mean():.2f} [{low:.2f}, {high:.2f}]; SRCC held out: {srcc}")
    assert low > 0
