"""How to train, as one TOML file; the recipes that ship lie in `recipes/`."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.toml import read_toml

RECIPES = Path(__file__).parent / "recipes"
FROM_IMAGENET = RECIPES / "shipped.toml"
"""What made the shipped weights from a backbone that knows ImageNet."""

FROM_STUDENT = RECIPES / "own.toml"
"""What adapts a trained student to some hundreds of pictures of one's own."""

LIMITS: dict[str, tuple[float, float]] = {
    "probe": (0, 1),
    "averaging": (0, 1),
    "good": (0, 1),
    "validation": (0, 0.5),
    "settle_dropout": (0, 0.95),
    "batch": (1, 4096),
    "crop": (1, 4096),
}
"""Lowest and highest values, where they are not 0 and any number."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        whole: whether all of the network learns, on the pictures themselves, as suits a GPU;
            else its tail, on what the stem made of them.
        imitation: passes over the pictures in which new blocks learn from those that they replace.
        epochs: passes over the rated pictures, counting one view of each.
        probe: share of the steps, at the start, in which only the heads learn.
        batch: rated pictures a step.
        crop: window of the stem's map that a step sees, in cells of 16 pixels.
        backbone_rate, heads_rate: peak learning rates of AdamW's one-cycle schedule.
        weight_decay: AdamW's.
        averaging: decay of the moving average of the weights, which is what is kept.
        mse, plcc, fidelity: weights of the losses on ratings: squared error over all pictures;
            correlation and order inside each group of pictures that were rated together.
        taught: weight of the squared distance from the teachers' mean score, where there are any.
        pairs: weight of the loss on answers about pairs, where there are any.
        families: distorted families to make, see `student.families`; `families_per_step` are seen
            a step.
        ladder, distortion, quality_map: weights of the losses on families: order of the scores,
            class and severity, and the map.
        likeness: weight of the loss on the order of pictures of different families, as SSIMULACRA2
            has it; 0 saves measuring them.
        settle_epochs, naming_epochs: passes over whole pictures at the end, with the tail at
            rest, for the score's head and the naming head; see `settle`. For the former,
            `settle_mse` is the weight of the squared error, and `settle_dropout` the share of what
            the head sees that is left out.
        ladder_margin: MOS by which a rung must score under the one before it.
        good: share of the rated pictures, the best, of which families are made too.
        validation: share of the training clusters held back for calibration. Where these are too
            few pictures, those trained on calibrate too, and the spread is not narrowed.
        checkpoint_seconds: a kill loses at most so much training.
        bfloat16: whether convolutions are computed in half precision: half the time on processors
            that have it (AVX512-BF16, AMX), longer with AVX-512 alone; without that too, float32.
        seed: of everything random.
    """

    whole: bool
    imitation: float
    epochs: float
    probe: float
    batch: int
    crop: int
    backbone_rate: float
    heads_rate: float
    weight_decay: float
    averaging: float
    mse: float
    plcc: float
    fidelity: float
    taught: float
    pairs: float
    families: int
    families_per_step: int
    ladder: float
    likeness: float
    distortion: float
    quality_map: float
    settle_epochs: float
    naming_epochs: float
    settle_mse: float
    settle_dropout: float
    ladder_margin: float
    good: float
    validation: float
    checkpoint_seconds: float
    bfloat16: bool
    seed: int

    def steps(self, pictures: int) -> int:
        """Optimiser steps for that many pictures to train on."""
        return max(1, round(max(1, pictures // self.batch) * self.epochs))


def read_recipe(path: Path, **changes: float | None) -> Recipe:
    """The recipe in a TOML file; `changes` that are not None take precedence.

    Raises:
        ConfigError: the file cannot be read, or lacks a setting, or has one unknown or no number.
    """
    settings = read_toml(path, f"the recipe {path}")
    settings |= {name: value for name, value in changes.items() if value is not None}
    known = {field.name: field.type for field in dataclasses.fields(Recipe)}
    if wrong := known.keys() ^ settings.keys():
        name = min(wrong)
        problem = "lacks" if name in known else "has the unknown"
        raise ConfigError(f"the recipe {path} {problem} setting {name!r}; see {FROM_IMAGENET.name}")
    return Recipe(**{name: setting(path, name, settings[name], known[name]) for name in known})


def setting(path: Path, name: str, value: Any, kind: Any) -> Any:
    if kind == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"the recipe {path}: {name} must be true or false, not {value!r}")
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind == "float" and isinstance(value, float))):
        expected = "a number" if kind == "float" else "a whole number"
        raise ConfigError(f"the recipe {path}: {name} must be {expected}, not {value!r}")
    low, high = LIMITS.get(name, (0, sys.float_info.max))
    if not low <= value <= high:
        limits = f"from {low} to {high}" if name in LIMITS else "finite and not negative"
        raise ConfigError(f"the recipe {path}: {name} must be {limits}, not {value}")
    return float(value) if kind == "float" else value
