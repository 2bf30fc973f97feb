"""A checkpoint is found and loaded as a whole, or the one line says why not."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qinsight_plugin.errors import (
    ConfigError,
    MissingExtraError,
    QInsightError,
    ScorerError,
    WeightsError,
    WeightsNotFoundError,
)
from qinsight_plugin.reasoning import finding, libraries, loading, placement
from qinsight_plugin.reasoning.finding import find, fingerprint
from qinsight_plugin.reasoning.loading import Loading, load_checkpoint
from qinsight_plugin.reasoning.local import LocalModel
from qinsight_plugin.reasoning.model import Completion, NextToken, Prompt, Sampling
from qinsight_plugin.records import Image
from qinsight_plugin.testing import tiny_checkpoint

transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")
try:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
except ModuleNotFoundError:  # transformers 4
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

PIXELS = np.random.default_rng(0).integers(0, 256, (120, 130, 3), np.uint8)
PROMPT = Prompt("You judge pictures.", ("Rate it.", Image(PIXELS, "noise", 130, 120)))
DIGITS = ("1", "2", "3", "4", "5")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own to spoil."""
    return shutil.copytree(tiny, tmp_path / "copy")


def refusal(kind: type[QInsightError], target: object, how: Loading | None = None) -> str:
    """The one line with which loading fails."""
    with pytest.raises(kind) as caught:
        load_checkpoint(str(target), "score_degradation", how)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message


def likelihoods(model: LocalModel) -> tuple[float, ...]:
    (answer,) = model.next_token([PROMPT], "", DIGITS)
    assert isinstance(answer, NextToken)
    return answer.probabilities


def test_a_folder_may_hold_one_checkpoint_for_each_purpose(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "score_degradation")
    tiny_checkpoint(tmp_path / "comparison", seed=1)
    score = LocalModel.load(str(tmp_path))
    comparison = LocalModel.load(str(tmp_path), "comparison")
    assert likelihoods(score) == likelihoods(LocalModel.load(str(tiny)))
    assert likelihoods(score) != likelihoods(comparison)
    assert score.version != comparison.version
    assert likelihoods(LocalModel.load(str(tiny), "comparison")) == likelihoods(score)


def test_a_saved_and_reloaded_model_replies_the_same(tiny: Path, copy: Path) -> None:
    first = load_checkpoint(str(tiny))
    with libraries.quiet():
        first.model.save_pretrained(copy)
    sampling = Sampling(temperature=1.0, max_tokens=8)
    replies = [
        LocalModel.load(str(folder)).complete([PROMPT], [sampling]) for folder in (tiny, copy)
    ]
    assert isinstance(replies[0][0], Completion)
    assert replies[0] == replies[1]


def test_a_checkpoint_in_the_form_of_the_published_ones_loads(tiny: Path, copy: Path) -> None:
    """As transformers 4.49 wrote them: other names, a flat config, the template in a file."""
    config = json.loads((copy / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters", None) or text.pop("rope_scaling")
    text["rope_theta"] = rope.get("rope_theta", text.get("rope_theta"))
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (copy / "config.json").write_text(json.dumps(text | config))
    images = json.loads((copy / "preprocessor_config.json").read_text())
    size = images.pop("size")
    images |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (copy / "preprocessor_config.json").write_text(json.dumps(images))
    tokenizer = load_tokenizer(copy)
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    template = json.dumps({"chat_template": tokenizer.chat_template})
    (copy / "chat_template.json").write_text(template)

    def old_names(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            old = name.replace("model.language_model.", "model.").replace(
                "model.visual.", "visual."
            )
            tensors[old] = tensors.pop(name)
        assert {"model.norm.weight", "visual.merger.ln_q.weight"} < set(tensors)

    change(copy, old_names)
    assert likelihoods(LocalModel.load(str(copy))) == likelihoods(LocalModel.load(str(tiny)))
    (copy / "chat_template.json").unlink()
    if not load_tokenizer(copy).chat_template:
        assert "has no chat template" in refusal(WeightsError, copy)


def load_tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("ByteDance/Q-Insight", "hf download ByteDance/Q-Insight --include 'score_degradation/*'"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "hf download Qwen/Qwen2.5-VL-3B-Instruct where"),
    ],
)
def test_without_a_network_an_error_says_how_to_get_the_weights(
    hub_cache: Path, target: str, command: str
) -> None:
    message = refusal(WeightsNotFoundError, target)
    assert message.startswith(f"{target} is no folder here")
    assert command in message


def in_cache(hub_cache: Path, name: str, commit: str) -> Path:
    """Where the hub's cache keeps the files of a model."""
    repository = hub_cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


def test_what_is_in_the_hubs_cache_is_loaded_and_known_by_its_commit(
    hub_cache: Path, tiny: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = in_cache(hub_cache, "ByteDance/Q-Insight", commit)
    shutil.copytree(tiny, snapshot / "score_degradation")
    model = LocalModel.load()
    assert model.name == "ByteDance/Q-Insight"
    assert model.version == f"{commit[:16]}-float32-12544px"
    shutil.copytree(tiny, in_cache(hub_cache, "someone/another-model", commit))
    assert find("someone/another-model", "comparison")[1] == commit[:16]


def test_what_holds_no_checkpoint_is_refused(tmp_path: Path, hub_cache: Path) -> None:
    assert "no folder at" in refusal(WeightsNotFoundError, tmp_path / "gone")
    assert "no folder at" in refusal(WeightsNotFoundError, "no-such-folder")
    assert "holds no checkpoint" in refusal(WeightsError, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter: name the model" in refusal(WeightsError, tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is no checkpoint" in refusal(WeightsError, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "is no checkpoint" in refusal(WeightsError, tmp_path)


def test_models_that_cannot_be_asked_about_pictures_are_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = transformers.Qwen2Config(vocab_size=9, intermediate_size=8, **sizes)
    transformers.Qwen2ForCausalLM(text).save_pretrained(tmp_path / "text")
    classes = transformers.ViTConfig(image_size=8, patch_size=4, intermediate_size=8, **sizes)
    transformers.ViTForImageClassification(classes).save_pretrained(tmp_path / "classes")
    for name, kind in (("text", "qwen2"), ("classes", "vit")):
        message = refusal(WeightsError, tmp_path / name)
        assert f"holds a {kind} model, which cannot be asked about pictures" in message


def test_a_model_that_sees_pictures_in_another_way_is_refused(tiny: Path, tmp_path: Path) -> None:
    transformers.AutoConfig.for_model("llava").save_pretrained(tmp_path)
    for path in tiny.glob("token*"):
        shutil.copy(path, tmp_path)
    transformers.CLIPImageProcessor().save_pretrained(tmp_path)
    message = refusal(WeightsError, tmp_path)
    assert "holds a llava model, which does not cut pictures into a grid" in message


def test_code_that_comes_with_a_checkpoint_is_not_run(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (copy / "modeling.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "modeling.Config"}}
    (copy / "config.json").write_text(json.dumps(config))
    assert "is no checkpoint" in refusal(WeightsError, copy)
    assert not marker.exists()


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Save the tensors anew after `edit`."""
    path = folder / "model.safetensors"
    tensors = safetensors_torch.load_file(path)
    edit(tensors)
    safetensors_torch.save_file(tensors, path, metadata={"format": "pt"})


def rename_all(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"old.{name}"] = tensors.pop(name)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.popitem(), "1 are missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "1 are not the model's, such as extra"),
        (lambda t: t.update({max(t): torch.zeros(3, 3)}), "model"),
        (rename_all, "are missing"),
    ],
    ids=["missing", "unexpected", "another shape", "renamed"],
)
def test_tensors_that_are_not_exactly_the_models_are_refused(
    copy: Path, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    change(copy, edit)
    assert message in refusal(WeightsError, copy)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_vocabulary(path: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        path.with_name(name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("model.safetensors", cut_short),
        ("model.safetensors", lambda path: path.write_bytes(b"not tensors at all")),
        ("model.safetensors", lambda path: path.write_bytes(b"")),
        ("model.safetensors", Path.unlink),
        ("model.safetensors", lambda path: path.rename(path.with_name("pytorch_model.bin"))),
        ("tokenizer.json", cut_short),
        ("tokenizer.json", without_vocabulary),
        ("preprocessor_config.json", cut_short),
        ("preprocessor_config.json", Path.unlink),
    ],
)
def test_damaged_and_missing_files_are_refused(
    copy: Path, name: str, spoil: Callable[[Path], object]
) -> None:
    spoil(copy / name)
    message = refusal(WeightsError, copy)
    assert "cannot be loaded" in message or "a part of it is gone" in message


@pytest.mark.parametrize("package", ["torch", "transformers", "huggingface_hub"])
def test_without_a_package_the_extra_is_named(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(MissingExtraError, tiny)
    assert "the reasoning model needs" in message
    assert "pip install 'qinsight-plugin[reason]'" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Loading(pixels=783), "pixels must be 784, one token, or more, not 783"),
        (Loading(device="toaster"), "device 'toaster' is not one of"),
        (Loading(device="meta"), "device 'meta' is not one of"),
        (Loading(dtype="int3"), "dtype 'int3' is not one of float32, bfloat16, float16"),
        (Loading(attention="none"), "attention 'none' is not one of"),
        (Loading(device="cpu", attention="flash_attention_2"), "choose attention sdpa"),
        (Loading(device="cpu", quantize="4bit"), "4bit weights need a CUDA device"),
        (Loading(quantize="3bit"), "quantize '3bit' is not one of 8bit, 4bit"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_had_are_refused(tiny: Path, settings: Loading, message: str) -> None:
    assert message in refusal(ConfigError, tiny, settings)


def test_a_gpu_that_is_not_there_is_an_error_and_not_the_cpu(tiny: Path) -> None:
    absent = "cuda:9" if torch.cuda.is_available() else "cuda"
    message = refusal(ConfigError, tiny, Loading(device=absent))
    assert f"device {absent} was asked for" in message
    assert "choose device cpu" in message
    if not torch.backends.mps.is_available():
        assert "device mps" in refusal(ConfigError, tiny, Loading(device="mps"))


def test_quantizing_without_bitsandbytes_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine: the package is asked for before the model is."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(MissingExtraError, match=r"bitsandbytes.*qinsight-plugin\[quantize\]"):
        placement.placing("cuda", "bfloat16", "sdpa", "8bit")


def test_a_model_that_does_not_fit_into_memory_says_so(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", load)
    assert "does not fit into memory" in refusal(ScorerError, tiny)


def test_dtype_and_attention_are_those_asked_for(tiny: Path) -> None:
    checkpoint = load_checkpoint(str(tiny), "comparison", Loading("cpu", "bfloat16", "eager"))
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.bfloat16}
    assert checkpoint.model.config._attn_implementation == "eager"
    assert "-bfloat16-" in checkpoint.version
    assert not checkpoint.model.training
    by_default = load_checkpoint(str(tiny), "comparison", Loading("cpu")).model
    assert {p.dtype for p in by_default.parameters()} == {torch.float32}
    assert by_default.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("asked", "limit"), [(6000, 6000), (10**9, 12544)])
@pytest.mark.parametrize("names", ["size", "pixels"])
def test_pictures_are_held_to_the_lower_of_both_limits(
    copy: Path, names: str, asked: int, limit: int
) -> None:
    """Under both names that published files have for it."""
    path = copy / "preprocessor_config.json"
    own = json.loads(path.read_text())
    own.pop("size", None)
    low, high = (
        ("shortest_edge", "longest_edge") if names == "size" else ("min_pixels", "max_pixels")
    )
    values = {low: 784, high: 12544}
    path.write_text(json.dumps(own | ({"size": values} if names == "size" else values)))
    checkpoint = load_checkpoint(str(copy), "comparison", Loading(pixels=asked))
    assert checkpoint.encoder.pixels == limit
    assert checkpoint.version.endswith(f"-{limit}px")
    large, small = (
        Prompt("", (Image(np.zeros((side, side, 3), np.uint8), "x", side, side),))
        for side in (300, 28)
    )
    grids = [checkpoint.encoder.encode(p).pictures["image_grid_thw"] for p in (large, small)]
    height, width = smart_resize(300, 300, 28, 784, limit)
    assert grids[0].tolist() == [[1, height // 14, width // 14]]
    assert grids[1].tolist() == [[1, 2, 2]]  # 784 pixels, as they are


def test_loading_is_silent_and_leaves_the_hosts_settings(
    tiny: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_info()
    log.enable_progress_bar()
    try:
        filters = list(warnings.filters)
        LocalModel.load(str(tiny)).complete([PROMPT], [Sampling(max_tokens=3, temperature=1.0)])
        assert log.get_verbosity() == logging.INFO
        assert log.is_progress_bar_enabled()
        assert warnings.filters == filters
    finally:
        log.set_verbosity(before[0])
        if not before[1]:
            log.disable_progress_bar()
    assert capfd.readouterr() == ("", "")


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = (
        "import sys, qinsight_plugin.reasoning.local\n"
        "print({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "set()"


class TestAdapter:
    """LoRA adapters as peft saves them."""

    @pytest.fixture(autouse=True)
    def _peft(self) -> None:
        pytest.importorskip("peft")

    def adapter(self, tiny: Path, folder: Path) -> tuple[Path, Any]:
        """Random ones, saved, and the model that has them unmerged."""
        import peft

        with libraries.quiet(), torch.random.fork_rng():
            torch.manual_seed(3)
            base = load_checkpoint(str(tiny)).model
            adapted = peft.get_peft_model(
                base,
                peft.LoraConfig(
                    r=4,
                    target_modules=["q_proj", "v_proj"],
                    init_lora_weights=False,
                    lora_alpha=32,
                ),
            )
            adapted.save_pretrained(str(folder))
        return folder, adapted.eval()

    def test_it_changes_the_answers_as_peft_does_unmerged(self, tiny: Path, tmp_path: Path) -> None:
        folder, adapted = self.adapter(tiny, tmp_path)
        plain = LocalModel.load(str(tiny))
        model = LocalModel.load(str(tiny), loading=Loading(adapter=folder))
        checkpoint = load_checkpoint(str(tiny))
        inputs = checkpoint.encoder.batch([checkpoint.encoder.encode(PROMPT)], [()])
        taken = inspect.signature(checkpoint.model.forward).parameters
        with torch.no_grad():
            logits = adapted(**{k: v for k, v in inputs.items() if k in taken}).logits[0, -1]
        ids = checkpoint.encoder.tokenizer.convert_tokens_to_ids(list(DIGITS))
        expected = logits.double().softmax(-1)[ids].numpy()
        np.testing.assert_allclose(likelihoods(model), expected, rtol=1e-3)
        with libraries.quiet():
            unmerged = loading._adapted(checkpoint.model, folder, merge=False)
        kept = LocalModel(checkpoint._replace(model=unmerged), "unmerged")
        np.testing.assert_allclose(likelihoods(kept), expected, rtol=1e-4)
        assert np.abs(np.log(likelihoods(model)) - np.log(likelihoods(plain))).max() > 0.05
        assert model.version == plain.version.replace("-", f"+{fingerprint(folder)}-", 1)

    def test_without_peft_the_extra_is_named(
        self, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "peft", None)
        assert "needs peft" in refusal(MissingExtraError, tiny, Loading(adapter=tiny))

    def test_one_that_is_not_there_is_not_found(self, tiny: Path, tmp_path: Path) -> None:
        how = Loading(adapter=tmp_path / "gone")
        assert "no adapter at" in refusal(WeightsNotFoundError, tiny, how)

    def test_one_of_another_model_does_not_fit(self, tiny: Path, tmp_path: Path) -> None:
        folder, _ = self.adapter(tiny, tmp_path)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        for wrong in ({"r": 8}, {"target_modules": ["no_such_layer"]}, {"peft_type": "NOVEL"}):
            path.write_text(json.dumps(config | wrong))
            assert "does not fit" in refusal(WeightsError, tiny, Loading(adapter=folder))

    @pytest.mark.parametrize("edit", ["fewer", "more", "renamed"])
    def test_one_whose_tensors_do_not_all_load_does_not_fit(
        self, tiny: Path, tmp_path: Path, edit: str
    ) -> None:
        folder, _ = self.adapter(tiny, tmp_path)
        path = folder / "adapter_model.safetensors"
        tensors = safetensors_torch.load_file(path)
        first = min(tensors)
        if edit == "more":
            tensors[first.replace("q_proj", "o_proj")] = tensors[first].clone()
        else:
            tensor = tensors.pop(first)
            if edit == "renamed":
                tensors[f"old.{first}"] = tensor
        safetensors_torch.save_file(tensors, path, metadata={"format": "pt"})
        message = refusal(WeightsError, tiny, Loading(adapter=folder))
        assert "disagree about" in message

    def test_a_damaged_one_does_not_fit(self, tiny: Path, tmp_path: Path) -> None:
        folder, _ = self.adapter(tiny, tmp_path)
        cut_short(folder / "adapter_model.safetensors")
        assert "does not fit" in refusal(WeightsError, tiny, Loading(adapter=folder))


def test_the_fingerprint_is_of_what_is_loaded(copy: Path) -> None:
    first = fingerprint(copy)
    (copy / "README.md").write_text("news")
    (copy / "training").mkdir()
    assert fingerprint(copy) == first
    assert fingerprint(shutil.copytree(copy, copy.with_name("elsewhere"))) == first
    seen = {first}
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        with (copy / name).open("a") as file:
            file.write(" ")
        seen.add(fingerprint(copy))
    change(copy, lambda tensors: tensors[min(tensors)].view(-1)[0].add_(1e-3))
    seen.add(fingerprint(copy))
    assert len(seen) == 5


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 MiB of zeros, four times what is sampled."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    path.write_bytes(bytes(1 << 24))
    return path


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1))
def test_a_change_to_a_200th_of_a_large_file_is_seen_wherever_it_is(
    large: Path, where: float
) -> None:
    before = fingerprint(large.parent)
    size = large.stat().st_size
    length = size // 200
    with large.open("r+b") as file:
        file.seek(int(where * (size - length)))
        file.write(b"\1" * length)
    after = fingerprint(large.parent)
    with large.open("r+b") as file:
        file.seek(int(where * (size - length)))
        file.write(bytes(length))
    assert after != before
    assert fingerprint(large.parent) == before


def test_the_first_and_last_bytes_of_a_tensor_file_are_sampled(tmp_path: Path) -> None:
    """Whatever its size, a whole number of blocks or not."""
    path = tmp_path / "model.safetensors"
    for size in (1, finding._BLOCK, 5 * finding._BLOCK + 1, 300 * finding._BLOCK + 77):
        seen = set()
        for changed in (None, 0, size - 1):
            data = bytearray(size)
            if changed is not None:
                data[changed] = 1 + (changed == size - 1)
            path.write_bytes(data)
            seen.add(fingerprint(tmp_path))
        assert len(seen) == (2 if size == 1 else 3)
