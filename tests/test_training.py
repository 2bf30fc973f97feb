"""`Trainer`, `qinsight fit` and `qinsight distill`: who is learnt from, and what comes of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pyarrow.parquet
import pytest
import scipy.stats
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

import qinsight_plugin
from qinsight_plugin.cli.main import cli
from qinsight_plugin.cli.training_options import STUDENT, origin, read_start, trainer_of
from qinsight_plugin.errors import ConfigError, ImageError, LabelsError
from qinsight_plugin.labels import Labels
from qinsight_plugin.pairs import Pairs
from qinsight_plugin.scorers.student import SHIPPED_WEIGHTS, StudentScorer
from qinsight_plugin.student.calibrate import calibrate
from qinsight_plugin.student.network import Student
from qinsight_plugin.student.recipe import FROM_IMAGENET, FROM_STUDENT, read_recipe
from qinsight_plugin.student.training import Job, Parts, Trainer, best_of, split
from qinsight_plugin.student.views import RatedSet

from .conftest import Run
from .toy import seeing_student, toy_recipe, toy_student, write_csv, write_pictures

COUNT = 80
LEVEL = 0.5
"""MOS that one degree of blur costs."""


# Who is learnt from


def labels_of(count: int, **columns: Any) -> Labels:
    paths = tuple(Path(f"{i}.png") for i in range(count))
    return Labels(paths, tuple(1 + 4 * i / count for i in range(count)), **columns)


def parts_of(labels: Labels, hold_out: float = 0.2) -> Parts:
    return split(RatedSet(labels, range(len(labels.paths))), toy_recipe(), hold_out)


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "", "e", "f"]), min_size=12, max_size=40))
def test_near_duplicates_stay_on_one_side(clusters: list[str]) -> None:
    clusters = [*clusters, "", "", ""]  # three pictures of their own: no part need be empty
    parts = parts_of(labels_of(len(clusters), cluster=tuple(clusters)))
    own = [parts.train, parts.validation, parts.test]
    assert sorted(itertools.chain(*own)) == list(range(len(clusters)))
    assert all(own)
    for one, other in itertools.combinations(own, 2):
        assert not {clusters[i] for i in one} & {clusters[i] for i in other} - {""}


def test_rows_of_split_test_are_never_trained_on_and_val_rows_calibrate() -> None:
    splits = ("train", "test", "val") * 10
    parts = parts_of(labels_of(30, split=splits))
    rows = [[i for i, name in enumerate(splits) if name == own] for own in ("train", "val", "test")]
    assert [parts.train, parts.validation, parts.test] == rows


def test_rows_of_split_test_leave_nothing_to_be_drawn() -> None:
    parts = parts_of(labels_of(30, split=("train",) * 28 + ("test",) * 2), hold_out=0.5)
    assert parts.test == [28, 29]
    assert len(parts.train) + len(parts.validation) == 28


def test_near_duplicates_across_the_files_own_split_are_left_out() -> None:
    splits = ("train",) * 10 + ("val", "val", "test", "test", "test")
    clusters = ("x", "y") + ("",) * 8 + ("x", "", "y", "z", "")
    parts = parts_of(labels_of(15, split=splits, cluster=clusters))
    assert parts.train == list(range(10))
    assert parts.validation == [11]
    assert parts.test == [13, 14]


def test_near_duplicates_of_what_is_drawn_to_measure_on_do_not_calibrate() -> None:
    """The file names `val` rows and no `test` rows; every `val` row has a double in `train`."""
    clusters = (*map(str, range(20)), *map(str, range(20)), "x")
    parts = parts_of(labels_of(41, split=("train",) * 20 + ("val",) * 21, cluster=clusters))
    assert len(parts.test) == 4
    assert parts.validation == [40]


def test_only_chosen_pictures_are_in_any_part() -> None:
    labels = labels_of(30, split=("train", "test", "val") * 10)
    parts = split(RatedSet(labels, range(12)), toy_recipe(), 0.2)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(12))


def test_the_wanted_share_is_held_out_and_none_where_none_is_wanted() -> None:
    assert len(parts_of(labels_of(100), 0.2).test) == 20
    assert parts_of(labels_of(100), 0.0).test == []


def test_where_all_pictures_are_near_duplicates_nothing_can_be_learnt() -> None:
    with pytest.raises(LabelsError, match=r"no picture is left to learn from .*dup_group"):
        parts_of(labels_of(60, cluster=("a",) * 60))


def test_the_best_rated_share_stands_in_for_undistorted_pictures() -> None:
    labels = labels_of(20)
    chosen = best_of(RatedSet(labels, range(20)), range(10), 0.2)
    assert chosen == [labels.paths[8], labels.paths[9]]
    assert best_of(RatedSet(labels, range(20)), range(10), 0.0) == []
    assert best_of(RatedSet(labels, range(20)), range(10), 1.0) == list(labels.paths[:10])


@pytest.mark.parametrize(
    ("counts", "share", "taken"),
    [
        ({3: 70, 4: 10, 2: 20}, 0.2, 10),  # of the seventy, ten would do
        ({3: 70, 4: 20, 2: 10}, 0.2, 20),
        ({5: 30, 1: 70}, 0.2, 0),  # none is better than the thirty
    ],
)
def test_equally_rated_pictures_are_no_more_than_the_share(
    counts: dict[int, int], share: float, taken: int
) -> None:
    mos = tuple(float(value) for value, count in counts.items() for _ in range(count))
    labels = Labels(tuple(Path(f"{i}.png") for i in range(len(mos))), mos)
    chosen = best_of(RatedSet(labels, range(len(mos))), range(len(mos)), share)
    assert chosen == [p for p, m in zip(labels.paths, mos, strict=True) if m == max(mos)][:taken]


# What comes of it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 windows of a photograph, blurred by known amounts."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, COUNT)
    return folder


def blur_of(number: int) -> int:
    return number % 8


def rated_set(folder: Path, numbers: Sequence[int], **columns: Any) -> RatedSet:
    paths = tuple(folder / f"{k}.png" for k in numbers)
    mos = tuple(4.5 - LEVEL * blur_of(k) for k in numbers)
    return RatedSet(Labels(paths, mos, **columns), range(len(paths)))


def no_step(*_: object) -> None:
    raise AssertionError("training began")


def train(job: Job, student: Student | None = None, **options: Any) -> Any:
    with closing(Trainer(student or toy_student(), job, **{"fresh": True, **options})) as trainer:
        return trainer.on_ratings()


@pytest.mark.slow
def test_a_student_learns_and_its_figures_are_those_of_its_scores(
    folder: Path, tmp_path: Path
) -> None:
    numbers = range(COUNT)
    splits = tuple("test" if k % 5 == 0 else "train" for k in numbers)
    job = Job(
        [rated_set(folder, numbers, split=splits)],
        toy_recipe(epochs=6.0, heads_rate=1e-3),
        tmp_path,
    )
    trained = train(job, seeing_student())
    before, srcc = trained.figures["SRCC"]
    assert before is None
    assert srcc.value > 0.5
    tested = [k for k in numbers if k % 5 == 0]
    pixels = np.stack([np.asarray(PILImage.open(folder / f"{k}.png")) for k in tested])
    with torch.inference_mode():
        scores = trained.student(torch.from_numpy(pixels)).score.numpy()
    mos = [4.5 - LEVEL * blur_of(k) for k in tested]
    # The cache is in half precision, which may turn a near tie.
    assert srcc.value == pytest.approx(scipy.stats.spearmanr(scores, mos).statistic, abs=0.02)
    rmse = np.sqrt(np.mean((scores - mos) ** 2))
    assert trained.figures["RMSE"][1].value == pytest.approx(rmse, abs=0.01)
    assert trained.counts["held_out"] == 16
    assert trained.counts["families"] == 2


@pytest.mark.slow
def test_a_picture_that_is_held_out_is_not_learnt_from_in_another_set_either(
    folder: Path, tmp_path: Path
) -> None:
    own = rated_set(folder, range(40), split=("train",) * 30 + ("test",) * 10)
    other = rated_set(folder, range(20, 60))
    recipe = toy_recipe(epochs=0.1, families=0, validation=0.0)
    trained = train(Job([own, other], recipe, tmp_path))
    # Of the other set's forty, ten are held out in the first.
    assert trained.counts["trained_on"] == 30 + 30
    assert trained.counts["held_out"] == 10


@pytest.mark.parametrize(("validating", "calibrated_on"), [(29, 60), (30, 30)])
def test_few_pictures_do_not_calibrate_alone(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    validating: int,
    calibrated_on: int,
) -> None:
    """And what was trained on does not narrow the spread."""
    calibrating = Mock(wraps=calibrate)
    monkeypatch.setattr("qinsight_plugin.student.training.calibrate", calibrating)
    splits = ("val",) * validating + ("train",) * (60 - validating)
    job = Job(
        [rated_set(folder, range(60), split=splits)], toy_recipe(epochs=0.1, families=0), tmp_path
    )
    trained = train(job)
    assert trained.counts["calibrated_on"] == calibrated_on
    assert calibrating.call_args.kwargs == {"unseen": calibrated_on == validating}
    assert trained.counts["trained_on"] == 60 - validating
    assert trained.figures == {}


def test_what_is_too_little_to_measure_on_is_refused_before_training(
    folder: Path, tmp_path: Path
) -> None:
    splits = ("test",) * 2 + ("train",) * 38
    job = Job([rated_set(folder, range(40), split=splits)], toy_recipe(), tmp_path)
    with pytest.raises(LabelsError, match=r"\b2 (pictures|ratings)"):
        train(job, on_step=no_step)


def test_a_work_folder_of_another_stem_is_refused(folder: Path, tmp_path: Path) -> None:
    job = Job([rated_set(folder, range(40))], toy_recipe(), tmp_path)
    Trainer(toy_student(), job, fresh=True).close()
    with pytest.raises(ConfigError, match="filled by a network with another stem"):
        Trainer(toy_student(seed=1), job, fresh=True)


def all_pairs(folder: Path, numbers: Sequence[int]) -> Pairs:
    """Neighbours, next but one and next but two: the sharper one is better."""
    ahead = [(i, i + d) for d in (1, 2, 3) for i in range(len(numbers) - d)]
    a, b = zip(*ahead, strict=True)
    leads = [blur_of(numbers[j]) - blur_of(numbers[i]) for i, j in ahead]
    preference = tuple(0.5 + 0.5 * float(np.sign(lead)) for lead in leads)
    return Pairs(tuple(folder / f"{k}.png" for k in numbers), a, b, preference)


def test_pairs_have_no_scale_for_a_fresh_student(folder: Path, tmp_path: Path) -> None:
    job = Job((), toy_recipe(), tmp_path, hold_out=0.2)
    with (
        closing(Trainer(toy_student(), job, fresh=True, on_step=no_step)) as trainer,
        pytest.raises(ConfigError, match=r"start from a trained student \(--init\), or fit rat"),
    ):
        trainer.on_pairs(all_pairs(folder, range(20)))


def test_pairs_that_holding_out_leaves_too_few_of_are_refused_before_training(
    folder: Path, tmp_path: Path
) -> None:
    job = Job((), toy_recipe(), tmp_path, hold_out=0.5)
    with (
        closing(Trainer(toy_student(), job, fresh=False, on_step=no_step)) as trainer,
        pytest.raises(LabelsError, match=r"50 are the least: .* or hold out less \(--hold-out\)"),
    ):
        trainer.on_pairs(all_pairs(folder, range(40)))


@pytest.mark.slow
def test_a_student_learns_from_pairs_and_grows_no_surer_of_its_scores(
    folder: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(epochs=12.0, heads_rate=1e-3, batch=16, families=0)
    pairs = all_pairs(folder, range(COUNT))
    # By chance its heads tell sharp from blurred: only who learns comes to prefer the blurred one.
    blurred_is_better = [1 - preferred for preferred in pairs.preference]
    tested = COUNT // 4
    answers = [
        (a, b, preferred, "train" if a >= tested else "test")
        for a, b, preferred in zip(pairs.a, pairs.b, blurred_is_better, strict=True)
        if a >= tested or b < tested
    ]
    first, second, preference, splits = zip(*answers, strict=True)
    pairs = Pairs(pairs.paths, first, second, preference, splits)
    student = standardised(folder)
    with closing(Trainer(student, Job((), recipe, tmp_path), fresh=False)) as trainer:
        trained = trainer.on_pairs(pairs)
    before, after = trained.figures["accuracy"]
    assert before is not None
    assert after.value > before.value + 0.1
    assert trained.counts["trained_on"] == splits.count("train")
    assert trained.counts["held_out"] == splits.count("test")
    pixels = torch.from_numpy(np.asarray(PILImage.open(folder / "0.png"))[None].copy())
    with torch.inference_mode():
        unsure = [own(pixels).uncertainty.item() for own in (student, trained.student)]
    # Its scores moved, so it may be less sure; agreeing with itself makes it no surer.
    assert 0.9 < unsure[1] / unsure[0] < 2


def standardised(folder: Path) -> Student:
    """A student that tells these pictures apart, without having been trained."""
    student = seeing_student()
    pixels = np.stack([np.asarray(PILImage.open(folder / f"{k}.png")) for k in range(16)])
    with torch.inference_mode():
        pooled, _ = student.describe(student.stem(torch.from_numpy(pixels)))
        student.heads.pooled_mean.copy_(pooled.mean(0))
        student.heads.pooled_scale.copy_(1 / (pooled.std(0) + 1e-3))
    return student


# qinsight fit


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "toy.toml"
    changes = {
        "epochs": 5,
        "batch": 8,
        "families": 2,
        "heads_rate": 1e-3,
        "checkpoint_seconds": 0.2,
    }
    text = FROM_STUDENT.read_text("utf-8")
    for name, value in changes.items():
        text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def labels_csv(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings from 0 to 100, and a test split."""
    rows = [
        (folder / f"{k}.png", 90 - 10 * blur_of(k), "test" if k % 5 == 0 else "train")
        for k in range(COUNT)
    ]
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    return write_csv(path, ("path", "mos", "split"), rows)


def invoke(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def kill_when(
    command: Sequence[object], env: dict[str, str], ready: Callable[[], bool], patience: float = 240
) -> str:
    """Run a command and kill it, as an operating system would, once something is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qinsight_plugin", *map(str, command)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        deadline = time.monotonic() + patience
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == -signal.SIGKILL, said
    return said


@pytest.mark.slow
def test_fit_that_was_killed_goes_on_learns_from_both_files_and_writes_a_scorer(
    qinsight: Run,
    folder: Path,
    labels_csv: Path,
    recipe_file: Path,
    tmp_path: Path,
    plugin_folder: Path,
) -> None:
    """The second file's pictures lie elsewhere, and its raters used a fifth of another scale."""
    rows = [(f"{k}.png", 3 - 0.2 * blur_of(k)) for k in range(COUNT) if k % 5]
    second = write_csv(tmp_path / "second.csv", ("filename", "score"), rows)
    out, log = tmp_path / "mine.onnx", tmp_path / "log.jsonl"
    work = tmp_path / "mine.onnx.work"
    env = {"PYTHONPATH": str(plugin_folder), "SAMPLE_LOG": str(log)}
    files = (labels_csv, second, "--images", labels_csv.parent, "--images", folder)
    how = ("--recipe", recipe_file, "--seed", 3, "--out", out)
    command = ("fit", *files, "--scale", "0:100", "--scale", "1:5", *how)
    kill_when(command, env, (work / "checkpoint.pt").exists)
    assert not out.exists()
    first = log.read_text().splitlines()
    done = qinsight(*map(str, command), env=env)
    assert done.returncode == 0, done.stderr
    ((after, steps),) = re.findall(r"went on after step (\d+) of (\d+)", done.stdout)
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    rated = ["fidelity", "map", "mse", "plcc", "spread"]
    of_families = ["distortion", "ladder", "patches"]
    assert seen[0] == [1, sorted([*rated, *of_families])]
    assert [step for step, _ in seen[len(first) :]] == [*range(int(after) + 1, int(steps) + 1)]
    assert not work.exists()
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert (tmp_path / "mine.onnx.sha256").read_text() == f"{digest}  mine.onnx\n"
    (notes,) = [
        json.loads(entry.value)
        for entry in onnx.load(out).metadata_props
        if entry.key == "qinsight_student"
    ]
    assert notes["labels"] == ["labels.csv", "second.csv"]
    assert notes["init"] == "shipped"
    assert notes["device"] == "cpu"
    assert notes["recipe"]["seed"] == 3
    assert notes["held_out"] == 16

    old, new = (measured(labels_csv, scorer) for scorer in ("student", f"student:{out}"))
    assert new["rmse"]["value"] < old["rmse"]["value"]
    assert new["srcc"]["value"] > 0.5
    # What was said of it is what is measured on the file.
    assert "On 16 held out" in done.stdout
    (said,) = re.findall(r"^SRCC .* -> ([-\d.]+) ", done.stdout, re.MULTILINE)
    assert new["srcc"]["value"] == pytest.approx(float(said), abs=0.03)


def measured(labels_csv: Path, scorer: str) -> dict[str, Any]:
    """What `qinsight eval` says of the test pictures."""
    measure = ("eval", labels_csv, "--scale", "0:100", "--split", "test", "--json")
    done = invoke(*measure, "--scorer", scorer)
    assert done.exit_code == 0, done.output
    pooled: dict[str, Any] = json.loads(done.stdout)["pooled"]
    assert pooled["n"] == 16
    return pooled


@pytest.mark.slow
def test_fit_learns_from_a_file_of_pairs(folder: Path, recipe_file: Path, tmp_path: Path) -> None:
    pairs = all_pairs(folder, range(COUNT))
    words = {0.0: "b", 0.5: "similar", 1.0: "a"}
    rows = [
        (pairs.paths[i], pairs.paths[j], words[better])
        for i, j, better in zip(pairs.a, pairs.b, pairs.preference, strict=True)
    ]
    csv_file = write_csv(tmp_path / "pairs.csv", ("a", "b", "better"), rows)
    out = tmp_path / "pairs.onnx"
    done = invoke("fit", csv_file, "--recipe", recipe_file, "--epochs", 2, "--out", out)
    assert done.exit_code == 0, done.output
    ((learnt, left, held),) = re.findall(
        r"^Learnt from (\d+) pairs; (\d+) were left out, .*\nOn (\d+) held out", done.output, re.M
    )
    assert int(learnt) + int(left) + int(held) == len(rows)
    assert re.search(r"^accuracy +0\.\d+ \[.*\] -> 0\.\d+ \[", done.output, re.MULTILINE)
    assert StudentScorer(out).spec.range == (1.0, 5.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "x.pt"), "must end in .onnx"),
        (("--out", "gone/x.onnx"), "gone is not a folder that can be written to"),
        (("--out", "x.onnx"), "on which scale is not stated"),
        (("--out", "x.onnx", "--scale", "1:5"), "the rating is outside 1:5"),
        (("--out", "x.onnx", "--scale", "0:100", "--init", "gone.onnx"), "no model file at"),
        (
            ("--out", "x.onnx", "--scale", "0:100", "--recipe", "gone.toml"),
            "cannot read the recipe",
        ),
        (("--out", "x.onnx", "--scale", "0:100", "--pristine", "gone"), "gone is not a folder"),
        (("--out", "x.onnx", "--scale", "0:100", "--pristine", "empty"), "no pictures in empty"),
        (
            ("--out", "x.onnx", "--scale", "0:1", "--scale", "0:1", "--scale", "0:1"),
            "given 3 times",
        ),
        (("--out", "x.onnx", "--scale", "0:100", "--hold-out", "0.9"), "is not in the range"),
    ],
)
def test_fit_refuses_before_it_begins(
    labels_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    done = invoke("fit", labels_csv, labels_csv, *arguments)
    assert done.exit_code != 0
    assert message in f"{done.output} {done.exception}"
    assert isinstance(done.exception, (SystemExit, ConfigError, LabelsError, ImageError, OSError))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_fit_learns_from_one_file_of_pairs_at_a_time(tmp_path: Path) -> None:
    pairs = write_csv(tmp_path / "pairs.csv", ("a", "b", "better"), [("1.png", "2.png", "a")])
    done = invoke("fit", pairs, pairs, "--out", tmp_path / "x.onnx")
    assert done.exit_code == 2
    assert "pairs are learnt from one file at a time" in done.output


def test_an_error_of_fit_is_a_line_and_no_traceback(qinsight: Run, labels_csv: Path) -> None:
    done = qinsight("fit", labels_csv, "--out", "gone/x.onnx", cwd=labels_csv.parent)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: --out: gone is not a folder")


# qinsight distill


@pytest.mark.slow
def test_distill_that_was_killed_asks_nothing_twice_and_teaches(
    qinsight: Run,
    folder: Path,
    labels_csv: Path,
    recipe_file: Path,
    tmp_path: Path,
) -> None:
    """The shipped student is the teacher, beside people; it is killed once its first answers are
    on disk."""
    out, kept = tmp_path / "small.onnx", tmp_path / "small.onnx.answers.parquet"
    how = ("--recipe", recipe_file, "--epochs", "1", "--out", out)
    people = ("--labels", labels_csv, "--scale", "0:100")
    command = ("distill", folder, "--teacher", "student", *people, *how)
    kill_when(command, {}, lambda: bool(list(kept.glob("*.parquet"))))
    assert not out.exists()
    (first,) = kept.glob("part-000001-*.parquet")
    before = first.read_bytes()
    done = qinsight(*command)
    assert done.returncode == 0, done.stderr
    assert f"asked about {COUNT} of {COUNT} pictures" in done.stdout
    assert f"0 of {COUNT} replies could not be read." in done.stdout
    assert first.read_bytes() == before
    table = pyarrow.parquet.read_table(kept).to_pydict()
    digests = {hashlib.sha256((folder / f"{k}.png").read_bytes()).hexdigest() for k in range(COUNT)}
    assert len(table["digest"]) == COUNT
    assert set(table["digest"]) == digests
    assert set(table["samples"]) == set(table["readable"]) == {1}
    for path, mean in itertools.islice(zip(table["path"], table["mean"], strict=True), 5):
        assert mean == pytest.approx(qinsight_plugin.score(path).value, abs=1e-4)
    # The pictures on which the student is measured are not learnt from the teacher either.
    assert "On 16 held out" in done.stdout
    assert 1 <= qinsight_plugin.score(folder / "0.png", scorer=f"student:{out}").value <= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--teacher", "nobody"), "nobody"),
        (("--teacher", "student", "--scale", "1:5"), "are about --labels, which is not given"),
        (("--teacher", "student", "--answers", "answers"), "must end in .parquet"),
        ((), "Missing option '--teacher'"),
    ],
)
def test_distill_refuses_before_it_begins(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("distill", folder, "--out", "x.onnx", *arguments)
    assert done.exit_code != 0
    assert message in f"{done.output} {done.exception}"
    assert list(tmp_path.iterdir()) == []


# qinsight eval


def test_eval_draws_a_plot_and_counts_what_it_could_not_score(
    qinsight: Run, tmp_path: Path
) -> None:
    rows = [(name, 90 - 10 * blur) for name, blur in write_pictures(tmp_path, 16)]
    labels = write_csv(tmp_path / "labels.csv", ("path", "mos"), rows)
    (tmp_path / "3.png").write_bytes(b"")
    plot = tmp_path / "plot.png"
    done = qinsight("eval", labels, "--scale", "0:100", "--plot", plot)
    assert done.returncode == 3
    assert "Not scored: " in done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == ["pooled", "15"]
    with PILImage.open(plot) as picture:
        assert picture.width >= 600


@pytest.mark.parametrize("command", [("fit", "labels.csv"), ("distill", "pictures")])
def test_what_is_not_installed_is_named_in_one_line(
    qinsight: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A torch that cannot be found stands for one that was never installed."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    teacher = ("--teacher", "student") if command[0] == "distill" else ()
    done = qinsight(
        *command, *teacher, "--out", "x.onnx", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 3
    assert "pip install 'qinsight-plugin[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_starts_are_one_with_their_mean_tail_and_no_heads() -> None:
    student, fresh, recipe = read_start([SHIPPED_WEIGHTS, SHIPPED_WEIGHTS], None, None, None)
    alone, _, _ = read_start([SHIPPED_WEIGHTS], None, None, None)
    assert fresh
    assert recipe == read_recipe(FROM_IMAGENET)
    for key, weights in alone.tail_features.state_dict().items():
        torch.testing.assert_close(student.tail_features.state_dict()[key], weights)


def test_the_larger_student_is_a_start_by_its_name() -> None:
    start = STUDENT.convert("large", None, None)
    student, fresh, recipe = read_start([start], None, None, None)
    assert isinstance(student, Student)
    assert (student.network, fresh) == ("lite2", False)
    assert recipe == read_recipe(FROM_STUDENT)


def test_a_file_says_who_taught_and_where_it_began() -> None:
    a, b = Path("lab/a.onnx"), Path("lab/b.onnx")
    assert origin([], None, []) == {"init": "shipped"}
    assert origin([a, b], None, [b]) == {"init": "a.onnx + b.onnx", "taught_by": "b.onnx"}
    assert origin([], "hf:someone/model", []) == {"backbone": "someone/model"}


def test_two_runs_cannot_share_a_work_folder(tmp_path: Path) -> None:
    job = Job((), toy_recipe(), tmp_path / "work")
    with (
        closing(Trainer(toy_student(), job, fresh=False)),
        pytest.raises(ConfigError, match="work is in use by another run"),
    ):
        Trainer(toy_student(), job, fresh=False)
    Trainer(toy_student(), job, fresh=False).close()


def test_how_far_a_training_is_is_said_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some hundreds of pictures take minutes, in which a count of 500 is never reached."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    trainer = trainer_of(Job((), toy_recipe(), tmp_path), toy_student(), fresh=False)
    with closing(trainer):
        assert trainer.on_cached is not None
        assert trainer.on_step is not None
        for done in range(1, 31):
            now += 1
            trainer.on_cached("pictures", done, 30)
        for step in range(1, 17):
            now += 4
            trainer.on_step(step, 16, {"mse": 0.5})
    told = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    read = [f"read {done} of 30 pictures" for done in (10, 20, 30)]
    assert told == read + [f"step {step} of 16" for step in (1, 4, 7, 10, 13, 16)]
