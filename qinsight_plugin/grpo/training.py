"""From a config to a trained model: what `qinsight train grpo` does."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from qinsight_plugin.attempts import Attempt, Row, Truth
from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.evaluate import Agreement, evaluate
from qinsight_plugin.grpo.card import model_card
from qinsight_plugin.grpo.config import Config, Wanted
from qinsight_plugin.grpo.diary import Diary, OnMeasured, OnStep, in_words
from qinsight_plugin.grpo.judge import Judge
from qinsight_plugin.grpo.memory import purpose_of, require_room
from qinsight_plugin.grpo.reading import Problem
from qinsight_plugin.grpo.rows import Rows, check_enough, picture_problems, read_rows, refuse
from qinsight_plugin.grpo.run import RunFolder, identity_of, newest_checkpoint, write_whole
from qinsight_plugin.grpo.schedule import schedule
from qinsight_plugin.grpo.trainer import Trainer, arguments_of, require_same_reference
from qinsight_plugin.grpo.validation import HeldOut
from qinsight_plugin.reasoning.finding import find
from qinsight_plugin.reasoning.libraries import quiet
from qinsight_plugin.reasoning.loading import Checkpoint, Loading, load_checkpoint


@dataclass(frozen=True, slots=True)
class Watch:
    """Who wants to know how far a training is; nothing is called but in the main process.

    Attributes:
        on_picture: called with each picture that was checked, of how many, and what is wrong.
        on_step, on_measured: see `Diary`.
        on_resume: called with the step after which a run goes on.
    """

    on_picture: Callable[[int, int, Problem | None], None] = lambda done, total, problem: None
    on_step: OnStep = lambda step, steps, figures: None
    on_measured: OnMeasured = lambda step, figures: None
    on_resume: Callable[[int], None] = lambda step: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a training.

    Attributes:
        model: the folder of the best checkpoint, merged.
        start, best: the figures on what was held back, before training and of the model that is
            kept; empty where nothing was held back.
        step: of the checkpoint that is kept, of `steps`.
        early: it stopped because nothing better came.
    """

    model: Path
    start: Mapping[str, float]
    best: Mapping[str, float]
    step: int
    steps: int
    early: bool


def check(config: Config, watch: Watch | None = None) -> tuple[Rows, list[Problem]]:
    """All rows, and all that is wrong with them and their pictures."""
    watch = watch or Watch()
    rows = read_rows(config)
    every = [*(row for own in rows.train for row in own), *rows.held]
    total = len({path for row in every for path in row.pictures})
    problems = list(rows.problems)
    for done, problem in enumerate(picture_problems(every, config), 1):
        watch.on_picture(done, total, problem)
        if problem is not None:
            problems.append(problem)
    return rows, problems


def train(config: Config, wanted: Sequence[Wanted], watch: Watch | None = None) -> Outcome | None:
    """Train, or go on where the same training was when it was killed.

    Every process of a launch calls this.

    Returns:
        None where the training had been finished before.

    Raises:
        ConfigError: a setting does not fit the data or the machine; the output is another's.
        LabelsError: rows or pictures that cannot be used; see `check`.
        RewardError: a reward failed.
        QInsightError: from loading the model.
    """
    watch = watch or Watch()
    state = PartialState()
    rows, problems = check(config, watch) if state.is_main_process else (read_rows(config), [])
    refuse(problems)
    check_enough(rows, config)
    arguments = _arguments(config, state.num_processes)
    require_room(config)
    _, files = find(config.model, purpose_of(config))
    identity = identity_of(config, [*rows.train, rows.held], files)
    run = RunFolder(config.output, identity) if state.is_main_process else None
    try:
        state.wait_for_everyone()
        if (config.output / "model").exists():
            return None
        start = load_start(config, arguments, state)
        return _Training(config, wanted, rows, start, arguments, run, watch).run()
    finally:
        if run is not None:
            run.close()


def _arguments(config: Config, processes: int) -> Any:
    share = config.train.per_device * processes
    if config.train.batch % share:
        raise ConfigError(
            f"[train]: batch {config.train.batch} cannot be shared by {processes} processes of "
            f"per_device {config.train.per_device}: make it a multiple of {share}"
        )
    if config.train.vllm:
        _require_vllm()
    folder = config.output / "checkpoints"
    with quiet():
        cuda = torch.cuda.is_available()
        return arguments_of(config, folder, cuda=cuda, processes=processes)


def _require_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "[train]: vllm = true, and vllm is not installed: run pip install 'trl[vllm]', which "
            "takes a version that TRL can work with"
        )


def load_start(config: Config, arguments: Any, state: Any) -> Checkpoint:
    """The model that training starts from, where this process trains it.

    Adapters are trained over bfloat16; all parameters in float32, unless DeepSpeed keeps a copy in
    float32 by itself, for a step of 1e-6 is less than bfloat16 can add.
    """
    cuda, lora = torch.cuda.is_available(), config.lora
    sharded = arguments.deepspeed_plugin is not None or arguments.fsdp
    half = cuda and (bool(lora.rank) or arguments.deepspeed_plugin is not None)
    loading = Loading(
        # What is sharded is placed by what shards it.
        device=str(state.device) if cuda and not sharded else "cpu",
        dtype="bfloat16" if half else "float32",
        quantize=lora.quantize or None,
        pixels=config.train.pixels,
    )
    return load_checkpoint(config.model, purpose_of(config), loading)


def steps_of(config: Config, count: int) -> int:
    """Batches of replies for so many rows: the epochs' prompts, in whole batches."""
    prompts = config.train.batch // config.train.generations
    return max(1, math.floor(config.train.epochs * count / prompts))


@dataclass
class _Training:
    config: Config
    wanted: Sequence[Wanted]
    rows: Rows
    start: Checkpoint
    arguments: Any
    folder: RunFolder | None
    watch: Watch
    predicted: dict[int, list[Attempt]] = field(default_factory=dict)

    def run(self) -> Outcome:
        step, newest = newest_checkpoint(self.config.output) or (-1, None)
        trainer, diary = self._trainer(step)
        try:
            if newest is not None and self.folder is not None:
                self.watch.on_resume(step)
            with quiet():
                trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
            if self.folder is None or diary is None:
                return self._outcome(trainer, [])
            diary.keep()
            outcome = self._outcome(trainer, diary.curve.entries)
            self._finish(self.folder, outcome, diary)
            return outcome
        finally:
            if diary is not None:
                diary.close()

    def _trainer(self, step: int) -> tuple[Trainer, Diary | None]:
        config = self.config
        sizes = [len(own) for own in self.rows.train]
        prompts = config.train.batch // config.train.generations
        count = prompts * steps_of(config, sum(sizes))
        order = schedule(sizes, [one.weight for one in config.data], count, config.train.seed)
        asked = [self.rows.train[chosen][row] for chosen, row in order]
        held = HeldOut(self.rows.held, self.start.encoder.pixels, config.train.max_tokens)
        diary = None
        if self.folder is not None:
            title = config.output.name
            diary = Diary(self.folder, step, title, self.watch.on_step, self.watch.on_measured)
        with quiet():
            trainer = Trainer(
                self.start,
                config,
                self.arguments,
                asked,
                held,
                Judge(self.wanted),
                on_attempts=diary.note_attempts if diary else None,
                on_held=self._note_held if diary else None,
            )
        require_same_reference(trainer)
        trainer.add_callback(_Start(trainer, diary))
        if diary is not None:
            trainer.add_callback(diary)
        return trainer, diary

    def _note_held(self, step: int, attempts: Sequence[Attempt]) -> None:
        """Write down what was answered about each row that is held back."""
        assert self.folder is not None  # see `_trainer`
        folder = self.folder.folder / "held-out"
        folder.mkdir(exist_ok=True)
        lines = [
            {
                "row": one.row.place,
                "task": one.row.task,
                "picture": one.row.pictures[0].name,
                "truth": _told(one.row.truth),
                "answer": _told(one.answer) if one.readable else None,
                "reply": one.reply,
            }
            for one in attempts
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_whole(folder / f"step-{step:06d}.jsonl", text)

    def _outcome(self, trainer: Trainer, entries: Sequence[Mapping[str, Any]]) -> Outcome:
        state = trainer.state
        kept = state.best_global_step or state.global_step
        measured = {e["step"]: e for e in entries if e["kind"] == "held out"}

        def figures(step: int) -> dict[str, float]:
            known = measured.get(step, {})
            return {name: v for name, v in known.items() if name not in ("step", "kind")}

        return Outcome(
            model=self.config.output / "model",
            start=figures(0),
            best=figures(kept),
            step=kept,
            steps=state.max_steps,
            early=state.global_step < state.max_steps,
        )

    def _finish(self, folder: RunFolder, outcome: Outcome, diary: Diary) -> None:
        """The checkpoint that is kept, merged, with its card; whole, or not there."""
        kept = folder.checkpoints / f"checkpoint-{outcome.step}"
        dtype = str(self.start.model.dtype).removeprefix("torch.")
        loading = Loading("cpu", dtype, pixels=self.config.train.pixels)
        purpose = purpose_of(self.config)
        if self.config.lora.rank:
            adapted = replace(loading, adapter=kept)
            merged = load_checkpoint(self.config.model, purpose, adapted)
        else:
            merged = load_checkpoint(str(kept), purpose, loading)
        draft = folder.folder / "model.part"
        shutil.rmtree(draft, ignore_errors=True)
        with quiet():
            merged.model.save_pretrained(draft)
            merged.encoder.tokenizer.save_pretrained(draft)
            merged.encoder.images.save_pretrained(draft)
        load_checkpoint(str(draft), purpose, loading)  # as the scorer will, or an error now
        curves = folder.folder / "curves"
        if curves.is_dir():
            shutil.copytree(curves, draft / "curves")
        agreement = _agreement(folder.folder / "held-out" / f"step-{outcome.step:06d}.jsonl")
        drawn = diary.curve.entries
        card = model_card(self.config, self.wanted, self.rows, outcome, agreement, drawn)
        (draft / "README.md").write_text(card, "utf-8")
        shutil.rmtree(folder.model, ignore_errors=True)
        draft.replace(folder.model)


def _told(truth: Truth) -> float | str:
    return truth if isinstance(truth, float) else in_words(truth)


def _agreement(path: Path) -> Agreement | None:
    """How far the readable ratings of a measurement agree with the truth; None where they cannot be
    compared."""
    if not path.exists():
        return None
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rated = [x for x in lines if x["task"] == "score" and x["answer"] is not None]
    try:
        return evaluate([x["answer"] for x in rated], [x["truth"] for x in rated])
    except LabelsError:  # too few, or all rated alike
        return None


class _Start(TrainerCallback):
    """Measures before the first step."""

    def __init__(self, trainer: Trainer, diary: Diary | None) -> None:
        self._trainer, self._diary = trainer, diary

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0 and self._trainer.measures:
            found = self._trainer.measure()
            if self._diary is not None:
                self._diary.note_measured(0, found)


__all__ = ["Outcome", "Row", "Watch", "check", "train"]
