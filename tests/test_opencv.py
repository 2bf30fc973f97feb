"""OpenCV frames, read by OpenCV itself; the student run by OpenCV beside ONNX Runtime."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import skimage.data
from PIL import Image
from qinsight_plugin.integrations.opencv import Gate, QualityQInsight, draw, score

import qinsight_plugin
from qinsight_plugin.errors import (
    ConfigError,
    ImageDecodeError,
    ImageTooSmallError,
    ImageUnreadableError,
    MissingExtraError,
    WeightsError,
    WeightsNotFoundError,
)
from qinsight_plugin.overlay import overlay
from qinsight_plugin.scorers.opencv import metadata_of
from qinsight_plugin.scorers.student import SHIPPED, SHIPPED_WEIGHTS

from .conftest import Pixels


@pytest.fixture
def frame(photo: Path) -> Any:
    read = cv2.imread(str(photo))
    assert read is not None
    return read


def record(path: Path, frame: Any) -> None:
    """Three times the frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, frame.shape[1::-1])
    for _ in range(3):
        writer.write(frame)
    writer.release()


def test_a_frame_scores_as_its_file(photo: Path, frame: Any) -> None:
    assert score(frame).score == qinsight_plugin.score(photo).score


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_gray_and_transparent_frames_are_taken(
    tmp_path: Path, astronaut: Pixels, mode: str
) -> None:
    path = tmp_path / "photo.png"
    picture = Image.fromarray(astronaut).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(path)
    frame = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert frame is not None
    assert score(frame).value == qinsight_plugin.score(path).value


def test_sixteen_bits_are_scaled(frame: Any) -> None:
    assert score(frame.astype(np.uint16) * 257).value == score(frame).value


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_run_from_zero_to_one(frame: Any, kind: Any) -> None:
    assert score((frame / 255).astype(kind)).value == pytest.approx(score(frame).value, abs=0.01)
    with pytest.raises(ImageDecodeError, match=r"outside 0\.\.1"):
        score(frame.astype(kind))


@pytest.mark.parametrize(
    "view",
    [
        lambda frame: frame[::2, ::2],
        lambda frame: frame[::-1],
        lambda frame: frame[:, ::-1],
        lambda frame: frame[100:300, 50:200],
        lambda frame: np.asfortranarray(frame),
    ],
)
def test_views_of_any_strides_are_taken(frame: Any, view: Callable[[Any], Any]) -> None:
    seen = view(frame)
    assert score(seen).value == score(np.ascontiguousarray(seen).copy()).value


def test_a_umat_is_taken(frame: Any) -> None:
    assert score(cv2.UMat(frame)).value == score(frame).value


def test_a_frame_is_not_changed(frame: Any) -> None:
    before = frame.copy()
    report = score(frame)
    draw(frame, report)
    np.testing.assert_array_equal(frame, before)


def test_a_file_that_opencv_could_not_read_is_an_error() -> None:
    with pytest.raises(ImageDecodeError, match="there is no frame"):
        score(cv2.imread("none.png"))


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (np.zeros((64, 64, 3), np.int32), ImageDecodeError),
        (np.zeros((64, 64, 2), np.uint8), ImageDecodeError),
        (np.zeros((0, 64, 3), np.uint8), ImageDecodeError),
        (np.zeros((1, 64, 64, 3), np.uint8), ImageDecodeError),
        (np.full((64, 64), np.nan), ImageDecodeError),
        ("photo.png", ImageDecodeError),
        (np.zeros((20, 64, 3), np.uint8), ImageTooSmallError),
    ],
)
def test_what_is_no_frame_is_an_error_of_one_line(frame: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        score(frame)
    assert "\n" not in str(caught.value)


def test_the_readme_runs(frame: Any, tmp_path: Path) -> None:
    from qinsight_plugin.integrations import opencv

    text = Path(opencv.__path__[0], "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    cv2.imwrite(str(tmp_path / "photo.jpg"), frame)
    record(tmp_path / "clip.avi", frame)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "map.png").is_file()
    assert (tmp_path / "last_good.png").is_file()


# In the style of cv2.quality


def test_the_class_computes_as_those_of_cv2_quality_do(frame: Any) -> None:
    quality = QualityQInsight.create()
    assert quality.empty()
    assert quality.compute(frame) == (score(frame).value, 0.0, 0.0, 0.0)
    assert not quality.empty()
    assert quality.higher_is_better
    assert quality.range == (1.0, 5.0)
    assert quality.getDefaultName() == "QualityQInsight"
    drawn = quality.getQualityMap()
    assert drawn.dtype == np.float32
    assert drawn.shape == frame.shape[:2]
    assert quality.report is not None
    assert quality.report.score is not None
    cells = quality.report.score.quality_map
    assert cells is not None
    expected = Image.fromarray(cells).resize(drawn.shape[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(drawn, np.asarray(expected), atol=1e-3)
    quality.clear()
    with pytest.raises(ConfigError, match="call compute first"):
        quality.getQualityMap()


def test_larger_is_better(frame: Any) -> None:
    quality = QualityQInsight.create()
    assert quality.compute(cv2.GaussianBlur(frame, (0, 0), 5))[0] < quality.compute(frame)[0]


def test_a_file_of_ones_own_is_loaded(frame: Any, tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(SHIPPED_WEIGHTS.read_bytes())
    assert QualityQInsight.create(str(own)).compute(frame)[0] == score(frame).value
    with pytest.raises(WeightsNotFoundError):
        QualityQInsight.create(str(tmp_path / "none.onnx")).compute(frame)


# A capture loop


class Capture:
    """What `cv2.VideoCapture` does."""

    def __init__(self, frames: list[Any]) -> None:
        self.frames = iter(frames)

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, Any]:
        frame = next(self.frames, None)
        return frame is not None, frame


def test_the_gate_lets_the_good_frames_of_a_capture_through(frame: Any) -> None:
    blurred = cv2.GaussianBlur(frame, (0, 0), 6)
    limit = (score(frame).value + score(blurred).value) / 2
    gate = Gate(limit)
    passed = list(gate.passed(Capture([frame, blurred, frame[::-1].copy()[::-1]])))
    assert len(passed) == 2
    assert all(np.array_equal(one, frame) for one in passed)
    assert gate.verdict is not None
    assert gate.report is not None


def test_a_real_capture_ends(frame: Any, tmp_path: Path) -> None:
    record(tmp_path / "clip.avi", frame)
    assert len(list(Gate(1.0).passed(cv2.VideoCapture(str(tmp_path / "clip.avi"))))) == 3


def test_a_capture_that_is_not_open_is_an_error() -> None:
    with pytest.raises(ImageUnreadableError, match="check the path or the camera"):
        list(Gate(1.0).passed(cv2.VideoCapture("none.avi")))


def test_frames_between_share_a_verdict(frame: Any) -> None:
    blurred = cv2.GaussianBlur(frame, (0, 0), 6)
    gate = Gate(
        qinsight_plugin.Gate(min_score=(score(frame).value + score(blurred).value) / 2), every=2
    )
    assert [gate(one) for one in (frame, blurred, blurred, frame)] == [True, True, False, False]
    with pytest.raises(ConfigError, match="every must be"):
        Gate(3.0, every=0)


def test_a_new_capture_shares_no_verdict_with_the_last(frame: Any) -> None:
    blurred = cv2.GaussianBlur(frame, (0, 0), 6)
    gate = Gate((score(frame).value + score(blurred).value) / 2, every=3)
    assert len(list(gate.passed(Capture([frame, frame])))) == 2
    assert not list(gate.passed(Capture([blurred, blurred])))


def test_the_rules_are_a_number_of_any_kind_or_a_gate(frame: Any) -> None:
    assert Gate(np.float32(1.0))(frame)
    assert not Gate(np.int64(5))(frame)
    for wrong in ("policy.toml", None, True):
        with pytest.raises(ConfigError, match=rf"a qinsight_plugin\.Gate, not {wrong!r}"):
            Gate(wrong)


def test_a_frame_that_cannot_be_scored_is_as_the_gate_says() -> None:
    tiny = np.zeros((8, 8, 3), np.uint8)
    assert not Gate(1.0)(tiny)
    assert Gate(qinsight_plugin.Gate(min_score=1.0, unscorable="accept"))(tiny)


# Drawing


@pytest.mark.parametrize("code", [None, cv2.COLOR_BGR2GRAY, cv2.COLOR_BGR2BGRA])
def test_the_map_is_drawn_over_the_frame(frame: Any, code: int | None) -> None:
    blurred = cv2.GaussianBlur(frame, (0, 0), 6)
    shown = blurred if code is None else cv2.cvtColor(blurred, code)
    report = score(shown)
    drawn = draw(shown, report)
    assert drawn.shape == (512, 512, 3)
    assert drawn.dtype == np.uint8
    assert report.score is not None
    assert report.score.quality_map is not None
    rgb = cv2.cvtColor(
        cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR) if shown.ndim == 2 else shown[..., :3],
        cv2.COLOR_BGR2RGB,
    )
    expected = overlay(rgb, report.score.quality_map)[:512, :, ::-1]
    # All but the number in the corner.
    np.testing.assert_array_equal(drawn[60:], expected[60:])
    assert not np.array_equal(drawn[:60], expected[:60])


def test_what_cannot_be_drawn_is_named(frame: Any) -> None:
    report = score(frame)
    with pytest.raises(ConfigError, match="scale it to uint8"):
        draw(frame.astype(np.float32), report)
    for shape in ((512, 512, 2), (512, 512, 5), (1, 512, 512, 3), (512,)):
        with pytest.raises(ConfigError, match=re.escape(f"uint8 frame of shape {list(shape)}")):
            draw(np.zeros(shape, np.uint8), report)
    with pytest.raises(ConfigError, match="no quality map"):
        draw(frame, qinsight_plugin.Report("x", "student"))


# OpenCV as the runner


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    """Sides that no stride divides, a strip that is cut into windows, a picture that is halved."""
    astronaut, coffee = skimage.data.astronaut(), skimage.data.coffee()
    strip = np.tile(astronaut[:40], (1, 40, 1))
    large = np.tile(coffee, (2, 2, 1))
    return [astronaut, coffee[:257, :191], astronaut[:33, :47], strip, large]


def test_opencv_says_what_onnx_runtime_says(pictures: list[Any]) -> None:
    for picture in pictures:
        one = score(picture).score
        other = score(picture, backend="cv2.dnn").score
        assert one is not None
        assert other is not None
        assert other.value == pytest.approx(one.value, abs=1e-4)
        assert other.uncertainty == pytest.approx(one.uncertainty, abs=1e-4)
        assert other.levels == pytest.approx(one.levels, abs=1e-4)
        assert other.distortions == one.distortions
        assert other.quality_map is not None
        np.testing.assert_allclose(other.quality_map, one.quality_map, atol=1e-3)


def test_the_backend_is_a_scorer_too(photo: Path) -> None:
    report = qinsight_plugin.score(photo, scorer="opencv")
    assert report.scorer == "opencv"
    assert f"OpenCV {cv2.__version__}" in report.scorer_version
    assert report.value == pytest.approx(qinsight_plugin.score(photo).value, abs=1e-4)


def test_several_threads_may_ask_at_once(pictures: list[Any]) -> None:
    alone = [qinsight_plugin.score(picture, scorer="opencv").value for picture in pictures]
    together = qinsight_plugin.score_many(pictures * 3, scorer="opencv", workers=4)
    assert [report.value for report in together] == alone * 3


def test_metadata_is_read_as_onnx_reads_it() -> None:
    for path in SHIPPED.values():
        props = onnx.load(path, load_external_data=False).metadata_props
        assert metadata_of(path.read_bytes()) == {entry.key: entry.value for entry in props}
    for junk in (b"", b"\xff" * 40, SHIPPED_WEIGHTS.read_bytes()[:1000], b"\x72\x7f"):
        assert metadata_of(junk) == {}


@pytest.mark.parametrize(
    ("scorer", "error", "says"),
    [
        ("student:int8", ConfigError, "int8, which OpenCV runs wrongly"),
        ("student:fp16", ConfigError, "float16, which OpenCV runs wrongly"),
        ("student:{junk}", WeightsError, "is not a qinsight student"),
        ("student:none.onnx", WeightsNotFoundError, "no model file at none.onnx"),
        ("reasoning", ConfigError, "runs student files only"),
    ],
)
def test_what_opencv_cannot_run_is_refused(
    tmp_path: Path, frame: Any, scorer: str, error: type[Exception], says: str
) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    with pytest.raises(error, match=says) as caught:
        score(frame, scorer=scorer.format(junk=junk), backend="cv2.dnn")
    assert "\n" not in str(caught.value)


def test_an_unknown_backend_is_named(frame: Any) -> None:
    with pytest.raises(ConfigError, match=r"not one of onnxruntime, cv2\.dnn"):
        score(frame, backend="dnn")


def test_an_older_opencv_is_refused(frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "__version__", "4.12.0")
    with pytest.raises(ConfigError, match=r"OpenCV 4\.12\.0 reads this kind of network wrongly"):
        score(frame, scorer=f"student:{SHIPPED_WEIGHTS}", backend="cv2.dnn")


def test_without_opencv_the_extra_is_named(frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"qinsight-plugin\[opencv\]"):
        score(frame)
