"""`qinsight check`: what spoils a training, seen before it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.inputs import Input
from qinsight_plugin.cli.options import (
    FileToWrite,
    open_pipeline,
    progress,
    scored,
    scorer_option,
)
from qinsight_plugin.cli.scale import SCALE, images_option, scale_option

if TYPE_CHECKING:
    from qinsight_plugin.feedback.checks import Checks
    from qinsight_plugin.labels import Labels
    from qinsight_plugin.records import Score

LOOKED_AT = 2000
"""Pictures of --folder, drawn at random where it has more."""


@click.command("check")
@click.argument("labels_csv", metavar="LABELS.CSV")
@images_option
@scale_option
@click.option(
    "--out",
    type=FileToWrite(),
    default="checks.html",
    show_default=True,
    help="A page with pictures.",
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="All pictures that the student is to be good at: which kinds of them have no label?",
)
@click.option(
    "--answers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of qinsight label: on which team of raters is the scorer biased?",
)
@click.option(
    "--groups",
    type=FileToWrite(),
    help="Write the labels here, with near-duplicates in the column dup_group.",
)
@scorer_option
def command(
    labels_csv: str,
    images: str | None,
    scale: SCALE | None,
    out: Path,
    folder: Path | None,
    answers: Path | None,
    groups: Path | None,
    scorer: str,
) -> None:
    """Look at labels before training on them.

    Near-duplicates across splits; stretches of the scale, kinds of picture and distortions that are
    hardly covered; pictures on which people disagree; and groups, contents or teams of raters on
    which the scorer is biased. Writes a page with pictures, and says the findings.

    \b
    Example:
      qinsight check labels.csv --scale 1:5 --folder photos/ --out checks.html
    """
    from qinsight_plugin._imports import require
    from qinsight_plugin.feedback.checks import check, look
    from qinsight_plugin.feedback.checks_page import findings, write_page
    from qinsight_plugin.feedback.pool import pictures_of
    from qinsight_plugin.labels import read_labels
    from qinsight_plugin.sorting import write_into

    require("scipy", package="scipy", extra="label", purpose="qinsight check")
    labels = read_labels(labels_csv, images=images, scale=scale)
    inputs = [Input(str(path)) for path in labels.paths]
    rows = progress(scored(open_pipeline(scorer), inputs, None), len(inputs))
    scores: list[Score | None] = [report.score for _, report in rows]
    others: list[Path] = []
    if folder is not None:
        names = pictures_of(folder)
        names = random.Random(0).sample(names, LOOKED_AT) if len(names) > LOOKED_AT else names
        others = readable([folder / name for name in names])
    found = check(
        labels,
        look(labels.paths),
        scores,
        folder=look(others) if others else None,
        teams=teams_of(answers, labels) if answers else None,
    )
    page = write_page(found, labels, others, Path(labels_csv).name)
    write_into(page.encode(), out, overwrite=True)
    for good, line in findings(found, labels):
        click.echo(f"{'ok   ' if good else 'check'}  {line}")
    click.echo(f"Wrote {out}")
    if groups is not None:
        write_groups(labels, found, groups)
        click.echo(f"Wrote {groups}")


def readable(paths: Sequence[Path]) -> list[Path]:
    """Those that can be looked at; the others are named."""
    from qinsight_plugin.errors import ImageError, MissingExtraError
    from qinsight_plugin.feedback.coverage import LOOKED_AT as PIXELS
    from qinsight_plugin.feedback.showing import pixels_of
    from qinsight_plugin.parallel import in_order

    def why_not(path: Path) -> str | None:
        try:
            pixels_of(path, PIXELS)
        except (ImageError, MissingExtraError) as error:
            return str(error)
        return None

    kept = []
    for path, error in zip(paths, in_order(why_not, paths), strict=True):
        if error is None:
            kept.append(path)
        else:
            click.echo(f"Not looked at: {path}: {error}", err=True)
    return kept


def teams_of(answers: Path, labels: Labels) -> dict[str, list[tuple[int, float]]]:
    from qinsight_plugin.feedback.gathering import gather

    place = {path.resolve(): k for k, path in enumerate(labels.paths)}
    teams: dict[str, list[tuple[int, float]]] = {}
    for one in gather(answers).of("rating"):
        index = place.get((answers.parent / one.pictures[0]).resolve())
        if index is not None and one.role != "golden":
            teams.setdefault(one.team or one.rater, []).append((index, float(one.value)))
    return teams


def write_groups(labels: Labels, found: Checks, target: Path) -> None:
    import csv
    import io

    from qinsight_plugin.feedback.outputs import name_from
    from qinsight_plugin.sorting import write_into

    clusters = list(labels.cluster or ("",) * len(labels.paths))
    for number, group in enumerate(found.duplicates, 1):
        name = next((clusters[k] for k in group if clusters[k]), f"alike-{number}")
        for k in group:
            clusters[k] = clusters[k] or name
    columns: dict[str, Sequence[object]] = {
        "path": [name_from(target, path) for path in labels.paths],
        "mos": [f"{value:.4f}" for value in labels.mos],
    }
    if labels.std:
        columns["std"] = [f"{value:.4f}" for value in labels.std]
    for name, column in (("split", labels.split), ("group", labels.group)):
        if column:
            columns[name] = column
    columns["dup_group"] = clusters
    text = io.StringIO(newline="")
    rows = zip(*columns.values(), strict=True)
    csv.writer(text, lineterminator="\n").writerows([list(columns), *rows])
    write_into(text.getvalue().encode(), target, overwrite=True)
