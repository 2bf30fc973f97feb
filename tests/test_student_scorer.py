"""The shipped student behind ONNX Runtime: one score for one picture, whatever way it comes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PILImage

import qinsight_plugin
from qinsight_plugin.decode import decode
from qinsight_plugin.errors import (
    ConfigError,
    ImageTooSmallError,
    WeightsChecksumError,
    WeightsError,
    WeightsNotFoundError,
)
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Distortion, Image, Score, Source
from qinsight_plugin.scorers.opinion import score_of
from qinsight_plugin.scorers.student import (
    METADATA_KEY,
    SHIPPED_WEIGHTS,
    SPEC,
    StudentScorer,
    windows,
)
from qinsight_plugin.scorers.student import SHIPPED as FILES

from .conftest import Pixels

SHIPPED = StudentScorer()


def value(source: Source) -> float:
    return qinsight_plugin.score(source).value


def scored(*images: Image) -> list[float]:
    return [score.value for score in SHIPPED.score(images)]


def as_image(pixels: Pixels) -> Image:
    return decode(pixels, max_pixels=SPEC.max_pixels, min_side=SPEC.min_side)


SOURCES: dict[str, Callable[[Path], Source]] = {
    "text path": str,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "stream": lambda path: io.BytesIO(path.read_bytes()),
    "array": lambda path: np.asarray(PILImage.open(path)),
    "float array": lambda path: np.asarray(PILImage.open(path)) / 255.0,
    "PIL image": PILImage.open,
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("size", [(512, 512), (1501, 1003)], ids=["native", "reduced"])
def test_the_same_pixels_have_the_same_score_from_any_source(
    tmp_path: Path, astronaut: Pixels, size: tuple[int, int], make: Callable[[Path], Source]
) -> None:
    path = tmp_path / "photo.png"
    PILImage.fromarray(astronaut).resize(size).save(path)
    assert value(make(path)) == value(path)


def test_the_scores_of_photographs_are_on_the_scale_and_good() -> None:
    for name in ("astronaut", "chelsea", "coffee"):
        assert 3.0 < value(getattr(skimage.data, name)()) <= 5.0


pictures = st.tuples(st.integers(32, 80), st.integers(32, 80)).flatmap(
    lambda size: arrays(np.uint8, (*size, 3), elements=st.integers(0, 255), fill=st.just(128))
)


@settings(max_examples=25, deadline=None)
@given(st.lists(pictures, min_size=1, max_size=5))
def test_a_batch_gives_each_picture_the_score_it_has_alone(batch: list[Pixels]) -> None:
    images = [as_image(pixels) for pixels in batch]
    assert scored(*images) == [scored(image)[0] for image in images]


@settings(max_examples=25, deadline=None)
@given(pictures)
def test_every_picture_has_a_score_on_the_scale(pixels: Pixels) -> None:
    assert 1.0 <= scored(as_image(pixels))[0] <= 5.0


def test_the_score_is_the_same_to_the_bit_in_many_threads(astronaut: Pixels) -> None:
    images = [as_image(astronaut[:, : 480 + k]) for k in range(8)]
    alone = [scored(image)[0] for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: scored(image)[0], images * 4))
    assert together == alone * 4
    assert [score.value for score in StudentScorer().score(images)] == alone


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 32), (32, 4000), (47, 2001)])
def test_small_and_long_pictures_are_scored(height: int, width: int) -> None:
    tiled = np.tile(skimage.data.chelsea()[:height, :400], (1, 11, 1))[:, :width]
    assert 1.0 <= value(np.ascontiguousarray(tiled)) <= 5.0


@pytest.mark.parametrize("shape", [(1, 1, 3), (31, 400, 3), (400, 31, 3)])
def test_what_is_too_small_to_judge_is_refused_with_its_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageTooSmallError, match=f"is {shape[1]}x{shape[0]}; .*32x32 up"):
        value(np.zeros(shape, np.uint8))


def test_a_black_picture_is_bad_but_has_a_score() -> None:
    assert 1.0 <= value(np.zeros((256, 256, 3), np.uint8)) < 2.5


def test_a_strip_is_cut_into_windows_that_cover_it_once() -> None:
    strip = np.arange(40 * 3001 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 3001, 3)
    parts = windows(strip, 50_000)
    assert all(part.shape[0] * part.shape[1] <= 50_000 + 40 for part in parts)
    assert (np.concatenate(parts, axis=1) == strip).all()


UNTURNED = {
    1: None,
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_90,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_270,
}
"""EXIF orientation -> how an upright picture is stored under it (EXIF 2.32, 4.6.4)."""


@settings(max_examples=10, deadline=None)
@given(pictures)
def test_the_eight_exif_orientations_give_one_score(pixels: Pixels) -> None:
    upright = PILImage.fromarray(pixels)
    scores = set()
    for orientation, transpose in UNTURNED.items():
        stored = upright if transpose is None else upright.transpose(transpose)
        exif = PILImage.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        stored.save(buffer, "PNG", exif=exif)
        scores.add(value(buffer.getvalue()))
    assert len(scores) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(10_000, 10_000), (3_125_000, 32)], ids=["square", "strip"])
def test_a_hundred_megapixels_are_scored_in_a_gigabyte_and_a_half(
    tmp_path: Path, astronaut: Pixels, size: tuple[int, int]
) -> None:
    path = tmp_path / "huge.png"
    PILImage.fromarray(astronaut).resize(size).save(path, compress_level=1)
    code = (
        "import pathlib, re, sys, qinsight_plugin\n"
        "report = qinsight_plugin.score(sys.argv[1])\n"
        # Not ru_maxrss, which a child inherits from the process that started it.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "kib = re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]\n"
        "print(report.width, report.height, report.value, kib)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    width, height, mos, kib = (float(word) for word in done.stdout.split())
    assert (width, height) == size
    assert 1.0 <= mos <= 5.0
    assert kib < 1.5 * 1024 * 1024


@pytest.mark.slow
def test_a_large_jpeg_scores_as_its_full_decode_within_a_twentieth(tmp_path: Path) -> None:
    """The decoder's own downscaling, against every pixel decoded and then halved."""
    rng = np.random.default_rng(0)
    differences = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        small = PILImage.fromarray(getattr(skimage.data, name)())
        photograph = np.asarray(small.resize((4000, 3000), PILImage.Resampling.LANCZOS))
        for quality, sigma in ((95, 0), (75, 0), (40, 0), (75, 15)):
            noisy = np.clip(photograph + rng.normal(0, sigma, photograph.shape), 0, 255)
            path = tmp_path / f"{name}-{quality}-{sigma}.jpg"
            PILImage.fromarray(noisy.astype(np.uint8)).save(path, quality=quality)
            differences.append(abs(value(path) - value(np.asarray(PILImage.open(path)))))
    print(f"largest difference of {len(differences)}: {max(differences):.4f}")
    assert max(differences) <= 0.05, differences


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    weights = copy_weights(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(WeightsChecksumError, match=r"does not match student-v2\.onnx\.sha256"):
        StudentScorer(weights)


def copy_weights(folder: Path) -> Path:
    for name in (SHIPPED_WEIGHTS.name, SHIPPED_WEIGHTS.name + ".sha256"):
        shutil.copy(SHIPPED_WEIGHTS.with_name(name), folder)
    return folder / SHIPPED_WEIGHTS.name


@pytest.mark.parametrize("path", FILES.values(), ids=lambda path: path.name)
def test_shipped_checksums_are_in_the_form_that_sha256sum_checks(path: Path) -> None:
    line = path.with_name(path.name + ".sha256").read_text()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert line == f"{digest}  {path.name}\n"


def test_a_report_says_which_weights_scored(photo: Path) -> None:
    digest = hashlib.sha256(SHIPPED_WEIGHTS.read_bytes()).hexdigest()
    assert qinsight_plugin.score(photo).scorer_version == f"sha256:{digest[:16]}"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"not a model")
    with pytest.raises(WeightsError, match=r"junk\.onnx is no ONNX model"):
        StudentScorer(junk)


def test_a_model_that_is_no_student_is_refused(tmp_path: Path) -> None:
    model = onnx.load(SHIPPED_WEIGHTS)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(WeightsError, match="is not a qinsight student"):
        StudentScorer(tmp_path / "other.onnx")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"no model file at .*none\.onnx"):
        qinsight_plugin.score(np.zeros((64, 64)), scorer=f"student:{tmp_path / 'none.onnx'}")


def test_a_device_that_is_not_there_is_an_error_not_a_fallback() -> None:
    with pytest.raises(ConfigError, match="device 'tpu' is not one of cpu, cuda, tensorrt"):
        StudentScorer(device="tpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ConfigError, match="has no CUDAExecutionProvider"):
            StudentScorer(device="cuda")


def test_batches_as_a_gpu_gets_them_give_the_scores_of_single_pictures(astronaut: Pixels) -> None:
    images = [as_image(astronaut[k : k + 100, : 100 + 50 * (k % 2)]) for k in (0, 2, 4, 1, 3, 5)]
    batching = StudentScorer()
    batching._batch = 2
    together = [score.value for score in batching.score(images)]
    assert together == pytest.approx(scored(*images), abs=1e-5)


def outputs(
    score: float = 3.0,
    uncertainty: float = 0.5,
    distortion: tuple[float, ...] = (1, 0, 0, 0, 0),
    severity: tuple[float, ...] = (0, 0, 0, 0),
    shape: tuple[int, int] = (2, 3),
) -> dict[str, npt.NDArray[np.float32]]:
    """What the graph says of one window."""
    low = int(score) - 1
    levels = np.zeros(5)
    levels[low : low + 2] = (1 - score % 1, score % 1)
    values = {
        "score": score,
        "uncertainty": uncertainty,
        "levels": levels,
        "distortion": distortion,
        "severity": severity,
        "quality_map": np.full(shape, score),
    }
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


@pytest.mark.parametrize(
    ("distortion", "severity", "named"),
    [
        ((0.6, 0.1, 0.1, 0.1, 0.1), (4, 4, 4, 4), []),
        ((0.3, 0.1, 0.1, 0.4, 0.1), (0.9, 0.9, 2.6, 0.9), [("blur", "obvious")]),
        ((0.1, 0.2, 0.1, 0.5, 0.1), (1.0, 0.9, 2.4, 3.7), None),
        ((0.2, 0, 0, 0, 0.8), (0, 0, 0, 0.2), [("darken", "slight")]),
        ((0.2, 0.8, 0, 0, 0), (5, 0, 0, 0), [("noise", "catastrophic")]),
        ((0, 0, 1, 0, 0), (0, 3.5, 0, 0), [("compression", "serious")]),
    ],
)
def test_the_likeliest_distortion_is_named_first_and_others_when_present(
    distortion: tuple[float, ...], severity: tuple[float, ...], named: list[tuple[str, str]] | None
) -> None:
    if named is None:
        named = [("blur", "moderate"), ("darken", "serious"), ("noise", "slight")]
    score = score_of([outputs(distortion=distortion, severity=severity)], 0)
    assert score.distortions == tuple(Distortion(*pair) for pair in named)


@given(st.tuples(*[st.floats(0, 1, width=32)] * 5), st.tuples(*[st.floats(0, 5, width=32)] * 4))
def test_distortions_are_named_once_each_and_the_rest_by_falling_severity(
    distortion: tuple[float, ...], severity: tuple[float, ...]
) -> None:
    found = score_of([outputs(distortion=distortion, severity=severity)], 0).distortions
    assert found is not None
    assert (not found) == (np.argmax(distortion) == 0)
    names = [entry.name for entry in found]
    assert len(set(names)) == len(names)
    levels = [severity[DISTORTIONS.index(name)] for name in names[1:]]
    assert levels == sorted(levels, reverse=True)
    for entry in found:
        near = abs(SEVERITIES.index(entry.severity) + 1 - severity[DISTORTIONS.index(entry.name)])
        assert near <= 0.5 or entry.severity == "slight"


def test_the_windows_of_a_strip_become_one_score() -> None:
    calm = outputs(score=4.5, uncertainty=0.3)
    blurred = outputs(2.0, 0.4, (0.1, 0, 0, 0.9, 0), (0, 1.2, 3.1, 0), (2, 4))
    score = score_of([calm, blurred], 1)
    assert score.value == pytest.approx(3.25)
    assert score.uncertainty == pytest.approx((0.5 * (0.09 + 0.16)) ** 0.5)
    assert score.levels == pytest.approx((0, 0.5, 0, 0.25, 0.25))
    assert score.distortions == (
        Distortion("blur", "obvious"),
        Distortion("compression", "slight"),
    )
    assert score.quality_map is not None
    assert score.quality_map.tolist() == [[4.5] * 3 + [2.0] * 4] * 2


def test_a_graph_with_a_score_alone_makes_a_score_alone() -> None:
    halves: list[dict[str, npt.NDArray[np.float32]]] = [
        {"score": np.float32(2.0).reshape(())},
        {"score": np.float32(3.0).reshape(())},
    ]
    assert score_of(halves, 0) == Score(2.5)


def test_the_graph_takes_bytes_casts_first_and_has_three_free_sizes() -> None:
    model = onnx.load(SHIPPED_WEIGHTS)
    (graph_input,) = model.graph.input
    tensor = graph_input.type.tensor_type
    assert tensor.elem_type == onnx.TensorProto.UINT8
    assert [bool(d.dim_param) for d in tensor.shape.dim] == [True, True, True, False]
    assert [node.op_type for node in model.graph.node if "image" in node.input] == ["Cast"]
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 20
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata[METADATA_KEY])["range"] == [1.0, 5.0]
