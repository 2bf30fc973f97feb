"""A training run on disk, so that a kill costs no more than the last interval."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.student.recipe import Recipe

if TYPE_CHECKING:
    from qinsight_plugin.student.fit import State

PARTS = ("student", "average", "scales", "optimizer", "schedule")


class Checkpoint:
    """Saves and restores a `fit.State`; a run without a path keeps nothing.

    Args:
        path: the file; None: no checkpoint.
        recipe, ratings: what tells one run from another, with where it started from.
    """

    def __init__(self, path: Path | None, recipe: Recipe, ratings: np.ndarray[Any, Any]) -> None:
        self._path = path
        self._interval = recipe.checkpoint_seconds
        settings = dataclasses.replace(recipe, checkpoint_seconds=0.0)
        self._run = hashlib.sha256(repr(settings).encode() + ratings.tobytes())
        self._saved = time.monotonic()

    def restore(self, state: State) -> None:
        """Go on from the file, where there is one.

        Raises:
            ConfigError: it cannot be read, or is of another run.
        """
        for tensor in state.student.state_dict().values():
            self._run.update(tensor.contiguous().numpy().tobytes())
        if self._path is None or not self._path.exists():
            return
        try:
            # Tensors, numbers and names only: a checkpoint runs no code when it is read.
            saved = torch.load(self._path, weights_only=True)
        except Exception as error:  # torch, zipfile and pickle raise their own kinds
            raise ConfigError(
                f"cannot read the checkpoint {self._path}; delete it to start over"
            ) from error
        if saved.get("run") != self._run.hexdigest():
            raise ConfigError(
                f"the checkpoint {self._path} is of a run with other pictures, another recipe or "
                "another start; delete it to start over, or name another --work folder"
            )
        for part in PARTS:
            getattr(state, part).load_state_dict(saved[part])
        state.order = saved["order"].numpy()
        state.step = saved["step"]
        state.rng.bit_generator.state = saved["rng"]
        torch.set_rng_state(saved["torch_rng"])

    def save_now_and_then(self, state: State) -> None:
        """Save, if the last time was an interval ago."""
        if self._path is not None and time.monotonic() - self._saved >= self._interval:
            self.save(self._path, state)
            self._saved = time.monotonic()

    def save(self, path: Path, state: State) -> None:
        content = {part: getattr(state, part).state_dict() for part in PARTS} | {
            "run": self._run.hexdigest(),
            "order": torch.from_numpy(state.order),
            "step": state.step,
            "rng": state.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
        }
        temporary = path.with_name(path.name + ".tmp")
        torch.save(content, temporary)
        temporary.replace(path)
