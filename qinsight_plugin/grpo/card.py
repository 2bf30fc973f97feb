"""The model card of a trained model: data, settings, curves and figures, as Markdown."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qinsight_plugin import __version__
from qinsight_plugin.evaluate import Agreement
from qinsight_plugin.grpo.config import Config, Wanted
from qinsight_plugin.grpo.plots import TOPICS
from qinsight_plugin.grpo.rows import Rows

if TYPE_CHECKING:
    from qinsight_plugin.grpo.training import Outcome

_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


def model_card(
    config: Config,
    wanted: Sequence[Wanted],
    rows: Rows,
    outcome: Outcome,
    agreement: Agreement | None,
    entries: Sequence[Mapping[str, Any]],
) -> str:
    """The card. What is not known is not in it: what the labels are and who gave them is for
    whoever trained the model to add."""
    parts = [
        f"# {config.output.name}",
        f"A vision-language model of picture quality: `{_name(config.model)}`, trained by group "
        f"relative policy optimisation with qinsight-plugin {__version__}. It is asked, and its "
        "replies are read, by `qinsight score PICTURE --scorer reasoning:FOLDER`.",
        f"Kept is step {outcome.step} of {outcome.steps}"
        + (", after which nothing better came" if outcome.early else "")
        + ".",
        "## Data",
        _data(config, rows),
        "## Figures",
        _figures(rows, outcome, agreement),
        "## Curves",
        *(
            f"![{topic}](curves/{topic}.png)"
            for topic, names in TOPICS.items()
            if any(entry.get(name) is not None for entry in entries for name in names)
        ),
        "## Settings",
        _settings(config, wanted),
    ]
    return "\n\n".join(parts) + "\n"


def _name(model: str) -> str:
    """A folder by its own name: where it lies is nobody's business."""
    return Path(model).name if Path(model).is_dir() else model


def _data(config: Config, rows: Rows) -> str:
    lines = ["| labels | task | rows to train on | truth |", "|---|---|---|---|"]
    for one, own in zip(config.data, rows.train, strict=True):
        truth = "computed by a program" if one.proxy else "as given in the labels"
        lines.append(f"| {one.labels.name} | {one.task} | {len(own)} | {truth} |")
    held = {task: sum(row.task == task for row in rows.held) for task in _tasks(rows)}
    proxies = sum(row.proxy for row in rows.held)
    told = ", ".join(f"{count} of {task}" for task, count in held.items()) or "nothing"
    weak = f"; the truth of {proxies} of them was computed by a program" if proxies else ""
    left = f" {rows.left_out} rows are in neither part." if rows.left_out else ""
    return "\n".join([*lines, "", f"Held back, and never trained on: {told}{weak}.{left}"])


def _tasks(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row.task for row in rows.held))


def _figures(rows: Rows, outcome: Outcome, agreement: Agreement | None) -> str:
    if not outcome.best:
        return "Nothing was held back, so nothing is known of how good it is."
    lines = [
        "On what was held back, the likeliest reply asked for once. The checkpoint was chosen by "
        "these same rows, so the figures flatter it a little: measure on others.",
        "",
        "| figure | n | before | after |",
        "|---|---|---|---|",
    ]
    for name, value in outcome.best.items():
        if name == "merit":  # the metric by which the checkpoint was chosen, which is there too
            continue
        task = name.partition("/")[0]
        n = sum(row.task == task for row in rows.held) or len(rows.held)
        before = outcome.start.get(name)
        lines.append(
            f"| {name} | {n} | {'' if before is None else f'{before:.3f}'} | {value:.3f} |"
        )
    if agreement is not None:
        lines += [
            "",
            f"After, with 95 % bootstrap intervals, over the {agreement.n} ratings that can be "
            f"read: SRCC {agreement.srcc}, PLCC {agreement.plcc}, RMSE {agreement.rmse}.",
        ]
    return "\n".join(lines)


def _settings(config: Config, wanted: Sequence[Wanted]) -> str:
    lines = ["```toml"]
    for one in wanted:
        settings = "".join(f", {name} = {value:g}" for name, value in one.settings.items())
        lines.append(f"rewards.{one.spec.name} = {{ weight = {one.weight:g}{settings} }}")
    for table in ("train", "lora", "validation"):
        lines.append(f"[{table}]")
        for name, value in dataclasses.asdict(getattr(config, table)).items():
            lines.append(f"{name} = {_toml(value)}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    return "\n".join([*lines, "```", "", f"Libraries: {versions}."])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
