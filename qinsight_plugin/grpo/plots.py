"""The curve of a training as pictures, one a topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from qinsight_plugin._imports import require
from qinsight_plugin.attempts import TASKS

Entry = Mapping[str, Any]

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00")

TOPICS: Mapping[str, tuple[str, ...]] = {
    "reward": tuple(f"{task}/reward" for task in TASKS),
    "unreadable": tuple(f"{task}/unreadable" for task in TASKS),
    "agreement": (
        "score/srcc",
        "score/plcc",
        "degradation/accuracy",
        "degradation/class",
        "comparison/accuracy",
    ),
    "optimisation": ("kl", "entropy", "grad_norm"),
}
"""Picture -> the figures in it."""

_TITLES = {
    "reward": "Reward by task",
    "unreadable": "Share of replies that cannot be read",
    "agreement": "On pictures held back",
    "optimisation": "Divergence from the start, entropy of a token, length of the gradient",
}


def draw(entries: Sequence[Entry], title: str) -> dict[str, Any]:
    """Topic -> a matplotlib Figure, where there is anything to draw.

    Training is a thin line and its mean over 20 steps; what was held back, a thick line with dots.
    """
    figures = {}
    for topic, names in TOPICS.items():
        lines = [
            (name, kind, [(e["step"], e[name]) for e in entries if _has(e, kind, name)])
            for name in names
            for kind in ("train", "held out")
        ]
        if lines := [line for line in lines if line[2]]:
            figures[topic] = _figure(lines, f"{title}: {_TITLES[topic]}")
    return figures


def _has(entry: Entry, kind: str, name: str) -> bool:
    return entry["kind"] == kind and entry.get(name) is not None


def _figure(lines: Sequence[tuple[str, str, list[tuple[int, float]]]], title: str) -> Any:
    figure = _matplotlib("matplotlib.figure").Figure(figsize=(8, 4.5), layout="constrained")
    _matplotlib("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(name for name, _, _ in lines))
    for name, kind, points in lines:
        colour = _COLOURS[names.index(name) % len(_COLOURS)]
        steps, values = zip(*points, strict=True)
        if kind == "train":
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smoothed(values), color=colour, label=f"{name}, training")
        else:
            axes.plot(steps, values, "o-", color=colour, linewidth=2, label=f"{name}, held back")
    axes.set_title(title, parse_math=False)
    axes.set_xlabel("Optimiser step")
    axes.grid(color="0.9")
    axes.legend(frameon=False, fontsize=8)
    return figure


def smoothed(values: Sequence[float], span: int = 20) -> list[float]:
    """The mean over the last `span` values."""
    return [
        sum(values[max(0, k - span + 1) : k + 1]) / min(k + 1, span) for k in range(len(values))
    ]


def save(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write each as TOPIC.png, 800 pixels wide."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{topic}.png" for topic in figures]
    for figure, path in zip(figures.values(), paths, strict=True):
        figure.savefig(path, dpi=100)
    return paths


def _matplotlib(module: str) -> ModuleType:
    return require(module, package="matplotlib", extra="grpo", purpose="drawing the curve")


def draw_seeds(curves: Mapping[int, Sequence[Entry]], path: Path) -> None:
    """What was held back, in several trainings that differ in their seed alone, 800 pixels wide."""
    figure = _matplotlib("matplotlib.figure").Figure(figsize=(8, 3.2), layout="constrained")
    _matplotlib("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 2), ("score/srcc", "reward"), strict=True):
        for (seed, entries), colour in zip(curves.items(), _COLOURS, strict=False):
            points = [(e["step"], e[name]) for e in entries if _has(e, "held out", name)]
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, "o-", color=colour, markersize=3, label=f"seed {seed}")
        axes.set_title(f"{name}, held back")
        axes.set_xlabel("Optimiser step")
        axes.grid(color="0.9")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)
