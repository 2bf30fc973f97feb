"""How much memory a training needs, reckoned from the model's config before anything is loaded."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qinsight_plugin.errors import ConfigError, WeightsError
from qinsight_plugin.grpo.config import Config
from qinsight_plugin.reasoning.finding import DEFAULT_TARGET, Purpose
from qinsight_plugin.reasoning.libraries import need, quiet, reason_of

GIB: Final = 1 << 30
_WORDS: Final = 250
"""Tokens of a prompt beside its pictures."""

_TOO_SLOW: Final = 1e9
"""Parameters from which training without a GPU would take months."""


@dataclass(frozen=True, slots=True)
class Need:
    """GiB on each device.

    Attributes:
        parameters: of the model, in all.
        fixed: weights, gradients, optimiser and reference: this is exact.
        replies: the keys and values of the replies that are written at once.
        activations: of what is differentiated at once, to a quarter or so.
    """

    parameters: int
    fixed: float
    replies: float
    activations: float

    @property
    def total(self) -> float:
        return self.fixed + max(self.replies, self.activations)

    def __str__(self) -> str:
        return (
            f"a model of {self.parameters / 1e9:.1f} billion parameters needs about "
            f"{math.ceil(self.total)} GiB on each device ({self.fixed:.0f} for weights, gradients, "
            f"optimiser and reference, {max(self.replies, self.activations):.0f} for a batch)"
        )


def needed(config: Config, shards: int = 1) -> Need:
    """What a training takes on each of `shards` devices that share one model, as ZeRO-3 and FSDP
    let them.

    Raises:
        WeightsError: the model's config cannot be read.
    """
    told = _config(config.model, purpose_of(config))
    torch, transformers = need("torch"), need("transformers")
    with quiet(), torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(told)
    parameters = sum(p.numel() for p in model.parameters())
    text = told.get_text_config()
    train = config.train
    pictures = 3 if any(one.task == "comparison" for one in config.data) else 1
    tokens = _WORDS + train.max_tokens + pictures * train.pixels // 28**2
    width, layers = text.hidden_size, text.num_hidden_layers
    heads = getattr(text, "num_key_value_heads", text.num_attention_heads)
    kept = 4 * layers * heads * width // text.num_attention_heads  # bytes a token: K, V in bfloat16
    at_once = train.batch // shards
    each = 2 * (20 * width + 4 * text.intermediate_size)  # bytes a token and layer
    passed = train.per_device * tokens
    activations = (
        passed * (2 * width * layers + each)
        if train.gradient_checkpointing
        else passed * layers * each
    )
    return Need(
        parameters,
        _fixed(config, parameters, shards) / GIB,
        kept * at_once * tokens / GIB,
        activations / GIB,
    )


def _fixed(config: Config, parameters: int, shards: int) -> float:
    """Bytes: bfloat16 weights; trained ones also gradients, a float32 copy, and Adam's moments."""
    if config.lora.rank:
        weight = {"": 2.0, "8bit": 1.1, "4bit": 0.65}[config.lora.quantize]
        return weight * parameters  # of the adapters all is less than a hundredth of that
    reference = 2 if config.train.beta else 0
    if shards > 1:
        return (
            2 + 2 + 4 + 8 + reference
        ) * parameters / shards + 2 * parameters  # gathered to write
    return (4 + 4 + 8 + 2 * reference) * parameters


def require_room(config: Config) -> Need:
    """Check that the training can be made on this machine.

    Raises:
        ConfigError: it cannot: says what it needs and what there is.
        WeightsError: the model's config cannot be read.
    """
    torch = need("torch")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    sharded = any(
        os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true"
        for kind in ("DEEPSPEED", "FSDP")
    )
    found = needed(config, processes if sharded else 1)
    advice = "train with [lora] rank = 16, fewer pixels, a smaller model, or on more devices"
    if torch.cuda.is_available():
        there = torch.cuda.get_device_properties(0).total_memory / GIB
        if found.fixed > there:
            raise ConfigError(f"{found}, and this one has {there:.0f} GiB: {advice}")
        return found
    there = need("psutil").virtual_memory().available / GIB / processes
    cpu = needed_on_cpu(found, config)
    if found.parameters >= _TOO_SLOW or cpu > there:
        raise ConfigError(
            f"there is no GPU here, and {found}; this machine has {there:.0f} GiB of memory: "
            "train where there is one, or a smaller model"
        )
    return found


def needed_on_cpu(found: Need, config: Config) -> float:
    """GiB in float32: of trained weights four copies and a reference, of others one."""
    copies = 1 if config.lora.rank else 5
    return 4 * copies * found.parameters / GIB


def purpose_of(config: Config) -> Purpose:
    """Which of Q-Insight's two models, where a name stands for both."""
    only_pairs = all(one.task == "comparison" for one in config.data)
    return "comparison" if only_pairs else "score_degradation"


def _config(target: str, purpose: Purpose) -> Any:
    transformers = need("transformers")
    place: dict[str, Any] = {}
    if target == DEFAULT_TARGET or (Path(target) / purpose / "config.json").is_file():
        place["subfolder"] = purpose
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(target, trust_remote_code=False, **place)
    except Exception as error:  # whatever a config.json, or the hub, can be made to raise
        raise WeightsError(
            f"the config of {target} cannot be read ({reason_of(error)}): give the folder of a "
            "checkpoint, or the id of a model on the hub"
        ) from error
