"""The plot of a calibration: both kinds of pictures over their scores, and the curve."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.calibrate import Calibration
from qinsight_plugin.errors import ConfigError

_ACCEPTED, _REJECTED, _CHOSEN = "#0072B2", "#D55E00", "#000000"  # Okabe and Ito


def calibration_plot(
    result: Calibration,
    accepted: npt.ArrayLike,
    rejected: npt.ArrayLike,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw it, 1200 pixels wide.

    Raises:
        ConfigError: `path` is not .png or .svg, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"plot {path}: not a known kind of picture: name it .png or .svg")
    figure = _matplotlib("matplotlib.figure").Figure(figsize=(12, 5), layout="constrained")
    _matplotlib("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, parse_math=False)
    left, right = figure.subplots(1, 2)
    _draw_scores(left, result, np.asarray(accepted), np.asarray(rejected))
    _draw_curve(right, result)
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise ConfigError(f"plot {path}: cannot be written ({error.strerror})") from error


def _draw_scores(
    axes: Any, result: Calibration, accepted: npt.NDArray[Any], rejected: npt.NDArray[Any]
) -> None:
    both = np.concatenate([accepted, rejected])
    bins = np.linspace(both.min(), both.max(), 31)
    for scores, colour, kind in (
        (rejected, _REJECTED, "rejected"),
        (accepted, _ACCEPTED, "accepted"),
    ):
        shares = np.full(scores.size, 100 / scores.size)
        label = f"{kind} by the site, n {scores.size:,}"
        axes.hist(scores, bins, weights=shares, color=colour, alpha=0.55, label=label)
    axes.axvline(result.min_score, color=_CHOSEN, label=f"min_score = {result.min_score:g}")
    axes.set(xlabel="Score", ylabel="% of the pictures of its kind")
    axes.legend(framealpha=0.9)


def _draw_curve(axes: Any, result: Calibration) -> None:
    curve, most = result.curve, result.aims.most_wrong_rejections
    axes.plot(100 * curve.wrong_rejections, 100 * (1 - curve.wrong_acceptances), color=_ACCEPTED)
    wrong, missed = result.wrong_rejections, result.wrong_acceptances
    axes.errorbar(
        100 * wrong.value,
        100 * (1 - missed.value),
        xerr=[[100 * (wrong.value - wrong.low)], [100 * (wrong.high - wrong.value)]],
        yerr=[[100 * (missed.high - missed.value)], [100 * (missed.value - missed.low)]],
        color=_CHOSEN,
        fmt="o",
        capsize=4,
        label=f"expected, {100 * result.aims.confidence:g} % intervals",
    )
    if most < 1:
        axes.axvline(100 * most, color="0.6", linestyle="--", label="bound on wrong rejections")
    axes.set(
        xlabel="wrong rejections, % of what ought to be accepted",
        ylabel="% rejected of what ought to be",
        title=f"AUC {result.auc}",
        xlim=(-1, 101),
        ylim=(-1, 101),
    )
    axes.legend(frameon=False, loc="lower right")


def _matplotlib(module: str) -> ModuleType:
    return require(module, package="matplotlib", extra="eval", purpose="drawing a calibration")
