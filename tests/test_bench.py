"""`qinsight bench`: who takes turns, who is named when absent, and what is counted. No time is
judged here: machines are noisy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from scipy import ndimage

from qinsight_plugin.bench.contest import Candidate, Contest, Entry, hold
from qinsight_plugin.bench.macs import count_macs
from qinsight_plugin.bench.ours import Student
from qinsight_plugin.bench.peers import PEERS, Peer, UnavailableError, laplacian
from qinsight_plugin.bench.roofline import Reach, Roofline, sgemm, student_macs, u8s8
from qinsight_plugin.bench.stages import photograph
from qinsight_plugin.bench.turns import take_turns
from qinsight_plugin.cli.bench_command import contest_lines, roofline_lines
from qinsight_plugin.cli.main import cli
from qinsight_plugin.decode import decode
from qinsight_plugin.errors import ConfigError, MissingExtraError
from qinsight_plugin.scorers.student import SHIPPED_WEIGHTS

from .conftest import Pixels, Run

QUICK = ("bench", "--seconds", "0.1")


def test_bench_prints_a_row_a_size(qinsight: Run) -> None:
    found = json.loads(qinsight(*QUICK, "--json").stdout)
    assert [row["megapixels"] for row in found["sizes"]] == [0.3072, 0.995328, 12.0]
    assert all(row["total_ms"] > 0 and row["n"] >= 3 for row in found["sizes"])
    assert (found["peers"], found["roofline"]) == ([], None)


@pytest.mark.slow
def test_bench_tables_name_every_student_and_every_peer(qinsight: Run, tmp_path: Path) -> None:
    own = f"student:{shutil.copy(SHIPPED_WEIGHTS, tmp_path / 'own.onnx')}"
    both = ("--scorer", "student", "--scorer", own, "--threads", "1")
    done = qinsight(*QUICK, *both, "--peers", "--roofline", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["threads"] == 1
    assert [row["scorer"] for row in found["sizes"]] == ["student"] * 3 + [own] * 3

    sizes = [(contest["width"], contest["height"]) for contest in found["peers"]]
    assert sizes == [(1152, 864), (576, 432)]
    for contest in found["peers"]:
        entries = contest["entries"]
        assert [entry["name"] for entry in entries] == ["student", own, *(p.name for p in PEERS)]
        assert contest["n"] >= 3
        for entry in entries:
            if entry["ms"] is None:
                assert entry["note"].startswith("not installed: pip install ")
                assert entry["times_ours"] is None
            else:
                assert entry["times_ours"] == pytest.approx(entry["ms"] / entries[0]["ms"])

    roofline = found["roofline"]
    assert [reach["scorer"] for reach in roofline["students"]] == ["student", own]
    for reach in roofline["students"]:
        assert reach["gflops"] == pytest.approx(2000 * reach["gmac"] / reach["ms"])
        assert reach["of_sgemm"] == pytest.approx(reach["gflops"] / roofline["sgemm_gflops"])
        assert reach["of_u8s8"] == pytest.approx(reach["gflops"] / roofline["u8s8_gops"])


def test_what_could_not_be_timed_is_a_row_with_its_reason() -> None:
    entries = (
        Entry("student", 26.54, 1.0, ""),
        Entry("slow", 2251.0, 84.82, "random weights"),
        Entry("absent", None, None, "not installed: pip install absent"),
    )
    contest = Contest("every pixel of the file", 1152, 864, 12, entries)
    assert contest_lines([contest], 2) == [
        "Medians in milliseconds from decoded pixels to the answer, CPU, 2 threads each",
        "1152x864, every pixel of the file, n 12",
        "        ms  times ours",
        "      26.5        1.00  student",
        "    2251.0        84.8  slow (random weights)",
        "         -           -  absent (not installed: pip install absent)",
    ]


def test_the_roofline_is_printed_in_rates_and_shares() -> None:
    student = Reach("student", 5.94, 26.5, 448.3, 0.9703, 0.3328)
    lines = roofline_lines(Roofline(1024, 462.0, 1347.0, 0.995, 9, (student,)), 1)
    assert lines == [
        "Matrices of 1024x1024 in ONNX Runtime, CPU, 1 thread, best of 9",
        "     462.0  GFLOP/s float32",
        "    1347.0  GOP/s uint8 by int8",
        "1.0 MP, every pixel seen, decoded pixels to score, best of 9",
        "      GMAC        ms  GFLOP/s  of float32  of uint8 by int8",
        "      5.94      26.5    448.3         97%               33%  student",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--threads", "2"), 2, "--threads is for --peers and --roofline"),
        (("--peers", "--scorer", "nobody"), 3, "no scorer is named 'nobody'"),
    ],
)
def test_bench_refuses_what_it_would_not_heed(
    qinsight: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = qinsight(*QUICK, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_a_roofline_that_cannot_be_drawn_is_known_before_any_timing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr("qinsight_plugin.bench.stages.measure", lambda *_: pytest.fail("timed"))
    done = CliRunner().invoke(cli, ["bench", "--roofline"])
    assert isinstance(done.exception, MissingExtraError), done.output


def test_only_students_can_be_held_to_threads() -> None:
    with pytest.raises(ConfigError, match="scorer pyiqa:nima cannot be held"):
        Student.open("pyiqa:nima", 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_student_is_held_to_its_threads(threads: int) -> None:
    session = Student.open("student", threads).scorer._session
    assert session.get_session_options().intra_op_num_threads == threads


def test_a_student_in_a_contest_sees_every_pixel_at_once() -> None:
    """As the network itself gives it; the scorer would cut a megapixel into two windows."""
    pixels = decode(photograph(1152, 864)).pixels
    session = onnxruntime.InferenceSession(SHIPPED_WEIGHTS, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["score"], {"image": pixels[None]})[0]
    (score,) = Student.open("student", 1).judge(pixels)
    assert score.value == pytest.approx(float(expected), abs=1e-5)


def test_those_compared_take_turns() -> None:
    calls: list[str] = []
    stages = [lambda name=name: calls.append(name) for name in "ab"]
    series = take_turns(stages, 0.0)
    assert calls == ["a", "a", "b", "b"] * 3  # the first run of a turn does not count
    assert [len(times) for times in series] == [3, 3]


def make_module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "raise RuntimeError('operator nms does not exist\\nmore')",
            "installed, does not load: RuntimeError: operator nms does not exist",
        ),
        (
            "import qinsight_absent",
            "installed, does not load: ModuleNotFoundError: No module named 'qinsight_absent'",
        ),
    ],
)
def test_a_broken_peer_is_told_from_an_absent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    broken = make_module(tmp_path, "qinsight_broken", text, monkeypatch)
    for module, expected in (
        (broken, reason),
        ("qinsight_absent", "not installed: pip install it"),
    ):
        candidate = Candidate.of(Peer("x", "it", module, lambda _: repr, ""))
        assert (candidate.judge, candidate.note) == (None, expected)


@pytest.mark.skipif(hasattr(cv2, "quality"), reason="this OpenCV has contrib")
def test_opencv_without_contrib_has_no_brisque() -> None:
    (brisque,) = (peer for peer in PEERS if peer.name == "OpenCV BRISQUE")
    with pytest.raises(UnavailableError, match="pip install opencv-contrib-python-headless in"):
        brisque.ready()


@pytest.mark.filterwarnings("ignore")  # third parties' warnings are their own
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_answers_in_numbers_or_says_what_to_install(peer: Peer, astronaut: Pixels) -> None:
    try:
        answer: Any = peer.ready()(astronaut)
    except UnavailableError as error:
        assert str(error).startswith(f"not installed: pip install {peer.package}")  # noqa: PT017
    else:
        assert np.isfinite(np.asarray(answer)).all()


def test_the_laplacian_variance_is_that_of_scipy(astronaut: Pixels) -> None:
    grey = cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY).astype(float)
    assert laplacian(cv2)(astronaut) == pytest.approx(ndimage.laplace(grey, mode="mirror").var())


def test_one_that_fails_is_listed_and_the_others_are_timed(astronaut: Pixels) -> None:
    def fail(_: Pixels) -> object:
        raise ValueError("no network\nat all")

    ours, other = Candidate("ours", np.mean), Candidate("other", np.max, "a note")
    contest = hold("whole", astronaut, [ours], [Candidate("broken", fail), other], 0.0)
    assert (contest.width, contest.height, contest.n) == (512, 512, 3)
    first, broken, last = contest.entries
    assert first.times_ours == 1
    assert (broken.name, broken.ms, broken.times_ours) == ("broken", None, None)
    assert broken.note == "fails: ValueError: no network"
    assert (last.name, last.note) == ("other", "a note")
    assert last.times_ours is not None
    assert last.times_ours > 0


def model(
    nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], shape: tuple[str | int, ...]
) -> onnx.ModelProto:
    """A graph of float32 tensors from `x` to `y`."""
    tensors = [
        onnx.numpy_helper.from_array(np.zeros(dims, np.float32), name)
        for name, dims in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


NAMED = ("B", 6, "H", "W")


@pytest.mark.parametrize(
    ("make", "shape", "macs"),
    [
        pytest.param(
            lambda: model(
                [helper.make_node("Conv", ["x", "k"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])],
                {"k": (8, 6, 3, 3)},
                NAMED,
            ),
            (1, 6, 10, 12),
            (8 * 5 * 6) * (6 * 9),
            id="convolution with stride 2",
        ),
        pytest.param(
            lambda: model(
                [helper.make_node("Conv", ["x", "k"], ["y"], group=3)],
                {"k": (9, 2, 3, 1)},
                NAMED,
            ),
            (2, 6, 10, 12),
            (2 * 9 * 8 * 12) * (2 * 3),
            id="grouped convolution, batch of 2",
        ),
        pytest.param(
            lambda: model(
                [
                    helper.make_node("Relu", ["x"], ["r"]),
                    helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
                    helper.make_node("Gemm", ["m", "w", "b"], ["h"], transB=1),
                    helper.make_node("MatMul", ["h", "v"], ["y"]),
                ],
                {"w": (5, 6), "b": (5,), "v": (5, 7)},
                NAMED,
            ),
            (4, 6, 10, 12),
            4 * 6 * 5 + 4 * 5 * 7,
            id="layers on pooled features",
        ),
        pytest.param(
            lambda: model(
                [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)], {"w": (3, 5)}, ("K", "M")
            ),
            (3, 4),
            3 * 4 * 5,
            id="transposed left factor",
        ),
    ],
)
def test_operations_are_counted_as_by_hand(
    make: Callable[[], onnx.ModelProto], shape: tuple[int, ...], macs: int
) -> None:
    graph = make()
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    assert count_macs(graph, shape) == macs


def test_what_cannot_be_counted_is_refused() -> None:
    transposed = model(
        [helper.make_node("ConvTranspose", ["x", "k"], ["y"])], {"k": (6, 1, 2, 2)}, NAMED
    )
    with pytest.raises(ConfigError, match="cannot count the operations of ConvTranspose"):
        count_macs(transposed, (1, 6, 4, 4))
    foreign = helper.make_node("Magic", ["x"], ["u"], domain="elsewhere")
    unknown = model([foreign, helper.make_node("MatMul", ["u", "w"], ["y"])], {"w": (6, 2)}, NAMED)
    with pytest.raises(ConfigError, match="No opset import for domain elsewhere"):
        count_macs(unknown, (1, 6, 4, 4))
    unknown.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(ConfigError, match="MatMul : the shape of 'u' is not known"):
        count_macs(unknown, (1, 6, 4, 4))


def test_the_student_has_the_operations_of_mobilenet_v2() -> None:
    """0.300 thousand million at 224x224 (Sandler et al., CVPR 2018, table 4), less the classifier
    and its last convolution, from 320 to 1280 channels at 7x7."""
    expected = 0.300e9 - 1280 * 1000 - 320 * 1280 * 7 * 7
    network = onnx.load(SHIPPED_WEIGHTS)
    assert count_macs(network, (1, 224, 224, 3)) == pytest.approx(expected, rel=0.03)
    # Convolutions scale with the picture, up to the edges of uneven sizes.
    scale = 1152 * 864 / 224**2
    assert student_macs(SHIPPED_WEIGHTS) == pytest.approx(expected * scale, rel=0.03)


@pytest.mark.parametrize(("make", "dtype"), [(sgemm, np.float32), (u8s8, np.int32)])
def test_the_ceilings_are_products_of_the_types_they_are_named_for(
    make: Callable[[int], Callable[[], Any]], dtype: type
) -> None:
    (product,) = make(1)()
    assert (product.shape, product.dtype) == ((1024, 1024), np.dtype(dtype))
    assert product.std() > 1
