"""The picture of how evenly each way to choose a quality treats pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qinsight_plugin._imports import require
from qinsight_plugin.compression.comparison import Choice
from qinsight_plugin.errors import ConfigError

_COLOURS = {True: "#0072B2", False: "#E69F00"}  # Okabe and Ito


def draw(choices: Sequence[Choice], path: Path) -> None:
    """A dot a picture: its SSIMULACRA2, by way of choosing; the mean size under each column.

    Raises:
        ConfigError: it cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", package="matplotlib", extra="eval", purpose="the plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    del matplotlib
    formats = list(dict.fromkeys(choice.format for choice in choices))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(formats), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, formats, strict=True):
        own = [choice for choice in choices if choice.format == name]
        ways = list(dict.fromkeys(choice.way for choice in own))
        rng = np.random.default_rng(0)
        labels = []
        for column, way in enumerate(ways):
            values = [choice.value for choice in own if choice.way == way]
            sizes = [choice.size for choice in own if choice.way == way]
            spread = column + rng.uniform(-0.18, 0.18, len(values))
            colour = _COLOURS[way.startswith("ours")]
            axis.scatter(spread, values, s=14, color=colour, alpha=0.8, linewidths=0)
            label = "ours" if way.startswith("ours") else way
            labels.append(f"{label}\n{np.exp(np.mean(np.log(sizes))) / 1000:.1f} kB")
        axis.set_xticks(range(len(ways)), labels, fontsize=8)
        axis.set_title(name)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    axes[0].set_ylabel("SSIMULACRA2, a dot a picture")
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise ConfigError(f"plot {path}: cannot be written ({error})") from error
