"""Sums of 8-bit products: asked of the CPU, and exact on every one."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import skimage.data
from PIL import Image as PILImage

import qinsight_plugin
from qinsight_plugin.scorers import student
from qinsight_plugin.scorers.saturation import BYTES, PRODUCT_OF_BYTES
from qinsight_plugin.scorers.student import SHIPPED, open_session


def test_the_model_that_asks_is_one_that_onnx_would_write() -> None:
    kinds = onnx.TensorProto
    make, shaped = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [make("MatMulInteger", ["a", "b"], ["y"])],
        "g",
        [shaped("a", kinds.UINT8, (1, BYTES)), shaped("b", kinds.INT8, (BYTES, 1))],
        [shaped("y", kinds.INT32, (1, 1))],
    )
    expected = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=8
    )
    found = onnx.load_model_from_string(PRODUCT_OF_BYTES)
    onnx.checker.check_model(found, full_check=True)
    assert found.graph == expected.graph
    assert found.opset_import == expected.opset_import


def test_sums_of_8_bits_saturate_on_no_cpu() -> None:
    """Bytes of 255 times weights of 127: two such products are more than 16 bits hold."""
    make, floats = onnx.helper.make_node, onnx.TensorProto.FLOAT
    weight = np.full((1, 64, 1, 1), 127, np.int8)
    constants = {
        "one": np.float32(1),
        "none": np.uint8(0),
        "weight": weight,
        "ones": np.ones(1, np.float32),
        "nones": np.zeros(1, np.int8),
        "coarse": np.float32(2**13),
    }
    graph = onnx.helper.make_graph(
        [
            make("QuantizeLinear", ["x", "one", "none"], ["q"]),
            make("DequantizeLinear", ["q", "one", "none"], ["bytes"]),
            make("DequantizeLinear", ["weight", "ones", "nones"], ["weights"], axis=0),
            make("Conv", ["bytes", "weights"], ["sum"]),
            make("QuantizeLinear", ["sum", "coarse", "none"], ["rounded"]),
            make("DequantizeLinear", ["rounded", "coarse", "none"], ["y"]),
        ],
        "saturation",
        [onnx.helper.make_tensor_value_info("x", floats, (1, 64, 8, 8))],
        [onnx.helper.make_tensor_value_info("y", floats, (1, 1, 8, 8))],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    session = open_session(Path("sum.onnx"), model.SerializeToString(), "cpu")
    (found,) = session.run(None, {"x": np.full((1, 64, 8, 8), 255, np.float32)})
    np.testing.assert_allclose(found, 64 * 255 * 127, atol=2**12)


@pytest.mark.parametrize("saturate", [False, True])
def test_only_a_cpu_that_needs_slower_sums_is_asked_for_them(
    monkeypatch: pytest.MonkeyPatch, saturate: bool
) -> None:
    monkeypatch.setattr(student, "sums_saturate", lambda: saturate)
    file = SHIPPED["int8"]
    options = open_session(file, file.read_bytes(), "cpu").get_session_options()
    if saturate:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="x64quantprecision"):
            options.get_session_config_entry("session.x64quantprecision")


def test_a_float_student_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Mock(return_value=False)
    monkeypatch.setattr(student, "sums_saturate", asked)
    for name, times in (("", 0), ("int8", 1)):
        open_session(SHIPPED[name], SHIPPED[name].read_bytes(), "cpu")
        assert asked.call_count == times


SCORED = """
import sys
import qinsight_plugin
from qinsight_plugin.scorers.saturation import sums_saturate
print(sums_saturate(), qinsight_plugin.score(sys.argv[1], scorer="student:int8").value)
"""


@pytest.mark.real
@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates an x86-64 CPU on another")
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-user is not installed")
def test_a_cpu_without_8_bit_dot_products_scores_like_one_that_has_them(tmp_path: Path) -> None:
    """Haswell has AVX2 and no VNNI: there ONNX Runtime's usual sums are too small."""
    path = tmp_path / "coffee.png"
    PILImage.fromarray(skimage.data.coffee()[:256, :256]).save(path)
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", SCORED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saturate, score = done.stdout.split()
    assert saturate == "True"
    here = qinsight_plugin.score(path, scorer="student:int8").value
    assert float(score) == pytest.approx(here, abs=0.05)
