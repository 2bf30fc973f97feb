"""The picture of a ladder: quality over bit rate, a line a height, and the hull over them."""

from __future__ import annotations

from pathlib import Path

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.video.ladder import Ladder

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito


def draw(ladder: Ladder, path: Path) -> None:
    """Write it, 1000 pixels wide, as .png or .svg.

    Raises:
        ConfigError: it cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", package="matplotlib", extra="video", purpose="drawing a ladder")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    heights = sorted({point.height for point in ladder.points}, reverse=True)
    for index, height in enumerate(heights):
        own = sorted((p for p in ladder.points if p.height == height), key=lambda p: p.kbps)
        colour = _COLOURS[index % len(_COLOURS)]
        rates, qualities = [p.kbps for p in own], [p.quality for p in own]
        axes.plot(rates, qualities, "o-", color=colour, markersize=4, label=f"{height}p")
    axes.plot(
        [p.kbps for p in ladder.hull],
        [p.quality for p in ladder.hull],
        color="0.3",
        linestyle="--",
        label="convex hull",
        zorder=1,
    )
    for rung in ladder.rungs:
        axes.axvline(rung.bandwidth, color="0.85", zorder=0)
    picked = [rung.rendition for rung in ladder.rungs if rung.rendition is not None]
    axes.scatter(
        [p.kbps for p in picked],
        [p.quality for p in picked],
        s=110,
        facecolors="none",
        edgecolors="black",
        label="picked for a bandwidth",
        zorder=3,
    )
    axes.set_xscale("log")
    axes.set_xlabel("kbit/s", fontsize=14)
    axes.set_ylabel(f"{ladder.scorer}, mean over frames at full size", fontsize=14)
    axes.set_title(f"{ladder.clip.path.name}, {ladder.codec}", fontsize=16, parse_math=False)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    axes.legend(fontsize=12)
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise ConfigError(f"plot {path}: cannot be written ({error})") from error
