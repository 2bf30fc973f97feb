"""The student inside pyiqa, and pyiqa's metrics inside the package.

pyiqa has an environment of its own, see the extra; where it is missing, what needs it is skipped.
No test fetches weights: the metrics asked here have none.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import skimage.metrics
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from qinsight_plugin.integrations.pyiqa import register

import qinsight_plugin as qi
from qinsight_plugin.errors import (
    ConfigError,
    ImageDecodeError,
    ImageTooSmallError,
    MissingExtraError,
    ReferenceMissingError,
    ScorerError,
)
from qinsight_plugin.records import Image
from qinsight_plugin.scorers.pyiqa import PyiqaScorer, Scale, load

ENDS = st.floats(-100, 100, allow_nan=False)


@pytest.fixture(scope="module")
def pyiqa() -> Any:
    if find_spec("pyiqa") is None:
        pytest.skip("pyiqa is not installed")
    describe_operators_of_torchvision()
    return importlib.import_module("pyiqa")


def describe_operators_of_torchvision() -> None:
    """PyPI's torchvision is built for CUDA: beside a CPU build of PyTorch its operators do not
    load, and its import ends at these two, of which nothing here makes use."""
    torch = importlib.import_module("torch")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


_kept: list[Any] = []
"""What PyTorch forgets when nobody holds it."""


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    return [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]


def tensor_of(picture: Any) -> Any:
    import torch

    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255


# The student as a metric


def test_the_metric_gives_the_students_scores(pyiqa: Any, pictures: list[Any]) -> None:
    register()
    register()  # the second time changes nothing
    metric = pyiqa.create_metric("qinsight", device="cpu")
    assert not metric.lower_better
    assert metric.score_range == "1, 5"
    assert "qinsight" in pyiqa.list_models(metric_mode="NR")
    for picture in pictures:
        answer = metric(tensor_of(picture))
        assert answer.shape == (1, 1)
        assert float(answer) == np.float32(qi.score(picture).value)


def test_the_metric_reads_files_and_batches(
    pyiqa: Any, pictures: list[Any], tmp_path: Path
) -> None:
    import torch

    register()
    metric = pyiqa.create_metric("qinsight", device="cpu")
    path = tmp_path / "a.png"
    PILImage.fromarray(pictures[0]).save(path)
    expected = np.float32(qi.score(path).value)
    assert float(metric(str(path))) == expected
    batch = torch.cat([tensor_of(pictures[0]), tensor_of(pictures[0][:, ::-1])])
    assert metric(batch)[:, 0].tolist() == [
        expected,
        np.float32(qi.score(pictures[0][:, ::-1]).value),
    ]
    gray = metric(tensor_of(pictures[0])[:, :1])
    assert float(gray) == np.float32(qi.score(pictures[0][..., 0]).value)


def test_the_readme_runs(pyiqa: Any, pictures: list[Any], tmp_path: Path) -> None:
    from qinsight_plugin.integrations import pyiqa as integration

    text = Path(integration.__path__[0], "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    path = tmp_path / "photo.png"
    PILImage.fromarray(pictures[0]).save(path)
    printed: list[float] = []
    exec(block.replace("photo.png", str(path)), {"print": printed.append})
    assert printed == [np.float32(qi.score(path).value)]


def test_it_says_that_it_is_no_loss(pyiqa: Any, pictures: list[Any]) -> None:
    register()
    metric = pyiqa.create_metric("qinsight", device="cpu", as_loss=True)
    with pytest.raises(ConfigError, match="not as a loss"):
        metric(tensor_of(pictures[0]).requires_grad_())
    with pytest.raises(ImageTooSmallError, match="image 1 is 16x16"):
        metric(tensor_of(pictures[0][:16, :16]))


def test_the_network_refuses_what_is_no_batch_of_pictures() -> None:
    torch = pytest.importorskip("torch")
    metric = importlib.import_module("qinsight_plugin.integrations.pyiqa.metric").QInsightMetric()
    batch = torch.rand(2, 3, 64, 64)
    for wrong in (batch[0], batch[:, :2], batch[..., :0], (batch * 255).byte()):
        with pytest.raises(ImageDecodeError, match=r"pass float \[B, 1 or 3, H, W\], 0 to 1"):
            metric(wrong)
    for value in (math.nan, math.inf, -math.inf):
        batch[1, 2, 3, 4] = value
        with pytest.raises(ImageDecodeError, match="NaN or infinite"):
            metric(batch)
    batch[1, 2, 3, 4] = 1.5  # a little beyond, as a network leaves it
    assert metric(batch).shape == (2, 1)


def test_a_name_that_is_taken_is_refused(pyiqa: Any) -> None:
    with pytest.raises(ConfigError, match="has a metric 'niqe' already"):
        register("niqe")
    assert pyiqa.default_model_configs.DEFAULT_CONFIGS["niqe"]["metric_opts"]["type"] == "NIQE"


def test_another_scorer_can_be_registered(pyiqa: Any, pictures: list[Any]) -> None:
    register("qinsight-int8", "student:int8")
    metric = pyiqa.create_metric("qinsight-int8", device="cpu")
    expected = qi.score(pictures[0], scorer="student:int8").value
    assert float(metric(tensor_of(pictures[0]))) == np.float32(expected)


# Its metrics as scorers


def test_a_metric_of_theirs_is_a_scorer(pyiqa: Any, pictures: list[Any]) -> None:
    """Entropy, 0 to 8 bits: the same as skimage's of the gray levels."""
    report = qi.score(pictures[0], scorer="pyiqa:entropy")
    assert report.score is not None
    theirs = float(pyiqa.create_metric("entropy", device="cpu")(tensor_of(pictures[0])))
    assert report.value == pytest.approx(1 + theirs / 2)
    (note,) = report.notes
    assert note == (
        f"pyiqa's entropy gave {theirs:.6g}, of which larger is better; 0 to 8 are spread over "
        "1 to 5: no MOS"
    )
    assert report.scorer_version == f"pyiqa {pyiqa.__version__} entropy"
    assert report.score.levels is None


def test_our_own_metric_comes_back_as_it_was(pyiqa: Any, pictures: list[Any]) -> None:
    register()
    back = qi.score(pictures[0], scorer="pyiqa:qinsight").value
    assert back == pytest.approx(qi.score(pictures[0]).value, abs=1e-6)


def test_a_full_reference_metric_compares(pyiqa: Any, pictures: list[Any]) -> None:
    noisy = np.clip(pictures[0] + np.random.default_rng(0).normal(0, 20, (512, 512, 3)), 0, 255)
    noisy = noisy.astype(np.uint8)
    psnr = skimage.metrics.peak_signal_noise_ratio(pictures[0], noisy)
    report = qi.score(noisy, scorer="pyiqa:psnr", reference=pictures[0])
    assert report.value == pytest.approx(1 + psnr / 10, abs=1e-3)  # 0 to 40 dB over 1 to 5
    same = qi.score(pictures[0], scorer="pyiqa:psnr", reference=pictures[0])
    assert same.value == 5
    assert "cut off there" in same.notes[-1]
    with pytest.raises(ReferenceMissingError):
        qi.score(noisy, scorer="pyiqa:psnr")


def test_where_smaller_is_better_it_is_turned(pyiqa: Any, pictures: list[Any]) -> None:
    blurred = np.asarray(PILImage.fromarray(pictures[0]).reduce(4).resize((512, 512)))
    same, worse = (
        qi.score(picture, scorer="pyiqa:gmsd", reference=pictures[0])
        for picture in (pictures[0], blurred)
    )
    assert same.value > worse.value
    assert "of which smaller is better; 0 to 1 are spread over 1 to 5" in same.notes[-1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "pyiqa has no metric ''"),
        ("topiq", "such as topiq"),
        ("fid", "judges sets of pictures"),
    ],
)
def test_what_is_no_metric_for_one_picture_is_refused(pyiqa: Any, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(name)


class Fake:
    metric_mode = "NR"
    score_range = "~0, ~1"
    lower_better = False

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, *_: object) -> Any:
        return self.answer


@pytest.mark.parametrize(("answer", "says"), [([1, 2], "one number"), ([math.nan], "gave nan")])
def test_an_answer_that_is_no_number_is_an_error(answer: list[float], says: str) -> None:
    torch = pytest.importorskip("torch")
    scorer = PyiqaScorer(Fake(torch.tensor(answer)), "fake", "0")
    with pytest.raises(ScorerError, match=says):
        scorer.score([Image(np.zeros((8, 8, 3), np.uint8), "x", 8, 8)])


def test_without_pyiqa_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyiqa"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MissingExtraError, match=r"qinsight-plugin\[pyiqa\]"):
        register()
    with pytest.raises(MissingExtraError, match=r"qinsight-plugin\[pyiqa\]"):
        load("topiq_nr")


def test_a_device_that_pyiqa_has_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QINSIGHT_DEVICE", "tensorrt")
    with pytest.raises(ConfigError, match="pyiqa runs on cpu and cuda, not on tensorrt"):
        load("topiq_nr")


# Scales


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("0, 1", (0, 1)),
        ("~0, ~100", (0, 100)),
        ("~-1, ~0.1", (-1, 0.1)),
        ("0, ~", (0, math.inf)),
        ("~, 2", (-math.inf, 2)),
        (None, (-math.inf, math.inf)),
        ("quality: 0, 1; rank: 0, 2", (-math.inf, math.inf)),
    ],
)
def test_ranges_are_read_as_pyiqa_writes_them(text: str | None, ends: tuple[float, float]) -> None:
    scale = Scale.read(text, False)
    assert (scale.low, scale.high) == ends


@given(ENDS, ENDS, st.floats(-1000, 1000), st.floats(-1000, 1000), st.booleans())
def test_better_stays_better_and_within_the_declared_range(
    low: float, high: float, one: float, other: float, lower_better: bool
) -> None:
    for scale in (
        Scale(min(low, high), max(low, high) + 1, lower_better),
        Scale(low, math.inf, lower_better),
    ):
        first, second = scale.turn(one), scale.turn(other)
        assert scale.turned[0] <= first <= scale.turned[1]
        if one <= other:
            assert first >= second if lower_better else first <= second
        json.dumps(scale.note("m", one), allow_nan=False)
