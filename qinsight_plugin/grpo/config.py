"""How to train, as one TOML file.

Every default is the value that Q-Insight was published with: in the paper (arXiv 2503.22679), in
`run_qinsight_score_and_dist.sh`, or as a default of the trainer that it starts
(github.com/bytedance/Q-Insight, commit 08308fdb21c1). Ours are `[lora]`, `[validation]`, and
`pixels`, which is what the published demos and our scorer show a model; the published training let
it see up to 12,845,056.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from qinsight_plugin.attempts import TASKS, RewardSpec, Task
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.toml import read_toml

T = TypeVar("T")

PUBLISHED = ("format", "threshold", "degradation", "comparison")
"""The rewards of the published training, each with weight 1."""

Metric: TypeAlias = Literal["srcc", "plcc", "accuracy"]


@dataclass(frozen=True, slots=True)
class DataSet:
    """One file of labels, a table `[[data]]`.

    Attributes:
        task: "score", "degradation" or "comparison".
        labels: a .csv, .jsonl or .parquet file; for its columns see `reading.LAYOUTS`.
        images: the folder that relative paths of pictures start from; the labels' own by default.
        scale: the worst and the best rating that could be given; needed for scores, and may fall,
            as [1, 0] does where 0 is best.
        weight: share of the prompts that come from this set, relative to the other sets' weights.
            None in all sets: each row is asked about as often as any other.
        proxy: the labels were computed by a program, such as a full-reference score.
    """

    task: Task
    labels: Path
    images: Path | None = None
    scale: tuple[float, float] | None = None
    weight: float | None = None
    proxy: bool = False


@dataclass(frozen=True, slots=True)
class Optimisation:
    """The table `[train]`.

    Attributes:
        epochs: passes over the rows.
        generations: replies to a prompt, G.
        batch: replies an optimiser step, over all processes and accumulated passes.
        per_device: replies whose gradients are computed at once on a device.
        iterations: optimiser steps made of the same replies.
        learning_rate: AdamW's, at the start; it falls linearly to 0.
        warmup: share of the steps over which it rises first.
        weight_decay: AdamW's.
        max_grad_norm: to which gradients are clipped.
        beta: weight of the divergence from the model that training starts from.
        epsilon: by which a token's probability may change before its gradient is clipped.
        temperature, top_k, top_p: of the sampling of replies; top_k 0 and top_p 1 cut nothing off.
        max_tokens: the longest reply.
        pixels: the most pixels of a picture that the model is shown.
        gradient_checkpointing: compute activations twice, and hold far fewer.
        vllm: let vLLM write the replies, in the same processes.
        seed: of everything random.
    """

    epochs: float = 10
    generations: int = 8
    batch: int = 128
    per_device: int = 8
    iterations: int = 1
    learning_rate: float = 1e-6
    warmup: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    beta: float = 0.001
    epsilon: float = 0.2
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    max_tokens: int = 256
    pixels: int = 1280 * 28 * 28
    gradient_checkpointing: bool = False
    vllm: bool = False
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Lora:
    """The table `[lora]`; without it all parameters are trained, as published.

    Attributes:
        rank: of the adapters on all linear layers of the language model; 0: none.
        alpha: their scale, over `rank`.
        dropout: of their inputs.
        quantize: "4bit" or "8bit" for the weights under them, by bitsandbytes, on CUDA only.
    """

    rank: int = 0
    alpha: float = 32
    dropout: float = 0.0
    quantize: Literal["", "8bit", "4bit"] = ""


@dataclass(frozen=True, slots=True)
class Validation:
    """The table `[validation]`.

    Attributes:
        share: of each set's rows, held back where its labels have no split; near-duplicates
            (`dup_group`) stay on one side, as does a picture of several rows or sets. Pairs of one
            picture that is held back and one that is not are left out.
        every: optimiser steps between two measurements, and between two checkpoints.
        rows: most rows of a task that are asked about each time.
        metric: by which the best checkpoint is kept: "srcc", "plcc" or "accuracy".
        patience: measurements without a better one after which training stops; 0: it never does.
    """

    share: float = 0.1
    every: int = 100
    rows: int = 500
    metric: Metric = "srcc"
    patience: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reward that is asked for, with its weight in the sum and its settings."""

    spec: RewardSpec
    weight: float
    settings: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Config:
    """A training.

    Attributes:
        model: a folder, or an id of the Hugging Face hub.
        output: the folder for all that comes of it.
        data: at least one.
        rewards: name -> weight, or a table with `weight` and the reward's own settings.
    """

    model: str
    output: Path
    data: tuple[DataSet, ...]
    rewards: Mapping[str, Any] = field(default_factory=lambda: dict.fromkeys(PUBLISHED, 1))
    train: Optimisation = field(default_factory=Optimisation)
    lora: Lora = field(default_factory=Lora)
    validation: Validation = field(default_factory=Validation)


_LIMITS: Mapping[str, tuple[float, float]] = {
    "generations": (2, 1024),
    "batch": (2, 1 << 20),
    "per_device": (1, 1 << 20),
    "iterations": (1, 100),
    "warmup": (0, 1),
    "temperature": (1e-3, 100),
    "top_p": (1e-3, 1),
    "max_tokens": (1, 1 << 20),
    "pixels": (28 * 28, 1 << 30),
    "epsilon": (0, 1),
    "dropout": (0, 0.9),
    "alpha": (1e-6, 1e6),
    "share": (0, 0.5),
    "every": (1, 1 << 30),
    "rows": (3, 1 << 30),
    "epochs": (1e-6, 1e6),
    "weight": (1e-9, 1e9),
}
"""Lowest and highest values, where they are not 0 and any number."""


def read_config(path: Path) -> Config:
    """The training that a file describes; relative paths start from the file's folder.

    Raises:
        ConfigError: it cannot be read, or has a key that is unknown or missing, or a value that
            is wrong.
    """
    told = read_toml(path)
    reader = _Reader(path)
    sets = told.get("data")
    if not isinstance(sets, list) or not sets:
        raise reader.error("it has no [[data]]: name at least one file of labels")
    data = tuple(reader.table(DataSet, one, "[[data]]") for one in sets)
    config: Config = reader.table(
        Config,
        {
            **told,
            "data": data,
            "train": reader.table(Optimisation, told.get("train", {}), "[train]"),
            "lora": reader.table(Lora, told.get("lora", {}), "[lora]"),
            "validation": reader.table(Validation, told.get("validation", {}), "[validation]"),
        },
        "the file",
    )
    reader.check(config)
    model = path.parent / config.model
    return dataclasses.replace(config, model=str(model) if model.is_dir() else config.model)


class _Reader:
    """Makes records of a file's tables; each error names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def error(self, problem: str) -> ConfigError:
        return ConfigError(f"{self._path}: {problem}")

    def table(self, kind: type[T], told: object, where: str) -> T:
        """The record of that kind."""
        if not isinstance(told, dict):
            raise self.error(f"{where} must be a table, not {told!r}")
        known = {one.name: one for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
        for name in told:
            if name not in known:
                raise self.error(f"{where} has the unknown key {name!r}{meant(name, known)}")
        for name, one in known.items():
            needed = one.default is dataclasses.MISSING
            if needed and one.default_factory is dataclasses.MISSING and name not in told:
                raise self.error(f"{where} lacks the key {name!r}")
        values = {n: self.value(n, v, str(known[n].type), where) for n, v in told.items()}
        return kind(**values)

    def value(self, name: str, value: Any, kind: str, where: str) -> Any:
        """The value, checked for what the annotation `kind` says."""
        if kind.startswith("Path") and isinstance(value, str):
            return self._path.parent / Path(value).expanduser()
        if kind.startswith("tuple[float") and isinstance(value, list):
            pair = tuple(self.value(name, number, "float", where) for number in value)
            if len(pair) == 2 and pair[0] != pair[1]:
                return pair
            raise self.error(f"{where}: {name} must be the worst and the best rating, [1, 5] say")
        if kind.startswith(("int", "float")):
            return self._number(name, value, kind, where)
        choices = {"Task": TASKS, "Metric": get_args(Metric)}.get(kind, ())
        if kind.startswith("Literal"):
            choices = tuple(word.strip("'\" ") for word in kind[8:-1].split(","))
        if choices and value not in choices:
            raise self.error(
                f"{where}: {name} must be one of {', '.join(filter(None, choices))}, not {value!r}"
            )
        expected = {"bool": bool, "str": str, "Path": str}.get(kind.partition(" ")[0])
        if expected and not isinstance(value, expected):
            word = "true or false" if expected is bool else "a text"
            raise self.error(f"{where}: {name} must be {word}, not {value!r}")
        return value

    def _number(self, name: str, value: Any, kind: str, where: str) -> float:
        whole = kind.startswith("int")
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            word = "a whole number" if whole else "a number"
            raise self.error(f"{where}: {name} must be {word}, not {value!r}")
        low, high = _LIMITS.get(name, (0, sys.float_info.max))
        if name != "scale" and not low <= value <= high:
            limits = f"{low:g} or more" if high >= 1 << 20 else f"from {low:g} to {high:g}"
            raise self.error(f"{where}: {name} must be {limits}, not {value}")
        return value if whole else float(value)

    def check(self, config: Config) -> None:
        """What no single value shows."""
        train = config.train
        if train.batch % train.generations:
            raise self.error(
                f"[train]: batch {train.batch} is no multiple of generations {train.generations}: "
                "all replies to a prompt belong in one step"
            )
        if train.batch % train.per_device:
            raise self.error(
                f"[train]: batch {train.batch} is no multiple of per_device {train.per_device}"
            )
        weighted = [one.weight is not None for one in config.data]
        if any(weighted) and not all(weighted):
            raise self.error("give a weight to every [[data]], or to none")
        if config.lora.quantize and not config.lora.rank:
            raise self.error("[lora]: quantize needs a rank: quantised weights are not trained")
        if not isinstance(config.rewards, dict) or not config.rewards:
            raise self.error("[rewards] must name at least one reward")
        for one in config.data:
            if one.task == "score" and one.scale is None:
                raise self.error(
                    f"[[data]] {one.labels.name}: state the scale of its ratings, such as [1, 5]"
                )
            if one.task != "score" and one.scale is not None:
                raise self.error(f"[[data]] {one.labels.name}: only scores have a scale")


def wanted_rewards(
    config: Config, specs: Mapping[str, RewardSpec], path: Path
) -> tuple[Wanted, ...]:
    """The rewards that a training asks for.

    Those of tasks that it has no data for are left out, but each of its tasks must have one.

    Raises:
        ConfigError: there is no such reward or setting, or a task has none but `format`.
    """
    reader = _Reader(path)
    tasks = {one.task for one in config.data}
    wanted = []
    for name, told in config.rewards.items():
        where = f"[rewards] {name}"
        if name not in specs:
            raise reader.error(f"there is no reward {name!r}{meant(name, specs)}")
        spec = specs[name]
        settings = dict(told) if isinstance(told, dict) else {"weight": told}
        weight = reader.value("weight", settings.pop("weight", 1), "float", where)
        for key in settings:
            if key not in spec.settings:
                raise reader.error(
                    f"{where} has the unknown setting {key!r}{meant(key, spec.settings)}"
                )
            settings[key] = reader.value(key, settings[key], "float", where)
        if tasks & set(spec.tasks):
            wanted.append(Wanted(spec, weight, {**spec.settings, **settings}))
    for task in sorted(tasks):
        own = [one.spec.name for one in wanted if task in one.spec.tasks]
        if not set(own) - {"format"}:
            fitting = [s.name for s in specs.values() if task in s.tasks and s.name != "format"]
            raise reader.error(
                f"no reward says whether an answer to a {task} prompt is right: add to [rewards] "
                f"{' or '.join(sorted(fitting))}"
            )
    return tuple(wanted)


def meant(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """The end of a message about a word that is not known."""
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": there are {', '.join(sorted(known))}"
