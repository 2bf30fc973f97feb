"""Parameters that a person sets "until it looks right": a slider over what it does to a picture."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageEnhance

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.srgb import LINEAR, encoded

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

Adjust: TypeAlias = "Callable[[Pixels, float], Pixels]"


def exposure(pixels: Pixels, value: float) -> Pixels:
    """`value` in stops: light is multiplied by 2 ** value, in linear sRGB."""
    light = np.clip(LINEAR * 2.0**value, 0, 1)
    curve: Pixels = np.round(encoded(light) * 255).astype(np.uint8)
    return curve[pixels]


def _enhance(name: str) -> Adjust:
    def adjust(pixels: Pixels, value: float) -> Pixels:
        enhance = getattr(PIL.ImageEnhance, name)
        return np.asarray(enhance(PIL.Image.fromarray(pixels)).enhance(value))

    return adjust


def jpeg(pixels: Pixels, value: float) -> Pixels:
    """`value` is the quality factor, 1 to 95."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=round(value))
    return np.asarray(PIL.Image.open(buffer))


ADJUSTMENTS: Mapping[str, tuple[Adjust, float, float]] = {
    "exposure": (exposure, -2.0, 2.0),
    "brightness": (_enhance("Brightness"), 0.25, 2.0),
    "contrast": (_enhance("Contrast"), 0.25, 2.0),
    "saturation": (_enhance("Color"), 0.0, 2.0),
    "sharpness": (_enhance("Sharpness"), 0.0, 4.0),
    "jpeg": (jpeg, 1.0, 95.0),
}
"""Name -> what it does, and its usual range; 1 leaves a picture as it is under Pillow's four."""


def adjustment(name: str) -> Adjust:
    """What a parameter does: one of `ADJUSTMENTS`, or any function, as `package.module:function`,
    of uint8 [H, W, 3] and the parameter.

    Raises:
        ConfigError: there is no such one.
    """
    if name in ADJUSTMENTS:
        return ADJUSTMENTS[name][0]
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigError(
            f"adjustment {name!r} is not known: take {', '.join(ADJUSTMENTS)}, or name a function "
            "as package.module:function"
        )
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"adjustment {name!r} does not load: {error}") from error
    adjust: Adjust = found
    return adjust
