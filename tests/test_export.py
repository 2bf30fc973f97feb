"""A student's files: what they compute, what they say of themselves, and where they may run."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import scipy.stats
import skimage.data
import torch
from PIL import Image as PILImage

from qinsight_plugin.degradations import LEVELS, degrade
from qinsight_plugin.errors import ConfigError, ImageTooLargeError, WeightsError
from qinsight_plugin.records import Image
from qinsight_plugin.scorers import tensorrt
from qinsight_plugin.scorers.student import (
    SHIPPED,
    SHIPPED_WEIGHTS,
    SPEC,
    StudentScorer,
    open_session,
)
from qinsight_plugin.student.export import export_onnx, load_student
from qinsight_plugin.student.graph import (
    metadata,
    read_float_graph,
    read_graph,
    set_metadata,
    write_graph,
)
from qinsight_plugin.student.half import to_fp16
from qinsight_plugin.student.heads import SPREAD_RANGE, Outputs
from qinsight_plugin.student.network import Student
from qinsight_plugin.student.parity import ODD_SHAPES, parity_report
from qinsight_plugin.student.quantize import to_int8
from qinsight_plugin.student.relearn import answers, taught
from qinsight_plugin.student.stem_cells import read_in_cells

from .conftest import Pixels, Run

PARSED_BY_TENSORRT = (
    {"Abs", "Add", "AveragePool", "Cast", "Clip", "Concat", "Constant", "Conv", "Div", "Equal"}
    | {"Erf", "Exp", "Expand", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "Greater"}
    | {"Identity", "Less", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Pad", "Pow", "ReduceMax"}
    | {"ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu"}
    | {"Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub"}
    | {"Tile", "Transpose", "Unsqueeze", "Where"}
)
"""From onnx-tensorrt's docs/operators.md: those that its parser takes in float32 and float16."""


def crops(count: int, side: int) -> list[Pixels]:
    """Windows of photographs, every other one darker and coarser."""
    rng = np.random.default_rng(0)
    pictures: list[Pixels] = []
    for k in range(count):
        photograph = getattr(skimage.data, ("astronaut", "chelsea", "coffee")[k % 3])()
        top, left = (int(rng.integers(0, size - side)) for size in photograph.shape[:2])
        window = photograph[top : top + side, left : left + side]
        if k % 2:
            window = np.repeat(np.repeat(window[::4, ::4] // (1 + k % 5), 4, 0), 4, 1)
        pictures.append(np.ascontiguousarray(window[:side, :side]))
    return pictures


@pytest.fixture(scope="module")
def student() -> Student:
    """Real features, under heads that nobody has trained, set so that pictures differ."""
    torch.manual_seed(0)
    student = Student().eval()
    student.features = load_student(SHIPPED_WEIGHTS)[0].features
    pictures = torch.from_numpy(np.stack(crops(12, 96)))
    with torch.inference_mode():
        pooled, _ = student.describe(student.stem(pictures))
        student.heads.pooled_mean.copy_(pooled.mean(0))
        student.heads.pooled_scale.copy_(1 / (pooled.std(0) + 1e-3))
    return student


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def float32(student: Student, folder: Path) -> Path:
    assert export_onnx(student, folder / "s.onnx", {"data": "none, for a test"}) < 1e-4
    return folder / "s.onnx"


@pytest.fixture(scope="module")
def fp16(float32: Path, folder: Path) -> Path:
    to_fp16(float32, folder / "s-fp16.onnx")
    return folder / "s-fp16.onnx"


@pytest.fixture(scope="module")
def int8(float32: Path, folder: Path) -> Path:
    to_int8(float32, folder / "s-int8.onnx", crops(16, 128))
    return folder / "s-int8.onnx"


@pytest.fixture
def every_kind(float32: Path, fp16: Path, int8: Path) -> Iterator[Path]:
    return iter((float32, fp16, int8))


def run(model: Path | bytes, pixels: Pixels) -> dict[str, Any]:
    data = model.read_bytes() if isinstance(model, Path) else model
    session = open_session(Path("model.onnx"), data, "cpu")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pixels}), strict=True))


def as_image(pixels: Pixels) -> Image:
    return Image(pixels, "<test>", pixels.shape[1], pixels.shape[0])


def test_the_graph_computes_what_pytorch_computes(student: Student, float32: Path) -> None:
    for shape in ((1, 32, 32, 3), (3, 65, 40, 3), (1, 34, 130, 3)):
        pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        with torch.inference_mode():
            expected = student(torch.from_numpy(pixels))._asdict()
        found = run(float32, pixels)
        assert list(found) == list(Outputs._fields)
        for name, tensor in expected.items():
            np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-4, err_msg=name)
        assert found["quality_map"].shape == (shape[0], -(-shape[1] // 32), -(-shape[2] // 32))


def test_the_file_reads_back_as_the_student_that_was_written(
    student: Student, float32: Path
) -> None:
    again, fresh = load_student(float32)
    assert not fresh
    for name, tensor in student.state_dict().items():
        assert (again.state_dict()[name] == tensor).all(), name


def test_a_student_with_equal_tensors_reads_back_too(tmp_path: Path) -> None:
    """Fresh heads hold zeros and ones in plenty, which an exporter might store once."""
    export_onnx(Student(), tmp_path / "fresh.onnx", {})
    assert not load_student(tmp_path / "fresh.onnx")[1]


def test_the_graph_takes_bytes_and_runs_where_tensorrt_parses(float32: Path) -> None:
    model = onnx.load(float32)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20}
    (image,) = model.graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [bool(d.dim_param) for d in image.type.tensor_type.shape.dim] == [True] * 3 + [False]
    assert [node.op_type for node in model.graph.node if "image" in node.input] == ["Cast"]
    assert {node.op_type for node in model.graph.node} <= PARSED_BY_TENSORRT


def test_the_file_says_what_it_is_and_not_where_it_was_made(float32: Path) -> None:
    about = metadata(read_graph(float32))
    assert about["range"] == [1.0, 5.0]
    assert about["precision"] == "float32"
    assert about["data"] == "none, for a test"
    assert {"max_pixels", "min_side", "preprocessing", "version"} <= about.keys()
    data = float32.read_bytes()
    assert b"site-packages" not in data
    assert str(Path.cwd()).encode() not in data


def test_torchvision_weights_are_a_backbone_under_fresh_heads(
    student: Student, tmp_path: Path
) -> None:
    """As torchvision stores them: BatchNorm beside each convolution, and a 19th block."""
    state = {}
    features = {k: v for k, v in student.state_dict().items() if k.startswith("features.")}
    features["features.18.0.weight"] = torch.ones(1280, 320, 1, 1)
    features["features.18.0.bias"] = torch.zeros(1280)
    for key, bias in features.items():
        if key.endswith(".bias"):
            parent, index = key.removesuffix(".bias").rsplit(".", 1)
            norm = f"{parent}.{int(index) + 1}"
            state[f"{parent}.{index}.weight"] = features[key.replace(".bias", ".weight")]
            state[f"{norm}.weight"] = torch.ones_like(bias)
            state[f"{norm}.bias"] = bias
            state[f"{norm}.running_mean"] = torch.zeros_like(bias)
            state[f"{norm}.running_var"] = torch.full_like(bias, 1 - 1e-5)
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    safetensors.torch.save_file(tensors, tmp_path / "backbone.safetensors")
    loaded, fresh = load_student(tmp_path / "backbone.safetensors")
    assert fresh
    for key, tensor in loaded.features.state_dict().items():
        torch.testing.assert_close(tensor, student.features.state_dict()[key])


@pytest.fixture(scope="module")
def version_one(float32: Path, folder: Path) -> Path:
    """As the first version wrote them: a score and nothing else."""
    model = onnx.load(float32)
    del model.graph.output[1:]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.removeprefix("heads.")
    for node in model.graph.node:
        node.input[:] = [name.removeprefix("heads.") for name in node.input]
    about = metadata(model)
    del about["precision"]
    set_metadata(model, about)
    write_graph(model, folder / "v1.onnx")
    return folder / "v1.onnx"


def test_a_file_of_the_first_version_scores_and_is_not_trained_on(
    version_one: Path, float32: Path, astronaut: Pixels
) -> None:
    (score,) = StudentScorer(version_one).score([as_image(astronaut)])
    (newer,) = StudentScorer(float32).score([as_image(astronaut)])
    assert score.value == pytest.approx(newer.value, abs=1e-5)
    assert (score.distortions, score.uncertainty, score.levels) == (None, None, None)
    assert score.quality_map is None
    with pytest.raises(WeightsError, match=r"v1\.onnx was made by an older version: it scores"):
        load_student(version_one)


def test_every_kind_of_file_scores_with_all_its_outputs(
    every_kind: Iterator[Path], astronaut: Pixels
) -> None:
    for path in every_kind:
        (score,) = StudentScorer(path).score([as_image(astronaut[:150])])
        assert score.levels is not None
        assert score.uncertainty is not None
        assert score.quality_map is not None
        assert score.distortions is not None
        assert sum(score.levels) == pytest.approx(1, abs=1e-5)
        mean = sum(level * p for level, p in enumerate(score.levels, 1))
        assert mean == pytest.approx(score.value, abs=1e-5)
        assert SPREAD_RANGE[0] <= score.uncertainty <= SPREAD_RANGE[1]
        assert score.quality_map.shape == (5, 16)
        assert score.quality_map.dtype == np.float32
        assert 1 <= score.quality_map.min() <= score.quality_map.max() <= 5


@pytest.mark.parametrize("turned", [False, True], ids=["across", "down"])
def test_a_strip_has_the_maps_of_its_windows_side_by_side(float32: Path, turned: bool) -> None:
    strip = np.tile(skimage.data.chelsea()[:40, :400], (1, 40, 1))
    pictures = [strip, strip[:, :8000], strip[:, 8000:]]
    if turned:
        pictures = [picture.transpose(1, 0, 2) for picture in pictures]
    assert SPEC.max_pixels is not None
    assert 1 < 40 * 16000 / SPEC.max_pixels < 2
    whole, *parts = StudentScorer(float32).score([as_image(picture) for picture in pictures])
    maps = [part.quality_map for part in parts if part.quality_map is not None]
    assert whole.quality_map is not None
    assert len(maps) == 2
    joined = np.concatenate(maps, axis=1 - turned)
    np.testing.assert_allclose(whole.quality_map, joined, atol=1e-5)
    assert whole.value == pytest.approx(np.mean([part.value for part in parts]), abs=1e-5)


def test_half_precision_is_in_the_convolutions_and_nowhere_else(fp16: Path, float32: Path) -> None:
    model = onnx.load(fp16)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    halved = {n.op_type for n in model.graph.node if kinds.get(n.output[0]) == 10}
    assert onnx.TensorProto.FLOAT16 == 10
    assert halved == {"Conv", "Clip", "Add", "Cast"}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {o.type.tensor_type.elem_type for o in model.graph.output} == {onnx.TensorProto.FLOAT}
    assert [node.op_type for node in model.graph.node if "image" in node.input] == ["Cast"]
    assert {node.op_type for node in model.graph.node} <= PARSED_BY_TENSORRT
    assert fp16.stat().st_size < 0.6 * float32.stat().st_size
    assert metadata(model)["precision"] == "float16"


def test_half_precision_scores_as_float_does(fp16: Path, float32: Path) -> None:
    pictures = np.stack(crops(9, 96))
    apart = np.abs(run(fp16, pictures)["score"] - run(float32, pictures)["score"])
    assert 0 < apart.max() < 0.02


def test_a_bright_flat_picture_keeps_its_statistics_in_half_precision(
    fp16: Path, float32: Path
) -> None:
    """600 x 1000 pixels of 255: sums over them are far beyond 65504."""
    white = np.full((1, 600, 1000, 3), 255, np.uint8)
    found, expected = run(fp16, white), run(float32, white)
    for name in Outputs._fields:
        np.testing.assert_allclose(found[name], expected[name], atol=0.05, err_msg=name)


def test_int8_runs_every_convolution_of_the_backbone_in_integers(
    int8: Path, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(int8, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    # The stem, a block without expansion, merged with the next, and blocks of three convolutions.
    blocks = 1 + 1 + 16 * 3
    assert kinds.count("QLinearConv") == blocks
    assert kinds.count("QLinearAdd") == 10
    assert kinds.count("Conv") == 2  # those of the quality map
    assert "QuantizeLinear" not in kinds


def test_weights_of_7_bits_are_within_7_bits(float32: Path, tmp_path: Path) -> None:
    stages: list[tuple[str, int]] = []

    def watch(items: Iterable[Pixels], total: int, label: str) -> Iterator[Pixels]:
        seen = list(items)
        stages.append((label, len(seen)))
        assert len(seen) == total
        yield from seen

    to_int8(float32, tmp_path / "s.onnx", crops(16, 96), reduce_range=True, watch=watch)
    assert stages == [("Rounding", 32), ("Teaching the heads", 32)]
    held = onnx.load(tmp_path / "s.onnx").graph.initializer
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in held
        if tensor.name.endswith("weight_quantized")
    ]
    assert max(np.abs(weight.astype(int)).max() for weight in weights) == 64
    assert metadata(read_graph(tmp_path / "s.onnx"))["int8"]["reduce_range"] is True


def test_int8_orders_pictures_as_float_does(int8: Path, float32: Path) -> None:
    pictures = np.stack(crops(60, 96)[16:])
    found, expected = (run(file, pictures)["score"] for file in (int8, float32))
    assert scipy.stats.spearmanr(found, expected).statistic > 0.95
    assert np.abs(found - expected).max() < 0.2
    assert metadata(read_graph(int8))["int8"]["pictures"] == 16


@pytest.mark.parametrize("width", [32, 33, 34, 35, 36, 61])
def test_reading_in_cells_changes_nothing_but_the_border(float32: Path, width: int) -> None:
    model = read_float_graph(float32)
    read_in_cells(model)
    onnx.checker.check_model(model, full_check=True)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 45, width, 3), dtype=np.uint8)
    found, expected = run(model.SerializeToString(), pixels), run(float32, pixels)
    for name in Outputs._fields:
        # The border is padded by 128 where the network pads by 127.5.
        np.testing.assert_allclose(found[name], expected[name], atol=0.02, err_msg=name)


def test_int8_wants_pictures_enough(float32: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"15 pictures are too few .* give 16 at least"):
        to_int8(float32, tmp_path / "x.onnx", crops(15, 64))


def test_heads_of_8_bits_learn_to_say_what_those_of_float32_say(student: Student) -> None:
    """Of descriptions with an error that exact ones do not show, on rows that taught nothing."""
    generator = torch.Generator().manual_seed(0)
    heads = copy.deepcopy(student.heads)
    heads.last_layer.weight.data *= 5
    width = len(heads.pooled_mean)
    exact = heads.pooled_mean + torch.randn(600, width, generator=generator) / heads.pooled_scale
    noise = torch.randn(600, 1, generator=generator) * torch.linspace(-1, 1, width)
    rounded = exact + (0.3 + noise) / heads.pooled_scale
    learnt = taught(heads, exact[:500], rounded[:500])
    wanted, before, after = (
        answers(*said).detach()
        for said in (
            (heads, exact[500:]),
            (heads, rounded[500:]),
            (learnt, rounded[500:]),
        )
    )
    assert (after - wanted).abs().mean() < 0.7 * (before - wanted).abs().mean()
    assert torch.equal(answers(heads, exact[500:]), wanted)


@pytest.mark.parametrize(
    ("exact_name", "name", "mean", "most"),
    [("", "int8", 0.03, 0.12), ("large", "large-int8", 0.05, 0.2)],
)
def test_the_shipped_8_bits_say_of_spoilt_pictures_what_float32_says(
    exact_name: str, name: str, mean: float, most: float
) -> None:
    """Of a photograph that nothing was trained on, made worse by scikit-image and OpenCV."""
    photograph = np.ascontiguousarray(skimage.data.coffee()[:384, :384])
    scorers = [StudentScorer(SHIPPED[each]) for each in (exact_name, name)]
    drifts = []
    for distortion, variant in (("blur", "gaussian"), ("compression", "jpeg"), ("noise", "shot")):
        for level in LEVELS:
            spoilt = degrade(photograph, distortion, variant, level, np.random.default_rng(level))
            exact, rounded = (scorer.score([as_image(spoilt)])[0].value for scorer in scorers)
            drifts.append(abs(exact - rounded))
    assert np.mean(drifts) < mean
    assert max(drifts) < most


def test_a_converted_file_is_no_start(int8: Path, fp16: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is int8; start from the float32 file"):
        to_fp16(int8, tmp_path / "x.onnx")
    with pytest.raises(WeightsError, match="is float16; start from the float32 file"):
        load_student(fp16)


def test_a_network_of_another_make_is_no_start(float32: Path, tmp_path: Path) -> None:
    model = onnx.load(float32)
    for node in model.graph.node:
        node.input[:] = [name.replace("features.", "trunk.") for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("features.", "trunk.")
    write_graph(model, tmp_path / "other.onnx")
    with pytest.raises(WeightsError, match=r"other\.onnx has none of a student's features"):
        to_fp16(tmp_path / "other.onnx", tmp_path / "x.onnx")


def test_the_report_compares_each_file_with_pytorch(float32: Path, fp16: Path, int8: Path) -> None:
    rows = parity_report(float32, [fp16, int8], crops(8, 96))
    assert [(row.file, row.precision, row.runner.split()[0]) for row in rows] == [
        ("s.onnx", "float32", "ONNX"),
        ("s.onnx", "float32", "OpenCV"),
        ("s-fp16.onnx", "float16", "ONNX"),
        ("s-int8.onnx", "int8", "ONNX"),
    ]
    exact, opencv, half, integer = rows
    assert exact.outputs["score"].maximum < 1e-4 < half.outputs["score"].maximum
    assert half.outputs["score"].mean < integer.outputs["score"].mean
    assert exact.srcc == 1
    assert exact.odd is not None
    assert exact.odd < 1e-4
    assert all(row.pictures == 8 for row in rows if not row.note)
    assert set(exact.outputs) == set(Outputs._fields)
    if opencv.note:
        assert "not checked" in opencv.note  # OpenCV is absent or under 5: nothing is claimed
    else:
        assert max(d.maximum for d in opencv.outputs.values()) < 1e-3


def test_the_report_shows_a_file_that_computes_something_else(
    student: Student, float32: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = load_student(float32)
    other.heads.recalibrate(1.0, 0.3)
    export_onnx(other, folder / "other.onnx", {})
    pictures = torch.from_numpy(np.stack(crops(3, 64)))
    with torch.inference_mode():
        expected = (other(pictures).score - student(pictures).score).abs()
    low, _, high = expected.sort().values.tolist()
    monkeypatch.setattr("qinsight_plugin.student.parity.NEAR", (low + high) / 2)
    row = parity_report(float32, [folder / "other.onnx"], crops(3, 64))[-1]
    assert row.outputs["score"].maximum == pytest.approx(expected.max().item(), abs=1e-4)
    assert row.outputs["score"].mean == pytest.approx(expected.mean().item(), abs=1e-4)
    assert 0 < row.outputs["score"].near < 1
    near = (expected <= (low + high) / 2).float().mean().item()
    assert row.outputs["score"].near == pytest.approx(near)


def test_windows_of_odd_sizes_have_these_sizes() -> None:
    from qinsight_plugin.student.parity import windows_of

    assert [part.shape[:2] for part in windows_of(crops(1, 40)[0])] == list(ODD_SHAPES)


def test_tensorrt_gets_shapes_half_precision_and_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = tensorrt.provider_options("0123456789abcdef" * 4, 32)
    engines = Path(options.pop("trt_engine_cache_path"))
    assert options.pop("trt_engine_cache_prefix") == engines.name
    assert engines.is_dir()
    assert engines.parent == tmp_path / "qinsight" / "tensorrt"
    assert engines.name.startswith("0123456789abcdef-")
    assert options == {
        "trt_profile_min_shapes": "image:1x32x32x3",
        "trt_profile_opt_shapes": "image:1x576x768x3",
        "trt_profile_max_shapes": "image:16x1280x1280x3",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(engines.parent),
    }


def test_each_model_and_each_profile_has_engines_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {
        tensorrt.provider_options(digest * 64, side)["trt_engine_cache_path"]
        for digest in "ab"
        for side in (32, 64)
    }
    assert len(folders) == 4
    monkeypatch.setattr(tensorrt, "LONGEST_SIDE", 640)
    assert tensorrt.provider_options("a" * 64, 32)["trt_engine_cache_path"] not in folders


def test_a_cache_that_cannot_be_made_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot make .* set XDG_CACHE_HOME"):
        tensorrt.provider_options("a" * 64, 32)


def test_tensorrt_refuses_int8_and_says_which_file_to_take(int8: Path) -> None:
    with pytest.raises(ConfigError, match=r"is an int8 file, .* give it the fp16 or the float32"):
        StudentScorer(int8, "tensorrt")


def test_tensorrt_that_is_not_there_is_an_error_not_a_fallback(fp16: Path) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("TensorRT may be there")
    with pytest.raises(ConfigError, match="onnxruntime here has no TensorrtExecutionProvider"):
        StudentScorer(fp16, "tensorrt")


def test_a_picture_too_long_for_the_engine_is_refused_by_name() -> None:
    tensorrt.require_shape(as_image(np.zeros((1280, 40, 3), np.uint8)))
    with pytest.raises(ImageTooLargeError, match=r"<test> is 1281x40; .* sides up to 1280"):
        tensorrt.require_shape(as_image(np.zeros((40, 1281, 3), np.uint8)))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for k, pixels in enumerate(crops(16, 64)):
        PILImage.fromarray(pixels).save(folder / f"{k:02}.png")
    return folder


def test_the_command_writes_both_files_and_compares_them(
    qinsight: Run, float32: Path, photographs: Path, tmp_path: Path
) -> None:
    half, integer = tmp_path / "half.onnx", tmp_path / "integer.onnx"
    command = ("export", float32, "--fp16", half, "--int8", integer, "--calibrate", photographs)
    done = qinsight(*command)
    assert done.returncode == 0, done.stderr
    assert f"Wrote {half}, 5." in done.stdout
    assert "in MOS, 16 pictures that int8 was made with (--check names others)" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[-4:]] == [
        "s.onnx",
        "s.onnx",
        "half.onnx",
        "integer.onnx",
    ]
    assert done.stderr == ""
    for path in (half, integer):
        assert StudentScorer(path).spec.min_side == 32
        assert (tmp_path / f"{path.name}.sha256").exists()


def test_the_command_compares_as_json_and_names_what_it_could_not_read(
    qinsight: Run, float32: Path, photographs: Path, tmp_path: Path
) -> None:
    for path in sorted(photographs.iterdir())[:3]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"")
    done = qinsight("export", float32, "--check", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["parity"]
    assert rows[0]["pictures"] == 3
    assert rows[0]["outputs"]["score"]["maximum"] < 1e-4
    assert "Not used: " in done.stderr
    assert "broken.png" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "nothing to do"),
        (("--int8", "x.onnx"), 2, "--int8 and --calibrate need each other"),
        (("--check", ".", "--reduce-range"), 2, "--reduce-range is for --int8"),
        (("--fp16", "x.pt"), 2, "x.pt must end in .onnx"),
        (("--fp16", "s.onnx"), 3, "is the student itself"),
        (("--fp16", "gone/x.onnx"), 3, "gone is not a folder that can be written to"),
        (("--int8", "x.onnx", "--calibrate", "."), 3, "0 pictures are too few"),
    ],
)
def test_the_command_refuses_before_it_begins(
    qinsight: Run, float32: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = qinsight("export", float32, *arguments, cwd=float32.parent)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_says_when_tensorrt_is_not_to_be_had(
    qinsight: Run, float32: Path, tmp_path: Path
) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("TensorRT may be there")
    done = qinsight("export", float32, "--fp16", tmp_path / "half.onnx", "--tensorrt")
    assert done.returncode == 3
    assert "onnxruntime here has no TensorrtExecutionProvider" in done.stderr
