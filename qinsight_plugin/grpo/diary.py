"""What a training writes down as it goes: its curve, replies as text, pictures, TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback

from qinsight_plugin.attempts import Attempt, Truth
from qinsight_plugin.grpo.plots import draw, save
from qinsight_plugin.grpo.run import Curve, RunFolder
from qinsight_plugin.records import Distortion

OnStep = Callable[[int, int, Mapping[str, float]], None]
OnMeasured = Callable[[int, Mapping[str, float]], None]

_HELD = "eval_"
_SAMPLES = 4
"""Groups of replies that are written down at each measurement."""


class Diary(TrainerCallback):
    """Keeps the records of a training, in its main process.

    Args:
        run: where.
        step: after which it goes on.
        title: of the pictures.
        on_step: called with each step, of how many, and its figures.
        on_measured: called with each measurement.
    """

    def __init__(
        self, run: RunFolder, step: int, title: str, on_step: OnStep, on_measured: OnMeasured
    ) -> None:
        self.curve = Curve(run.folder / "curve.jsonl", step)
        self._run, self._title = run, title
        self._on_step, self._on_measured = on_step, on_measured
        self._board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=step + 1)
        self._latest: tuple[int, list[tuple[Attempt, float]]] = (0, [])

    def note_attempts(
        self, step: int, attempts: Sequence[Attempt], totals: Sequence[float]
    ) -> None:
        """Remember a batch's replies, for the next measurement to write down."""
        self._latest = (step, list(zip(attempts, totals, strict=True)))

    def note_measured(self, step: int, found: Mapping[str, float]) -> None:
        self.curve.add(step, "held out", found)
        for name, value in found.items():
            self._board.add_scalar(f"held out/{name}", value, step)
        self._on_measured(step, found)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """The trainer's figures, a step's or a measurement's."""
        step = state.global_step
        told = {name: float(v) for name, v in logs.items() if isinstance(v, (int, float))}
        told.pop("epoch", None)
        if any(name.startswith(_HELD) for name in told):
            self.note_measured(step, {name.removeprefix(_HELD): v for name, v in told.items()})
            self.keep()
        elif "loss" in told:
            told = {name: value for name, value in told.items() if math.isfinite(value)}
            self.curve.add(step, "train", told)
            for name, value in told.items():
                self._board.add_scalar(f"train/{name}", value, step)
            self._on_step(step, state.max_steps, told)

    def keep(self) -> None:
        """Write the pictures, and the replies of the last batch."""
        step, latest = self._latest
        figures = draw(self.curve.entries, self._title)
        save(figures, self._run.folder / "curves")
        for topic, figure in figures.items():
            self._board.add_figure(topic, figure, step, close=False)
        if latest:
            text = samples(step, latest)
            folder = self._run.folder / "samples"
            folder.mkdir(exist_ok=True)
            (folder / f"step-{step:06d}.txt").write_text(text, "utf-8")
            self._board.add_text("samples", f"```\n{text}\n```", step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


def samples(step: int, latest: Sequence[tuple[Attempt, float]]) -> str:
    """The replies of the first groups of a batch, with what they were rewarded."""
    groups: dict[int, list[tuple[Attempt, float]]] = {}
    for one, total in latest:
        groups.setdefault(one.group, []).append((one, total))
    parts = [f"step {step}"]
    for own in list(groups.values())[:_SAMPLES]:
        row = own[0][0].row
        names = ", ".join(path.name for path in row.pictures)
        parts.append(f"=== {row.task}: {names} ({row.place}); truth: {in_words(row.truth)}")
        for one, total in own:
            end = " [cut]" if one.cut else ""
            parts.append(f"--- reward {total:.3f}\n{one.reply}{end}")
    return "\n".join(parts) + "\n"


def in_words(truth: Truth) -> str:
    if isinstance(truth, float):
        return f"{truth:.2f}"
    if isinstance(truth, Distortion):
        return f"{truth.severity} {truth.name}"
    return "nothing wrong" if truth is None else truth


__all__ = ["Diary", "OnMeasured", "OnStep", "samples"]
