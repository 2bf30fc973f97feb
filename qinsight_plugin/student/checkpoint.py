"""A training run on disk, so that a kill costs no more than the last interval."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.student.recipe import Recipe

if TYPE_CHECKING:
    from qinsight_plugin.student.fit import State, TrainingData
    from qinsight_plugin.student.network import AnyStudent

PARTS = ("student", "average", "scales", "optimizer", "schedule")


class Checkpoint:
    """Saves and restores a `fit.State`; a run without a path keeps nothing.

    Args:
        path: the file; None: no checkpoint.
        run: what no other run is called, see `name_of_run`.
        interval: seconds between two savings.
    """

    def __init__(self, path: Path | None, run: str, interval: float) -> None:
        self._path = path
        self._run = run
        self._interval = interval
        self._saved = time.monotonic()

    def restore(self, state: State) -> None:
        """Go on from the file, where there is one.

        Raises:
            ConfigError: it cannot be read, or is of another run.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            # Tensors, numbers and names only: a checkpoint runs no code when it is read.
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch, zipfile and pickle raise their own kinds
            raise ConfigError(
                f"cannot read the checkpoint {self._path}; delete it to start over"
            ) from error
        if not isinstance(saved, dict) or saved.get("run") != self._run:
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

    def save_now_and_then(self, state: State, *, last: bool = False) -> None:
        """Save, if the last time was an interval ago, or there is no more to come."""
        due = last or time.monotonic() - self._saved >= self._interval
        if self._path is not None and due:
            self.save(self._path, state)
            self._saved = time.monotonic()

    def save(self, path: Path, state: State) -> None:
        content = {part: getattr(state, part).state_dict() for part in PARTS} | {
            "run": self._run,
            "order": torch.from_numpy(state.order),
            "step": state.step,
            "rng": state.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
        }
        temporary = path.with_name(path.name + ".tmp")
        torch.save(content, temporary)
        temporary.replace(path)


def name_of_run(student: AnyStudent, data: TrainingData, recipe: Recipe) -> str:
    """A digest of all that decides what training makes: where it starts, what from and how it
    learns."""
    settings = dataclasses.replace(recipe, checkpoint_seconds=0.0)
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in student.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for teacher in data.teachers:
        for tensor in teacher.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    rated, compared = data.rated, data.compared
    records = [*rated.views, *(family.records for family in data.families)]
    digest.update(repr([[record.key for record in own] for own in records]).encode())
    for column in (rated.mos, rated.variance, rated.weight, rated.severities):
        digest.update(column.tobytes())
    for numbers in (rated.group, rated.scale):
        digest.update(numbers.tobytes())
    if compared is not None:
        answers = np.stack([compared.first, compared.second, compared.preferred])
        digest.update(answers.tobytes())
    return digest.hexdigest()
