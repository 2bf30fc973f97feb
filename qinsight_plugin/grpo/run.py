"""The folder of a training: whose it is, where it stands, and its curve.

OUTPUT/
  run.json             what it was started with; another start is refused
  curve.jsonl          a line a step, and one a measurement; nothing is in it twice
  samples/             replies as text
  checkpoints/         the newest and the best
  curves/              pictures of the curve
  tensorboard/         the same for TensorBoard
  model/               what `reasoning:OUTPUT/model` loads, and its card; there when all is done
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from qinsight_plugin.attempts import Row
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.grpo.config import Config

WHOLE: Final = "whole"
"""The file that is put into a checkpoint when all else is in it."""


class RunFolder:
    """The folder of one training, held until `close`.

    Args:
        folder: made where it is missing.
        identity: what the training is of; see `identity_of`.

    Raises:
        ConfigError: another process works in it, or it is another training's.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"{folder}: another training is at work in it") from error
        try:
            self._claim(identity)
            self._drop_torn()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._lock.release()

    def _claim(self, identity: Mapping[str, Any]) -> None:
        path = self.folder / "run.json"
        told = json.loads(json.dumps(identity))
        if not path.exists():
            write_whole(path, json.dumps(told, indent=1))
            return
        known = json.loads(path.read_text("utf-8"))
        if changed := sorted(k for k in {*known, *told} if known.get(k) != told.get(k)):
            raise ConfigError(
                f"{self.folder} holds a training with other {', '.join(changed)}: name another "
                "output, or delete it to start anew"
            )

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def _drop_torn(self) -> None:
        """Delete the checkpoints that a kill cut short."""
        for path in self.checkpoints.glob("checkpoint-*"):
            if not (path / WHOLE).exists():
                shutil.rmtree(path)


def newest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """The newest whole checkpoint in a run's folder, and the step after which it was made."""
    found = [
        (int(path.parent.name.partition("-")[2]), path.parent)
        for path in folder.glob(f"checkpoints/checkpoint-*/{WHOLE}")
    ]
    return max(found, default=None)


class Curve:
    """The figures of a training, as lines of JSON: `{"step": ..., "kind": "train", ...}`.

    Args:
        path: where they are.
        step: where training goes on; what was written after it is dropped, for it comes again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.entries = [entry for entry in read_curve(path) if entry["step"] <= step]
        write_whole(path, "".join(json.dumps(entry) + "\n" for entry in self.entries))

    def add(self, step: int, kind: str, figures: Mapping[str, float]) -> None:
        entry = {"step": step, "kind": kind, **figures}
        self.entries.append(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a kill may have cut the last short."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def identity_of(config: Config, rows: Sequence[Sequence[Row]], model: str) -> dict[str, Any]:
    """What must be the same for a training to go on: model, settings, rows.

    Args:
        rows: of each set, and those held back.
        model: the identity of the checkpoint's files.
    """
    settings = dataclasses.asdict(config)
    digest = hashlib.sha256()
    for own in rows:
        digest.update(f"{len(own)}\n".encode())  # or else the sets would run into each other
        for one in own:
            pictures = [os.fspath(path.resolve()) for path in one.pictures]
            digest.update(json.dumps([one.task, pictures, str(one.truth)]).encode())
    return {
        "model": model,
        "data": digest.hexdigest()[:16],
        "weights": [one.weight for one in config.data],
        **{name: settings[name] for name in ("train", "lora", "validation", "rewards")},
    }


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or as it was."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, "utf-8")
    draft.replace(path)
