"""Which device a model runs on, and in what form."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any, Final

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.reasoning.libraries import need

DTYPES: Final = ("float32", "bfloat16", "float16")
ATTENTIONS: Final = ("flash_attention_2", "sdpa", "eager")
QUANTIZATIONS: Final = ("8bit", "4bit")


def placing(
    device: str | None, dtype: str | None, attention: str | None, quantize: str | None
) -> dict[str, Any]:
    """The arguments of `from_pretrained` for what `loading.Loading` says.

    Raises:
        MissingExtraError: a package is not installed.
        ConfigError: a setting is unknown, or not to be had on this machine.
    """
    torch = need("torch")
    place = _device(torch, device)
    name = dtype or _dtype(torch, place.type)
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    arguments: dict[str, Any] = {
        "dtype": getattr(torch, name),
        "attn_implementation": _attention(attention, place.type),
    }
    if quantize is not None:
        arguments["quantization_config"] = _quantization(quantize, place.type, arguments["dtype"])
    if place.type != "cpu":
        need("accelerate")
        arguments["device_map"] = {"": place}
    return arguments


def _device(torch: ModuleType, name: str | None) -> Any:
    if name is None:
        # Not mps: no test has run there, so it has to be asked for.
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unknown = f"device {name!r} is not one of cpu, cuda, cuda:1, mps"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(unknown) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(unknown)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name} was asked for, and torch {torch.__version__} finds "
            f"{torch.cuda.device_count()} CUDA devices: check the driver and that torch is a CUDA "
            "build, or choose device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps was asked for and is not here: choose device cpu")
    return device


def _dtype(torch: ModuleType, device: str) -> str:
    if device != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _attention(name: str | None, device: str) -> str:
    flash = device == "cuda" and importlib.util.find_spec("flash_attn") is not None
    if name is None:
        return "flash_attention_2" if flash else "sdpa"
    if name not in ATTENTIONS:
        raise ConfigError(f"attention {name!r} is not one of {', '.join(ATTENTIONS)}")
    if name == "flash_attention_2" and not flash:
        raise ConfigError(
            "attention flash_attention_2 needs a CUDA device and the package flash-attn: choose "
            "attention sdpa"
        )
    return name


def _quantization(bits: str, device: str, dtype: Any) -> Any:
    if bits not in QUANTIZATIONS:
        raise ConfigError(f"quantize {bits!r} is not one of {', '.join(QUANTIZATIONS)}")
    if device != "cuda":
        raise ConfigError(
            f"{bits} weights need a CUDA device, and the model is to run on {device}: leave "
            "quantize out"
        )
    need("bitsandbytes", extra="quantize")
    settings = need("transformers").BitsAndBytesConfig
    if bits == "8bit":
        return settings(load_in_8bit=True)
    return settings(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
