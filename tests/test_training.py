"""The training code: its parts against independent calculations, the whole by what it learns."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.stats
import skimage.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from torch import nn

from qinsight_plugin.errors import WeightsError
from qinsight_plugin.labels import Labels
from qinsight_plugin.scorers.student import SHIPPED_WEIGHTS, StudentScorer
from qinsight_plugin.student.cache import StemCache
from qinsight_plugin.student.distort import LADDERS, ladder
from qinsight_plugin.student.export import export_onnx, load_student, read_state
from qinsight_plugin.student.fit import Recipe, calibration_set, split_labels
from qinsight_plugin.student.losses import fidelity_loss, ladder_loss, plcc_loss
from qinsight_plugin.student.network import Student, fold_batch_norm, load_backbone

from .conftest import Pixels, Run

ratings = st.lists(st.floats(1, 5, width=32), min_size=3, max_size=20).filter(
    lambda values: np.std(values) > 0.1
)


@given(ratings, st.integers(0, 100))
def test_plcc_loss_is_pearsons_correlation(rated: list[float], seed: int) -> None:
    predicted = np.random.default_rng(seed).normal(3, 1, len(rated))
    expected = (1 - scipy.stats.pearsonr(predicted, rated).statistic) / 2
    loss = plcc_loss(torch.tensor(predicted), torch.tensor(rated, dtype=torch.float64))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_fidelity_loss_is_the_formula_of_the_paper() -> None:
    """One pair: FRank's 1 - sqrt(p p') - sqrt((1-p)(1-p')) with Thurstone's probabilities."""
    wanted = scipy.stats.norm.cdf(1.0 / (math.sqrt(2) * 0.35))
    given_ = scipy.stats.norm.cdf(-0.5 / (math.sqrt(2) * 0.35))
    expected = 1 - math.sqrt(wanted * given_) - math.sqrt((1 - wanted) * (1 - given_))
    loss = fidelity_loss(torch.tensor([2.0, 2.5]), torch.tensor([4.0, 3.0]), torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_fidelity_loss_ignores_pairs_across_groups() -> None:
    rated, groups = torch.tensor([1.0, 5.0]), torch.tensor([0, 1])
    assert fidelity_loss(torch.tensor([5.0, 1.0]), rated, groups).item() == 0


def test_ladder_loss_asks_for_the_margin_between_neighbours() -> None:
    predicted = torch.tensor([[4.0, 3.9, 3.0], [4.0, 4.5, 1.0]])
    expected = (0.1 + 0.0 + 0.7 + 0.0) / 4
    assert ladder_loss(predicted, 0.2).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LADDERS)
def test_a_ladder_falls_in_fidelity_at_every_rung(name: str, astronaut: Pixels) -> None:
    for distort, settings_ in LADDERS[name]:
        rng = np.random.default_rng(0)
        errors = [
            skimage.metrics.mean_squared_error(astronaut, distort(astronaut, value, rng))
            for value in settings_
        ]
        assert errors == sorted(errors)
        assert errors[0] > 0


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_a_ladder_has_six_pictures_of_one_size_and_is_repeatable(seed: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    name, rungs = ladder(pixels, np.random.default_rng(seed))
    again = ladder(pixels, np.random.default_rng(seed))[1]
    assert name in LADDERS
    assert [rung.shape for rung in rungs] == [(40, 50, 3)] * 6
    assert all((a == b).all() for a, b in zip(rungs, again, strict=True))


def test_batch_norm_is_folded_as_pytorch_computes_it() -> None:
    """A convolution and a BatchNorm of PyTorch, under torchvision's key names."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    unfolded = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm)).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2.0)
    folded = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3)))
    folded.load_state_dict(fold_batch_norm(unfolded.state_dict()))
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(folded(x), unfolded(x), rtol=1e-4, atol=1e-5)


def test_a_backbone_with_tensors_missing_is_refused_by_name() -> None:
    state = Student().state_dict()
    del state["features.3.conv.2.bias"]
    with pytest.raises(WeightsError, match=r"w\.safetensors is no MobileNetV2 1\.0: 1 tensors"):
        load_backbone(Student(), state, "w.safetensors")


def test_stem_and_tail_make_the_whole(astronaut: Pixels) -> None:
    """Through the float16 cache, the tail gives what the network gives."""
    student, fresh = load_student(SHIPPED_WEIGHTS)
    assert not fresh
    cache = StemCache()
    index = cache.add(student, astronaut)
    with torch.inference_mode():
        through_cache = student.tail(cache.whole(index)).item()
        whole = student(torch.from_numpy(astronaut[None].copy())).item()
    assert through_cache == pytest.approx(whole, abs=0.01)


def test_windows_of_several_versions_are_aligned(astronaut: Pixels) -> None:
    student, _ = load_student(SHIPPED_WEIGHTS)
    cache = StemCache()
    first, second = (cache.add(student, astronaut) for _ in range(2))
    stem = cache.aligned([first, second], 5, np.random.default_rng(0))
    assert stem.feature_map.shape == (2, 64, 5, 5)
    assert (stem.feature_map[0] == stem.feature_map[1]).all()


def test_the_export_is_what_pytorch_computes_and_reads_back(tmp_path: Path) -> None:
    student, _ = load_student(SHIPPED_WEIGHTS)
    student.recalibrate(0.5, 0.25)
    difference = export_onnx(student, tmp_path / "s.onnx", {"note": "for a test"})
    assert difference < 1e-4
    state = read_state(tmp_path / "s.onnx")
    for name, tensor in student.state_dict().items():
        assert (state[name] == tensor).all(), name
    text = onnx.load(tmp_path / "s.onnx").SerializeToString()
    assert b"site-packages" not in text
    assert str(Path.cwd()).encode() not in text


def test_recalibration_is_affine_in_logits(astronaut: Pixels) -> None:
    student, _ = load_student(SHIPPED_WEIGHTS)
    pixels = torch.from_numpy(astronaut[None, :128, :128].copy())
    with torch.inference_mode():
        before = student(pixels)
        student.recalibrate(0.5, 0.25)
        after = student(pixels)
    logits = [scipy.special.logit((mos.item() - 1) / 4) for mos in (before, after)]
    assert logits[1] == pytest.approx(0.5 * logits[0] + 0.25, abs=1e-5)


def labels_of(count: int, **columns: Any) -> Labels:
    paths = tuple(Path(f"{i}.png") for i in range(count))
    return Labels(paths, tuple(1 + 4 * i / count for i in range(count)), **columns)


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "", "e", "f"]), min_size=8, max_size=40))
def test_near_duplicates_stay_on_one_side(clusters: list[str]) -> None:
    labels = labels_of(len(clusters), cluster=tuple(clusters))
    train, validation = split_labels(labels, Recipe())
    assert sorted([*train, *validation]) == list(range(len(clusters)))
    assert validation
    assert not {clusters[i] for i in train} & {clusters[i] for i in validation} - {""}


def test_few_pictures_do_not_calibrate_alone() -> None:
    assert calibration_set([0, 1, 2], [3, 4]) == [0, 1, 2, 3, 4]
    assert calibration_set([0, 1, 2], range(3, 33)) == list(range(3, 33))


def test_test_rows_are_never_trained_on() -> None:
    splits = ("train", "test", "val") * 10
    train, validation = split_labels(labels_of(30, split=splits), Recipe())
    assert {splits[i] for i in train} == {"train"}
    assert {splits[i] for i in validation} == {"val"}


@pytest.fixture
def blur_labels(tmp_path: Path, astronaut: Pixels) -> Path:
    """80 windows of a photograph, blurred by amounts that decide their made-up rating."""
    rng = np.random.default_rng(0)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "mos", "split"])
        for k in range(80):
            top, left = rng.integers(0, 512 - 128, 2)
            window = PILImage.fromarray(astronaut[top : top + 128, left : left + 128])
            level = k % 8
            small = max(8, 128 >> (level // 2))
            window = window.resize((small, small)).resize((128, 128))
            window.save(tmp_path / f"{k}.png")
            writer.writerow([f"{k}.png", 90 - 10 * level, "test" if k % 5 == 0 else "train"])
    return tmp_path / "labels.csv"


@pytest.mark.slow
def test_fit_learns_what_the_labels_say_and_writes_a_scorer(
    qinsight: Run, blur_labels: Path, tmp_path: Path, plugin_folder: Path
) -> None:
    out, log = tmp_path / "mine.onnx", tmp_path / "log.jsonl"
    env = {"PYTHONPATH": str(plugin_folder), "SAMPLE_LOG": str(log)}
    command = ("fit", blur_labels, "--scale", "0:100", "--epochs", "6", "--out", out)
    done = qinsight(*command, env=env)
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime agrees with PyTorch" in done.stdout
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert steps[0] == [1, ["fidelity", "ladder", "mse", "plcc"]]
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert (tmp_path / "mine.onnx.sha256").read_text() == f"{digest}  mine.onnx\n"

    measure = ("eval", blur_labels, "--scale", "0:100", "--split", "test", "--json")
    before, after = (
        json.loads(qinsight(*measure, *extra).stdout)["pooled"]
        for extra in ((), ("--scorer", f"student:{out}"))
    )
    assert after["rmse"]["value"] < before["rmse"]["value"]
    assert after["srcc"]["value"] > 0.8
    assert after["n"] == 16


@pytest.mark.slow
def test_fit_gives_the_same_weights_again(qinsight: Run, blur_labels: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for out in files:
        command = ("fit", blur_labels, "--scale", "0:100", "--epochs", "1", "--out", out)
        assert qinsight(*command).returncode == 0
    first, second = (read_state(out) for out in files)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=1e-5, msg=name)
    assert StudentScorer(files[0]).spec.min_side == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "x.pt"), "must end in .onnx"),
        (("--out", "gone/x.onnx"), "gone is not a folder that can be written to"),
        (("--out", "x.onnx"), "on which scale is not stated"),
        (("--out", "x.onnx", "--scale", "1:5"), "the rating is outside 1:5"),
        (("--out", "x.onnx", "--scale", "0:100", "--init", "gone.onnx"), "no model file at"),
    ],
)
def test_fit_refuses_before_it_begins(
    qinsight: Run, blur_labels: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = qinsight("fit", blur_labels, *arguments, cwd=blur_labels.parent)
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_eval_draws_a_plot_and_counts_what_it_could_not_score(
    qinsight: Run, blur_labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "3.png").write_bytes(b"")
    plot = tmp_path / "plot.png"
    done = qinsight("eval", blur_labels, "--scale", "0:100", "--plot", plot)
    assert done.returncode == 3
    assert "Not scored: " in done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == ["pooled", "79"]
    with PILImage.open(plot) as picture:
        assert picture.width >= 600
