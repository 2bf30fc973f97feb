"""The scatter plot of scores against ratings."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.evaluate import (
    LEAST,
    Agreement,
    Vector,
    evaluate,
    group_members,
    paired,
    rank_correlation,
)

_PALETTE = (  # Okabe and Ito: told apart with any kind of colour vision
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#F0E442",
    "#000000",
)


def scatter_plot(
    scores: npt.ArrayLike,
    mos: npt.ArrayLike,
    path: str | os.PathLike[str],
    *,
    title: str,
    groups: Sequence[str] | None = None,
) -> None:
    """Draw ratings over scores, 1000 pixels wide, with the line on which both are equal.

    Both axes run from 1 to 5, and further where a point lies outside. Points are drawn in a fixed
    random order, so that no group hides another.

    Args:
        scores, mos: as for `evaluate`.
        path: where to write it: .png or .svg.
        title: its first line; n, SRCC and PLCC with their intervals follow under it.
        groups: [n], the name of each picture's group: at most 8 different ones.

    Raises:
        ConfigError: `path` is not .png or .svg or cannot be written, or there are too many groups.
        LabelsError, ScoreRangeError, MissingExtraError: as for `evaluate`.
    """
    target = Path(path)
    if target.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"plot {target}: not a known kind of picture: name it .png or .svg")
    x, y = paired(scores, mos)
    members = {} if groups is None else group_members(groups, x.size)
    if len(members) > len(_PALETTE):
        raise ConfigError(
            f"plot {target}: {len(members)} groups, of which {len(_PALETTE)} can be told apart: "
            "merge some, or draw without groups"
        )
    figure = _draw(x, y, title, members)
    try:
        figure.savefig(target, dpi=100)
    except OSError as error:
        raise ConfigError(f"plot {target}: cannot be written ({error.strerror})") from error


def _draw(x: Vector, y: Vector, title: str, members: Mapping[str, npt.NDArray[np.intp]]) -> Any:
    """The finished matplotlib Figure; object interface only, so no state of the host is touched."""
    agreement = evaluate(x, y)
    figure = _matplotlib("matplotlib.figure").Figure(figsize=(10, 10.6), layout="constrained")
    _matplotlib("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    axes = figure.add_subplot()
    low, high = min(1, x.min(), y.min()), max(5, x.max(), y.max())
    margin = 0.02 * (high - low)
    limits = (low - margin, high + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.axline((low, low), slope=1, color="0.45", linewidth=1, linestyle="--", zorder=1)
    colours = np.full(x.size, _PALETTE[0])
    for rows, colour in zip(members.values(), _PALETTE, strict=False):
        colours[rows] = colour
    order = np.random.default_rng(0).permutation(x.size)
    opacity = float(np.clip(600 / x.size, 0.5, 0.85))
    axes.scatter(x[order], y[order], s=22, c=colours[order], alpha=opacity, linewidths=0, zorder=2)
    _caption(axes, title, agreement)
    if members:
        labels = [_group_label(name, x[rows], y[rows]) for name, rows in members.items()]
        _legend(figure, axes, labels)
    return figure


def _caption(axes: Any, title: str, agreement: Agreement) -> None:
    axes.set_title(textwrap.fill(title, 64), fontsize=20, pad=34, parse_math=False)
    axes.text(
        0.5,
        1.015,
        f"n {agreement.n:,}    SRCC {agreement.srcc}    PLCC {agreement.plcc}    "
        f"({100 * agreement.confidence:g} % intervals)",
        transform=axes.transAxes,
        horizontalalignment="center",
        fontsize=14,
    )
    axes.set_xlabel("Score", fontsize=16)
    axes.set_ylabel("MOS (people)", fontsize=16)
    axes.tick_params(labelsize=14)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)


def _legend(figure: Any, axes: Any, labels: Sequence[str]) -> None:
    """Under the axes, where it hides no point."""
    marks = [axes.scatter([], [], s=60, color=colour) for colour in _PALETTE[: len(labels)]]
    legend = figure.legend(
        marks,
        labels,
        loc="outside lower center",
        ncols=max(1, min(len(labels), 90 // max(map(len, labels)))),
        fontsize=14,
        handletextpad=0.2,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _group_label(name: str, x: Vector, y: Vector) -> str:
    """The SRCC within the group, where there is one: the pooled one flatters."""
    label = f"{name}: n {x.size:,}"
    if x.size < LEAST or np.ptp(y) == 0:
        return label
    return f"{label}, SRCC {rank_correlation(x, y):.3f}"


def _matplotlib(module: str) -> ModuleType:
    return require(module, package="matplotlib", extra="eval", purpose="drawing a scatter plot")
