"""`qinsight ladder`: a clip and bandwidths in, the best rendition for each out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.options import PLOT, FileToWrite, numbers

if TYPE_CHECKING:
    from qinsight_plugin.video.ladder import Ladder


@click.command("ladder")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option(
    "--bandwidths",
    default="300,700,1500,3000,6000",
    show_default=True,
    metavar="LIST",
    help="In kilobits a second.",
)
@click.option("--codec", default="x264", show_default=True, metavar="NAME")
@click.option("--heights", default="1080,720,540,360,240", show_default=True, metavar="LIST")
@click.option(
    "--scorer", default="ssimulacra2", show_default=True, metavar="NAME", help="Full-reference."
)
@click.option("--plot", type=PLOT, metavar="FILE", help="Draw rates and qualities, .png or .svg.")
@click.option("--hls", type=FileToWrite(), metavar="FILE", help="Write a master playlist.")
@click.option("--json", "as_json", is_flag=True, help="Everything that was measured, as JSON.")
def command(
    clip: Path,
    bandwidths: str,
    codec: str,
    heights: str,
    scorer: str,
    plot: Path | None,
    hls: Path | None,
    as_json: bool,
) -> int:
    """Find the height and CRF that look best at each bandwidth.

    Samples of the clip are encoded at several heights and CRFs, and compared with the source at its
    full size.

    \b
    Examples:
      qinsight ladder clip.mp4 --plot ladder.png --hls master.m3u8
      qinsight ladder clip.mp4 --codec svt-av1 --bandwidths 500,1000,2000
    """
    from qinsight_plugin._imports import require
    from qinsight_plugin.video.ladder import make_ladder, playlist

    if plot is not None:
        require("matplotlib", package="matplotlib", extra="video", purpose="drawing a ladder")
    made = make_ladder(
        clip,
        numbers(bandwidths, "--bandwidths"),
        codec=codec,
        heights=[round(height) for height in numbers(heights, "--heights")],
        scorer=scorer,
    )
    click.echo(document(made) if as_json else table(made))
    if hls is not None:
        from qinsight_plugin.sorting import write_into

        try:
            write_into(playlist(made).encode(), hls)
        except FileExistsError:
            raise click.UsageError(f"{hls} is there already: choose another name.") from None
    if plot is not None:
        from qinsight_plugin.video.ladder_plot import draw

        draw(made, plot)
    return 0


def table(ladder: Ladder) -> str:
    """A row a bandwidth."""
    lines = ["bandwidth  resolution   CRF   kbit/s  quality"]
    for rung in ladder.rungs:
        best = rung.rendition
        if best is None:
            lines.append(f"{rung.bandwidth:>9g}  nothing fits")
            continue
        size = f"{best.width}x{best.height}"
        lines.append(
            f"{rung.bandwidth:>9g}  {size:<10} {best.quality_factor:>5} {best.kbps:>8.0f}"
            f"  {best.quality:>7.2f}"
        )
    return "\n".join(lines)


def document(ladder: Ladder) -> str:
    return json.dumps(
        {
            "clip": str(ladder.clip.path),
            "codec": ladder.codec,
            "scorer": ladder.scorer,
            "points": [dataclasses.asdict(point) for point in ladder.points],
            "hull": [dataclasses.asdict(point) for point in ladder.hull],
            "rungs": [dataclasses.asdict(rung) for rung in ladder.rungs],
        },
        indent=1,
    )
