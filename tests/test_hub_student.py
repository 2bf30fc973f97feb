"""Students on backbones of transformers: small random ones, saved on the spot, loaded by folder.

Their environment is their own, since optimum wants an older transformers than others do; where
the packages are missing, the tests that need them are skipped.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import safetensors.torch
import scipy.stats
import skimage.data
import torch

from qinsight_plugin.errors import ConfigError, MissingExtraError, WeightsError
from qinsight_plugin.records import Image
from qinsight_plugin.scorers.student import METADATA_KEY, SHIPPED_WEIGHTS, StudentScorer
from qinsight_plugin.student.cache import StemCache
from qinsight_plugin.student.heads import Outputs
from qinsight_plugin.student.hub import HubStudent, load_hub_backbone
from qinsight_plugin.student.hub_export import export_hub_onnx, hub_to_int8

Pixels = npt.NDArray[np.uint8]
Save = Callable[[str], Path]

MEAN, DEVIATION = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("ResNet", {**STAGES, "embedding_size": 8, "layer_type": "basic"}),
    "convnext": ("ConvNext", STAGES),
    "mobilenet": ("MobileNetV2", {"depth_multiplier": 0.25}),
    "vit": ("ViT", {**VIT, "image_size": 64, "patch_size": 16}),
    "dinov2": ("Dinov2", {**VIT, "image_size": 70, "patch_size": 14, "mlp_ratio": 2}),
    "registers": ("Dinov2WithRegisters", {**VIT, "image_size": 70, "mlp_ratio": 2}),
    "swin": ("Swin", {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}),
    "bert": ("Bert", {**VIT, "vocab_size": 50}),
}
EXPORTABLE = ["resnet", "convnext", "mobilenet", "vit", "dinov2"]


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Write a small random model of an architecture, as its authors would; give its folder."""
    transformers = pytest.importorskip("transformers")

    def written(architecture: str) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        name, settings = ARCHITECTURES[architecture]
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**settings)
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
        values = {"do_normalize": True, "image_mean": MEAN, "image_std": DEVIATION}
        (folder / "preprocessor_config.json").write_text(json.dumps(values), "utf-8")
        return folder

    return written


def student_on(folder: Path) -> HubStudent:
    torch.manual_seed(1)
    return HubStudent(load_hub_backbone(f"hf:{folder}")).eval()


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def normalised(images: Pixels) -> torch.Tensor:
    """What the model's own preprocessor hands it, by the definition of its settings."""
    x = (images / 255.0 - MEAN) / DEVIATION
    return torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("architecture", ["dinov2", "resnet"])
def test_the_map_is_what_transformers_lays_out_as_a_backbone(save: Save, architecture: str) -> None:
    """transformers has classes of its own that turn hidden states into maps."""
    transformers = pytest.importorskip("transformers")
    folder = save(architecture)
    kind = getattr(transformers, f"{ARCHITECTURES[architecture][0]}Backbone")
    reference = kind.from_pretrained(folder, out_indices=[4]).eval()
    images = noise(2, 75, 133)
    with torch.no_grad():
        *_, deepest = load_hub_backbone(f"hf:{folder}")(torch.from_numpy(images))
        (expected,) = reference(normalised(images)).feature_maps
    torch.testing.assert_close(deepest, expected, atol=1e-4, rtol=1e-4)


def test_the_shallow_description_is_mean_and_deviation_of_earlier_states(save: Save) -> None:
    transformers = pytest.importorskip("transformers")
    folder = save("resnet")
    images = noise(1, 64, 80)
    model = transformers.ResNetModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(normalised(images), output_hidden_states=True).hidden_states
        stem = student_on(folder).stem(torch.from_numpy(images))
    seen = [images[0].transpose(2, 0, 1) / 127.5 - 1, *(states[k][0].numpy() for k in (1, 2, 3))]
    expected = [
        statistic for x in seen for statistic in (x.mean((1, 2)), np.sqrt(x.var((1, 2)) + 1e-6))
    ]
    np.testing.assert_allclose(stem.shallow[0], np.concatenate(expected), atol=1e-4)


def test_training_mode_leaves_the_backbone_as_it_was_pretrained(save: Save) -> None:
    """ResNet's batch normalisation would otherwise learn from whatever passes through."""
    student = student_on(save("resnet"))
    images = torch.from_numpy(noise(2, 64, 64))
    before = student.stem(images)
    student.train()
    after = student.stem(images)
    assert student.heads.training
    assert torch.equal(before.feature_map, after.feature_map)
    assert not any(weight.requires_grad for weight in student.backbone.parameters())
    assert all(weight.requires_grad for weight in student.heads.parameters())


def cache_in(folder: Path, student: Any) -> StemCache:
    return StemCache(folder, student)


def test_a_cache_refuses_another_backbone(save: Save, tmp_path: Path) -> None:
    cache_in(tmp_path, student_on(save("resnet"))).close()
    with pytest.raises(ConfigError, match="another stem"):
        cache_in(tmp_path, student_on(save("convnext")))


def darkened(photo: Pixels, count: int, seed: int) -> tuple[list[Pixels], npt.NDArray[np.float32]]:
    """Windows of a photograph at brightnesses of 0.1 to 1, and the MOS that follows from them."""
    rng = np.random.default_rng(seed)
    brightness = rng.uniform(0.1, 1.0, count)
    pictures = []
    for factor in brightness:
        top, left = rng.integers(photo.shape[0] - 96), rng.integers(photo.shape[1] - 128)
        window = photo[top : top + 96, left : left + 128]
        pictures.append((window * factor).astype(np.uint8))
    return pictures, (1 + 4 * brightness).astype(np.float32)


def learn(student: HubStudent, cache: StemCache, mos: npt.NDArray[np.float32]) -> None:
    """Fit the heads' score to the ratings of the cached pictures "0", "1", ..."""
    stems = cache.cropped([cache[str(i)] for i in range(len(mos))], 99, np.random.default_rng(0))
    wanted = torch.from_numpy(mos)
    with torch.no_grad():
        pooled, _ = student.describe(stems)
        student.heads.pooled_mean.copy_(pooled.mean(0))
        student.heads.pooled_scale.copy_(1 / (pooled.std(0) + 1e-3))
    optimizer = torch.optim.AdamW(student.heads.parameters(), lr=3e-3)
    student.train()
    for _ in range(150):
        loss = torch.nn.functional.mse_loss(student.tail(stems).mos, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    student.eval()


@pytest.fixture(scope="session", params=["resnet", "vit"])
def trained(
    request: pytest.FixtureRequest, save: Save, tmp_path_factory: pytest.TempPathFactory
) -> HubStudent:
    """A student that has learnt from cached stem outputs how dark a picture is."""
    student = student_on(save(request.param))
    pictures, mos = darkened(skimage.data.astronaut(), 48, seed=0)
    cache = cache_in(tmp_path_factory.mktemp("cache"), student)
    for index, picture in enumerate(pictures):
        cache.add(str(index), picture)
    learn(student, cache, mos)
    cache.close()
    return student


@pytest.fixture(scope="session")
def held_out() -> tuple[list[Pixels], npt.NDArray[np.float32]]:
    return darkened(skimage.data.coffee(), 24, seed=1)


def test_heads_learn_from_cached_outputs_what_holds_for_another_photograph(
    trained: HubStudent, held_out: tuple[list[Pixels], npt.NDArray[np.float32]]
) -> None:
    pictures, mos = held_out
    with torch.inference_mode():
        scores = trained(torch.from_numpy(np.stack(pictures))).score
    assert scipy.stats.spearmanr(scores, mos).statistic > 0.9
    assert np.square(scores.numpy() - mos).mean() < 0.5 * mos.var()


@pytest.fixture(scope="session")
def exported(trained: HubStudent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("optimum.onnxruntime")
    path = tmp_path_factory.mktemp("exported") / "mine.onnx"
    assert export_hub_onnx(trained, path, {"trained_on": 48}) < 1e-3
    return path


def scores_of(path: Path, pictures: list[Pixels]) -> npt.NDArray[np.float64]:
    images = [Image(picture, "test", *picture.shape[1::-1]) for picture in pictures]
    return np.array([score.value for score in StudentScorer(path).score(images)])


def test_the_scorer_agrees_with_pytorch_at_sizes_not_traced(
    exported: Path,
    trained: HubStudent,
    held_out: tuple[list[Pixels], npt.NDArray[np.float32]],
) -> None:
    pictures = [picture[: 96 - 3 * i, 5 * i :] for i, picture in enumerate(held_out[0][:12])]
    with torch.inference_mode():
        expected = [trained(torch.from_numpy(p[None].copy())).score.item() for p in pictures]
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(scores_of(exported, pictures), expected, atol=1e-3)


def test_the_file_keeps_the_contract_of_a_student(exported: Path) -> None:
    data = exported.read_bytes()
    published = exported.with_name("mine.onnx.sha256").read_text("ascii")
    assert published == f"{hashlib.sha256(data).hexdigest()}  mine.onnx\n"
    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [20]
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == list(Outputs._fields)
    (entry,) = model.metadata_props
    metadata = json.loads(entry.value)
    assert entry.key == METADATA_KEY
    assert (metadata["max_pixels"], metadata["min_side"]) == (600_000, 32)
    assert metadata["trained_on"] == 48
    assert str(Path(__file__).parents[1]).encode() not in data


def test_int8_keeps_the_order_and_leaves_the_heads_in_float(
    exported: Path, held_out: tuple[list[Pixels], npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    hub_to_int8(exported, out, darkened(skimage.data.astronaut(), 24, seed=2)[0])
    whole, quantised = scores_of(exported, held_out[0]), scores_of(out, held_out[0])
    assert scipy.stats.spearmanr(whole, quantised).statistic > 0.98
    assert 0 < np.abs(whole - quantised).max() < 0.15

    model = onnx.load(out)
    assert json.loads(model.metadata_props[0].value)["precision"] == "int8"
    graph = model.graph
    maker = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    fed = Counter(
        (node.name.startswith("/backbone/"), maker.get(name))
        for node in products
        for name in node.input[:2]
        if name in maker
    )
    in_backbone = {kind for inside, kind in fed if inside}
    in_heads = {kind for inside, kind in fed if not inside}
    assert in_backbone == {"DequantizeLinear"}
    assert "DequantizeLinear" not in in_heads
    assert in_heads
    weights = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert len(weights) >= 5


def test_int8_of_too_few_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="15 pictures are too few"):
        hub_to_int8(tmp_path / "any.onnx", tmp_path / "out.onnx", [noise(32, 32)] * 15)


def test_int8_of_another_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no float32 student on a hub backbone"):
        hub_to_int8(SHIPPED_WEIGHTS, tmp_path / "out.onnx", [noise(32, 32)] * 16)


@pytest.mark.parametrize("architecture", EXPORTABLE)
def test_every_size_gives_what_pytorch_gives(
    save: Save, architecture: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optimum.onnxruntime")
    student, path = student_on(save(architecture)), tmp_path / "mine.onnx"
    capfd.readouterr()
    export_hub_onnx(student, path, {})
    session = StudentScorer(path)._session
    for shape in ((3, 47, 110), (1, 130, 33)):
        images = noise(*shape)
        with torch.inference_mode():
            expected = student(torch.from_numpy(images))
        for ours, theirs in zip(expected, session.run(None, {"image": images}), strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert capfd.readouterr() == ("", "")


def test_what_optimum_cannot_export_is_one_line_and_no_file(
    save: Save, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """DINOv2 with registers resizes its position encodings in a way ONNX has no operator for."""
    pytest.importorskip("optimum.onnxruntime")
    student = student_on(save("registers"))
    capfd.readouterr()
    with pytest.raises(WeightsError, match=r"cannot export Dinov2WithRegisters\w+ \(.*\); ch") as e:
        export_hub_onnx(student, tmp_path / "mine.onnx", {})
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def lose_a_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = safetensors.torch.load_file(path)
    del state[min(state)]
    safetensors.torch.save_file(state, path, {"format": "pt"})


def cut_the_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def flip_the_channels(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"do_flip_channel_order": true}', "utf-8")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without("config.json"), "cannot load"),
        (without("model.safetensors"), "cannot load"),
        (without("preprocessor_config.json"), "cannot load"),
        (cut_the_weights, "cannot load"),
        (lose_a_tensor, "lacks 1 of the backbone's tensors"),
        (flip_the_channels, "do_flip_channel_order"),
    ],
)
def test_a_damaged_folder_is_named_in_one_line(
    save: Save, damage: Callable[[Path], None], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save("resnet")
    damage(folder)
    capfd.readouterr()
    with pytest.raises(WeightsError, match=says) as error:
        load_hub_backbone(f"hf:{folder}")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_name_that_is_not_cached_says_so_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"cannot load hf:no-one/nothing \(.*couldn't") as error:
        load_hub_backbone("hf:no-one/nothing")
    assert "\n" not in str(error.value)


def test_a_language_model_is_no_vision_backbone(save: Save) -> None:
    with pytest.raises(WeightsError, match="BertModel takes input_ids"):
        load_hub_backbone(f"hf:{save('bert')}")


def test_a_backbone_of_one_size_is_refused(save: Save) -> None:
    with pytest.raises(ConfigError, match="does not take pictures of any size"):
        load_hub_backbone(f"hf:{save('swin')}")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"qinsight-plugin\[optimum\]"):
        load_hub_backbone("hf:any")
