"""Load a vision-language model: all of it, or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from qinsight_plugin.errors import ConfigError, ScorerError, WeightsError, WeightsNotFoundError
from qinsight_plugin.reasoning.encoding import Encoder
from qinsight_plugin.reasoning.finding import DEFAULT_TARGET, Purpose, find, fingerprint
from qinsight_plugin.reasoning.libraries import need, out_of_memory, quiet, reason_of
from qinsight_plugin.reasoning.placement import placing

PIXELS: Final = 1280 * 28 * 28
"""Pixels of a picture that Q-Insight's own demos let the model see."""

_TOKEN: Final = 28 * 28
_FIXED: Final = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True)
class Loading:
    """How to load a model.

    Attributes:
        device: "cpu", "cuda", "cuda:1", "mps"; None: cuda where there is one, else cpu.
        dtype: "float32", "bfloat16" or "float16"; None: bfloat16 on cuda, float16 where that is too
            old for it, and float32 elsewhere.
        attention: "flash_attention_2", "sdpa" or "eager"; None: flash_attention_2 on cuda where the
            package is installed, else sdpa.
        quantize: "8bit" or "4bit" weights, by bitsandbytes, on cuda only.
        adapter: a folder with a LoRA adapter that peft saved. It is merged into the weights, which
            rounds it to their type, unless these are quantized.
        pixels: a picture with more is scaled down to so many for the model. A checkpoint's own
            limit holds where it is lower.
    """

    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    quantize: Literal["8bit", "4bit"] | None = None
    adapter: Path | None = None
    pixels: int = PIXELS


class Checkpoint(NamedTuple):
    """What was loaded.

    Attributes:
        model: a transformers model, ready to `generate`.
        encoder: makes its inputs.
        version: which files they are, and what of `Loading` changes the answers.
    """

    model: Any
    encoder: Encoder
    version: str


def seen_pixels(pixels: int) -> int:
    """Pixels up to which a picture is decoded, where the model is shown so many: halving alone
    would lose up to three quarters of what it may see, and decoding all of it takes memory."""
    return 4 * pixels


def load_checkpoint(
    target: str, purpose: Purpose = "score_degradation", loading: Loading | None = None
) -> Checkpoint:
    """Load the model that `target` names. Code that comes with a checkpoint is never run, and
    pickled weights are not read.

    Args:
        target: a folder, or the id of a model on the Hugging Face hub, downloaded when it is not in
            the hub's cache. A folder may hold the checkpoint itself, or one for each purpose in
            folders of their names, as Q-Insight's repository does.
        purpose: which of Q-Insight's two models.

    Raises:
        MissingExtraError: a package is not installed.
        ConfigError: a setting is unknown, or not to be had on this machine.
        WeightsNotFoundError: there is no such folder, or model on the hub.
        WeightsError: it is no checkpoint of a model that can be asked about pictures, it is
            damaged, its tensors are not exactly the model's, or the adapter does not fit.
        ScorerError: it does not fit into memory.
    """
    loading = loading or Loading()
    if loading.pixels < _TOKEN:
        raise ConfigError(f"pixels must be {_TOKEN}, one token, or more, not {loading.pixels}")
    need("torch")
    if loading.adapter is not None:
        _require_adapter(loading.adapter)
    with quiet():
        arguments = placing(loading.device, loading.dtype, loading.attention, loading.quantize)
        folder, files = find(target, purpose)
        config = _config(folder)
        encoder = load_encoder(folder, config, loading.pixels)
        model = _model(folder, arguments)
        if loading.adapter is not None:
            model = _adapted(model, loading.adapter, merge=loading.quantize is None)
            files += f"+{fingerprint(loading.adapter)}"
    form = loading.quantize or str(arguments["dtype"]).removeprefix("torch.")
    return Checkpoint(model.eval(), encoder, f"{files}-{form}-{encoder.pixels}px")


def load_encoder(folder: Path, config: Any, pixels: int = PIXELS) -> Encoder:
    """The tokenizer and image processor of a checkpoint.

    Args:
        config: the checkpoint's.
        pixels: see `Loading`.

    Raises:
        WeightsError: they cannot be loaded, or are not of a kind that the encoder can use.
    """
    transformers = need("transformers")
    # Pillow's resizing, which Q-Insight was trained and demonstrated with, and not torchvision's.
    by_name = hasattr(transformers, "Qwen2VLImageProcessorPil")
    pillow: dict[str, Any] = {"backend": "pil"} if by_name else {"use_fast": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **_FIXED)
        if (template := folder / "chat_template.json").is_file():  # a processor's, up to 4.51
            tokenizer.chat_template = json.loads(template.read_text("utf-8"))["chat_template"]
        limits = _limits(folder, pixels)
        images = transformers.AutoImageProcessor.from_pretrained(
            folder, **limits, **pillow, **_FIXED
        )
    except Exception as error:  # a missing or broken file, a class that is not known
        raise WeightsError(
            f"the tokenizer and image processor in {folder} cannot be loaded: {reason_of(error)}"
        ) from error
    placeholder = getattr(config, "image_token_id", None)
    grid = "image_grid_thw" in images.model_input_names
    if not grid or not limits or placeholder is None:
        raise WeightsError(
            f"{folder} holds a {config.model_type} model, which does not cut pictures into a grid: "
            f"give one of the Qwen-VL families, such as {DEFAULT_TARGET}"
        )
    if not tokenizer.chat_template or tokenizer.pad_token_id is None:
        raise WeightsError(f"the tokenizer in {folder} has no chat template or no padding token")
    encoder = Encoder(tokenizer, images, placeholder, limits["max_pixels"])
    # transformers 5 makes do without a vocabulary.
    sample = f"Rate it: 1{tokenizer.convert_ids_to_tokens(placeholder)}"
    ids = encoder.ids(sample)
    again = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if ids[-1:] != [placeholder] or again != sample:
        raise WeightsError(f"the tokenizer in {folder} is not the model's, or a part of it is gone")
    return encoder


def _limits(folder: Path, pixels: int) -> dict[str, int]:
    """Fewest and most pixels for the image processor, whose file has them under one of two names:
    transformers 4.57 takes only one of these for true."""
    own, _ = need("transformers").ImageProcessingMixin.get_image_processor_dict(folder, **_FIXED)
    size = own.get("size") or {}
    lowest = own.get("min_pixels") or size.get("shortest_edge")
    highest = own.get("max_pixels") or size.get("longest_edge")
    if lowest is None or highest is None:
        return {}  # not one of those that cut pictures into a grid
    return {"min_pixels": lowest, "max_pixels": min(highest, pixels)}


def _config(folder: Path) -> Any:
    transformers = need("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **_FIXED)
    except Exception as error:  # whatever a config.json can be made to raise
        raise WeightsError(
            f"{folder} is no checkpoint that transformers {transformers.__version__} can load: "
            f"{reason_of(error)}"
        ) from error
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise WeightsError(
            f"{folder} holds a {config.model_type} model, which cannot be asked about pictures: "
            f"give one of the Qwen-VL families, such as {DEFAULT_TARGET}"
        )
    return config


def _model(folder: Path, arguments: dict[str, Any]) -> Any:
    transformers = need("transformers")
    try:
        model, found = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, **arguments, **_FIXED, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers', safetensors' and torch's share no base class
        if out_of_memory(error):
            raise ScorerError(
                f"the model in {folder} does not fit into memory: quantize it, or choose another "
                "dtype or device"
            ) from error
        raise WeightsError(f"the model in {folder} cannot be loaded: {reason_of(error)}") from error
    for kind, what in (
        ("missing_keys", "are missing"),
        ("unexpected_keys", "are not the model's"),
        ("mismatched_keys", "have another shape"),
        ("error_msgs", "failed to load"),
    ):
        # What does not load is left random, with no more than a line in a log.
        if names := sorted(map(str, found.get(kind) or ())):
            raise WeightsError(
                f"the tensors in {folder} are not the model's: {len(names)} {what}, such as "
                f"{names[0]}: get the checkpoint again, or save it with the transformers that "
                "trained it"
            )
    # How a reply is written is for `Sampling` alone to say. Qwen's files ask for a penalty on what
    # was said before, which Q-Insight's training and demos are without.
    ends = model.generation_config.eos_token_id
    model.generation_config = transformers.GenerationConfig(eos_token_id=ends)
    return model


def _require_adapter(adapter: Path) -> None:
    """Before the model is read, which takes long."""
    need("peft")
    if not (adapter / "adapter_config.json").is_file():
        raise WeightsNotFoundError(f"no adapter at {adapter}: there is no adapter_config.json")


def _adapted(model: Any, adapter: Path, *, merge: bool) -> Any:
    peft = need("peft")
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(adapter))
        saved = set(peft.load_peft_weights(str(adapter), device="cpu"))
        wanted = set(peft.get_peft_model_state_dict(adapted))
    except Exception as error:  # of peft, torch and safetensors
        raise WeightsError(f"the adapter {adapter} does not fit: {reason_of(error)}") from error
    if saved != wanted:
        raise WeightsError(
            f"the adapter {adapter} does not fit: it and the model disagree about "
            f"{len(saved ^ wanted)} tensors, such as {min(saved ^ wanted)}"
        )
    # peft has put its layers into the model itself.
    return adapted.merge_and_unload() if merge else adapted.get_base_model()
