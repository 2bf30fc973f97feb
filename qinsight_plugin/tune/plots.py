"""A study's plots: history, importance of the parameters, Pareto front."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qinsight_plugin._imports import require
from qinsight_plugin.tune.storage import GOALS, import_optuna

_BLUE, _ORANGE = "#0072B2", "#E69F00"  # Okabe and Ito


def draw_all(study: Any, goals: Sequence[str], folder: Path) -> list[str]:
    """Write what there is to draw; the files' names."""
    complete = [trial for trial in study.trials if trial.values is not None]
    drawn = []
    if len(goals) > 1:
        front(study, complete, goals).savefig(folder / "front.png", dpi=100)
        drawn.append("front.png")
    for index, goal in enumerate(goals):
        name = f"history-{goal}.png"
        history(complete, index, goal).savefig(folder / name, dpi=100)
        drawn.append(name)
        if weights := importances(study, index, goal):
            name = f"importance-{goal}.png"
            importance(weights, goal).savefig(folder / name, dpi=100)
            drawn.append(name)
    return drawn


def importances(study: Any, index: int, goal: str) -> dict[str, float]:
    """Share of each parameter in what separates the best tenth of the trials (PED-ANOVA, Watanabe
    et al., IJCAI 2023); empty with too few trials to tell."""
    optuna = import_optuna()
    if sum(trial.values is not None for trial in study.trials) < 20:
        return {}
    sign = -1 if GOALS[goal] == "maximize" else 1  # it asks what makes the target low
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does so, and that it is experimental
        found: dict[str, float] = optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
            target=lambda trial: sign * trial.values[index],
        )
    return found


def history(trials: Sequence[Any], index: int, goal: str) -> Any:
    figure, axes = canvas()
    numbers = [trial.number for trial in trials]
    values = [trial.values[index] for trial in trials]
    best = itertools.accumulate(values, max if GOALS[goal] == "maximize" else min)
    axes.scatter(numbers, values, s=18, color=_BLUE, alpha=0.6, label="trial")
    axes.step(numbers, list(best), where="post", color=_ORANGE, label="best so far")
    if values:
        # A few awful settings would else flatten the rest.
        low, high = sorted(values)[len(values) // 10], max(values)
        if GOALS[goal] == "maximize" and high > low:
            axes.set_ylim(low - (high - low), high + 0.1 * (high - low))
    axes.set(xlabel="trial", ylabel=goal)
    axes.legend()
    return figure


def importance(weights: dict[str, float], goal: str) -> Any:
    figure, axes = canvas()
    names = sorted(weights, key=lambda name: weights[name])
    axes.barh(names, [weights[name] for name in names], color=_BLUE)
    axes.set(xlabel=f"importance for {goal}")
    return figure


def front(study: Any, trials: Sequence[Any], goals: Sequence[str]) -> Any:
    """The first two goals."""
    figure, axes = canvas()
    best = {trial.number for trial in study.best_trials}
    for label, colour, chosen in (
        ("trial", _BLUE, [trial for trial in trials if trial.number not in best]),
        ("Pareto front", _ORANGE, [trial for trial in trials if trial.number in best]),
    ):
        points = [trial.values[:2] for trial in chosen]
        axes.scatter([p[0] for p in points], [p[1] for p in points], color=colour, label=label)
    axes.set(xlabel=goals[0], ylabel=goals[1])
    axes.legend()
    return figure


def canvas() -> tuple[Any, Any]:
    """A figure of its own: no state of the host's matplotlib is touched."""
    require("matplotlib", package="matplotlib", extra="tune", purpose="drawing a study")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    return figure, axes
