"""`qinsight eval-compress`: the search, measured; and the prior curves, learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.inputs import expand
from qinsight_plugin.cli.options import PLOT, FileToWrite, numbers, paths_argument, progress

if TYPE_CHECKING:
    from qinsight_plugin.compression.comparison import Choice
    from qinsight_plugin.compression.priors import Priors
    from qinsight_plugin.compression.study import Subject
    from qinsight_plugin.search.probes import ProbeCache

file = click.Path(dir_okay=False, path_type=Path)


@click.command("eval-compress")
@paths_argument
@click.option("--formats", default="jpeg,webp,avif,jxl,heic", show_default=True, metavar="LIST")
@click.option("--floors", default="50,70", show_default=True, metavar="LIST", help="To search.")
@click.option(
    "--brute", type=click.IntRange(min=0), default=0, help="Try every setting on so many pictures."
)
@click.option(
    "--step", type=click.IntRange(min=1), default=2, show_default=True, help="Between settings."
)
@click.option("--compare", default="jpeg,webp,avif", show_default=True, metavar="LIST")
@click.option("--cache", type=file, metavar="FILE", help="Remember probes there, across runs.")
@click.option(
    "--learn",
    type=FileToWrite(),
    metavar="FILE",
    help="Learn prior curves instead; of other encoders, those in FILE stay.",
)
@click.option("--corpus", default="", help="With --learn: what the pictures are, in words.")
@click.option("--priors", type=file, metavar="FILE", help="Other curves than the shipped ones.")
@click.option(
    "--json", "results", type=FileToWrite(), metavar="FILE", help="Write all numbers there."
)
@click.option("--plot", type=PLOT, metavar="FILE", help="Draw what was chosen, as .png or .svg.")
def command(
    paths: tuple[str, ...],
    formats: str,
    floors: str,
    brute: int,
    step: int,
    compare: str,
    cache: Path | None,
    learn: Path | None,
    corpus: str,
    priors: Path | None,
    results: Path | None,
    plot: Path | None,
) -> int:
    """Count the probes of the search and compare its files with what people pick.

    PATHs are pristine photographs, other ones than the prior curves were learnt from. Every method
    gets the same pictures, encoders and floors of SSIMULACRA2, and the same measurements.

    \b
    Examples:
      qinsight eval-compress kodak/ --brute 4
      qinsight eval-compress CID22-512/training/ --learn priors.json --corpus "CID22-512, training"
    """
    from qinsight_plugin._imports import require
    from qinsight_plugin.compression.priors import SHIPPED, load_priors
    from qinsight_plugin.compression.study import learn as learn_priors
    from qinsight_plugin.search.probes import ProbeCache

    if plot is not None:
        require("matplotlib", package="matplotlib", extra="eval", purpose="drawing what was chosen")
    least = numbers(floors, "--floors")
    files = [Path(item.path) for item in expand(paths) if item.error is None]
    names = [name.strip() for name in formats.split(",")]
    memory = ProbeCache(cache)
    if learn is not None:
        learnt = learn_priors(files, names, memory, corpus)
        if learn.exists():
            learnt.curves = {**load_priors(learn).curves, **learnt.curves}
        learnt.save(learn)
        return 0
    known = load_priors(priors or SHIPPED)
    lines = race(files, names, least, memory, known, brute=brute, step=step)
    click.echo(table(lines))
    rows, chosen = against(files, [name.strip() for name in compare.split(",")], memory, known)
    click.echo()
    click.echo(table(rows))
    if results is not None:
        results.write_text(json.dumps({"probes": lines, "against": rows}, indent=1) + "\n")
    if plot is not None:
        from qinsight_plugin.compression.choices_plot import draw

        draw(chosen, plot)
    return 0


def race(
    files: Sequence[Path],
    formats: Sequence[str],
    floors: Sequence[float],
    memory: ProbeCache,
    priors: Priors,
    *,
    brute: int,
    step: int,
) -> list[dict[str, object]]:
    from qinsight_plugin.compression.study import Run, race_rows, races, subjects

    runs: list[Run] = []
    every = subjects(files, formats, memory)
    for number, (path, row) in enumerate(progress(every, len(files), "Searching")):
        for subject in row:
            runs += races(subject, path.name, floors, priors, brute=number < brute, step=step)
    return race_rows(runs)


def against(
    files: Sequence[Path], formats: Sequence[str], memory: ProbeCache, priors: Priors
) -> tuple[list[dict[str, object]], list[Choice]]:
    from qinsight_plugin.compression.comparison import as_rows, comparisons
    from qinsight_plugin.compression.study import subjects

    rows: list[tuple[str, Sequence[Subject]]] = [
        (path.name, row)
        for path, row in progress(subjects(files, formats, memory), len(files), "Comparing")
    ]
    found, chosen = comparisons(rows, priors)
    return as_rows(found), chosen


def table(lines: Sequence[Mapping[str, object]]) -> str:
    """Markdown."""
    if not lines:
        return "nothing was measured"
    head = list(lines[0])
    rows = [[shown(line[name]) for name in head] for line in lines]
    text = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in text)


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(shown(part) for part in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
