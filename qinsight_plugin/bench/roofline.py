"""What the student makes of this machine: its rate beside that of bare matrix products.

After Williams, Waterman and Patterson, "Roofline", CACM 2009; the ceiling of computation only. The
products run in the same runtime with the same settings, so what is left is the network's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qinsight_plugin._imports import require
from qinsight_plugin.bench.macs import count_macs
from qinsight_plugin.bench.ours import SIZE, Student
from qinsight_plugin.bench.stages import photograph
from qinsight_plugin.bench.turns import take_turns
from qinsight_plugin.decode import decode
from qinsight_plugin.scorers.student import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qinsight_plugin.bench.turns import Stage

SIDE = 1024


@dataclass(frozen=True, slots=True)
class Reach:
    """A student on a picture of `SIZE`, every pixel seen, in the best of the rounds.

    Attributes:
        gmac: thousand million multiply-accumulate operations; each counts as two below.
        gflops: thousand million operations a second.
        of_sgemm, of_u8s8: share of the machine's rates.
    """

    scorer: str
    gmac: float
    ms: float
    gflops: float
    of_sgemm: float
    of_u8s8: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """Rates in the best of `n` rounds.

    Attributes:
        side: of the square matrices.
        sgemm_gflops: float32 matrices.
        u8s8_gops: the same of uint8 by int8, summed in int32.
        megapixels: of the picture that the students got.
    """

    side: int
    sgemm_gflops: float
    u8s8_gops: float
    megapixels: float
    n: int
    students: tuple[Reach, ...]


def measure_roofline(scorers: Sequence[str], seconds: float, threads: int) -> Roofline:
    """Time matrix products and students in turns, on the CPU.

    Args:
        scorers: `student` or `student:PATH`.
        seconds: time spent; three rounds at least are made.
        threads: that each of them may use.

    Raises:
        MissingExtraError: onnx is not installed.
        ConfigError: a scorer is no student, or its operations cannot be counted.
        QInsightError: a student cannot be loaded.
    """
    students = [Student.open(name, threads) for name in scorers]
    macs = [student_macs(student.weights) for student in students]
    pixels = decode(photograph(*SIZE)).pixels
    ours = [partial(student.judge, pixels) for student in students]
    series = take_turns([sgemm(threads), u8s8(threads), *ours], seconds)
    best = [min(times) for times in series]
    floats, integers = (rate(SIDE**3, ms) for ms in best[:2])
    reached = []
    for student, count, ms in zip(students, macs, best[2:], strict=True):
        own = rate(count, ms)
        reached.append(Reach(student.name, count / 1e9, ms, own, own / floats, own / integers))
    megapixels = SIZE[0] * SIZE[1] / 1e6
    return Roofline(SIDE, floats, integers, megapixels, len(series[0]), tuple(reached))


def rate(macs: int, ms: float) -> float:
    """Thousand million operations a second; a multiplication and an addition are two."""
    return 2 * macs / ms / 1e6


def student_macs(weights: Path) -> int:
    onnx = require("onnx", package="onnx", extra="train", purpose="the roofline")
    width, height = SIZE
    return count_macs(onnx.load(weights), (1, height, width, 3))


def sgemm(threads: int) -> Stage:
    """float32 by float32."""
    import numpy as np

    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, SIDE, SIDE), np.float32)
    return product("MatMul", left, right, np.float32, threads)


def u8s8(threads: int) -> Stage:
    """uint8 by int8, summed in int32: what a quantised network runs."""
    import numpy as np

    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
    right = rng.integers(-128, 128, (SIDE, SIDE), np.int8)
    return product("MatMulInteger", left, right, np.int32, threads)


def product(
    operator: str, left: NDArray[Any], right: NDArray[Any], result: type, threads: int
) -> Stage:
    """A run of a model of one operator; the right factor is part of it, as weights are."""
    onnx = require("onnx", package="onnx", extra="train", purpose="the roofline")
    import numpy as np

    helper = onnx.helper

    def described(name: str, dtype: Any) -> Any:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, element, left.shape)

    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        operator,
        [described("left", left.dtype)],
        [described("product", result)],
        [onnx.numpy_helper.from_array(right, "right")],
    )
    # Versions old enough for every runtime that we support.
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    session = open_session(Path(operator), model.SerializeToString(), "cpu", threads)
    return partial(session.run, ["product"], {"left": left})
