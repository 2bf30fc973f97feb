"""A model repository for Triton: by its own schema, and with a graph that takes batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinsight_plugin.errors import ConfigError, WeightsError
from qinsight_plugin.scorers.student import SHIPPED, StudentScorer
from qinsight_plugin.student.triton import Serving, write_repository

from .conftest import Pixels


@pytest.fixture(scope="module", params=["", "int8"])
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_repository(SHIPPED[request.param], folder, Serving("iqa", 4, 500, 2))


def test_the_configuration_is_one_by_tritons_schema(repository: Path) -> None:
    """model_config.proto, as tritonclient's wheel has it compiled."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    config = text_format.Parse((repository / "config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == repository.name == "iqa"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(g.count, g.kind) for g in config.instance_group] == [
        (2, schema.ModelInstanceGroup.KIND_CPU)
    ]
    assert config.parameters["max_pixels"].string_value == "600000"


def test_every_tensor_is_the_graphs(repository: Path) -> None:
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    import onnxruntime
    from google.protobuf import text_format

    config = text_format.Parse((repository / "config.pbtxt").read_text(), schema.ModelConfig())
    session = onnxruntime.InferenceSession(repository / "1" / config.default_model_filename)
    kinds = {"tensor(float)": schema.TYPE_FP32, "tensor(uint8)": schema.TYPE_UINT8}
    for told, real in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [t.name for t in told] == [r.name for r in real]
        for ours, theirs in zip(told, real, strict=True):
            assert ours.data_type == kinds[theirs.type]
            shape = list(ours.reshape.shape) if ours.HasField("reshape") else list(ours.dims)
            assert shape == [s if isinstance(s, int) else -1 for s in theirs.shape[1:]]


def test_a_batch_gives_what_its_pictures_give_one_by_one(
    repository: Path, astronaut: Pixels
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(repository / "1" / "model.onnx")
    pictures = np.stack([astronaut[y : y + 128, y : y + 160] for y in (0, 100, 200, 300)])
    (together,) = session.run(["score"], {"image": pictures})
    alone: Any = [session.run(["score"], {"image": p[None]})[0][0] for p in pictures]
    assert np.allclose(together, alone, atol=1e-3)


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model name"):
        write_repository(SHIPPED[""], tmp_path, Serving("../up"))
    with pytest.raises(ConfigError, match="1 picture or more"):
        write_repository(SHIPPED[""], tmp_path, Serving(max_batch=0))
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(WeightsError):
        write_repository(tmp_path / "junk.onnx", tmp_path)
    write_repository(SHIPPED[""], tmp_path)
    with pytest.raises(ConfigError, match="is there already"):
        write_repository(SHIPPED[""], tmp_path)
    assert not (tmp_path / ".." / "up").exists()
    assert StudentScorer(tmp_path / "qinsight" / "1" / "model.onnx").spec.max_pixels == 600_000
