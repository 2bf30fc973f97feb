"""`qinsight eval`: how well a scorer agrees with people."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.inputs import Input
from qinsight_plugin.cli.options import progress, scored, scorer_option, workers_option
from qinsight_plugin.cli.scale import SCALE, images_option, scale_option

if TYPE_CHECKING:
    from qinsight_plugin.evaluate import Agreement
    from qinsight_plugin.labels import Labels


@click.command("eval")
@click.argument("labels_csv", metavar="LABELS.CSV")
@images_option
@scale_option
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Only these rows; of `test`, only those without a near-duplicate in train or val.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="A PNG or SVG.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@scorer_option
@workers_option
def command(
    labels_csv: str,
    images: str | None,
    scale: SCALE | None,
    split: str | None,
    plot: Path | None,
    as_json: bool,
    scorer: str,
    workers: int | None,
) -> int:
    """Measure a scorer against human ratings.

    LABELS.CSV has a column `path` (or filename) and a column `mos`, and may have `split`, `group`
    and `dup_group` (near-duplicates share a value). Prints SRCC, PLCC, KRCC and RMSE with 95 %
    bootstrap intervals, pooled and within each group.

    \b
    Example:
      qinsight eval labels.csv --scale 1:5 --plot agreement.png
    """
    from qinsight_plugin._imports import require
    from qinsight_plugin.cli.main import EXIT_ERROR
    from qinsight_plugin.evaluate import agreement_by_group, evaluate
    from qinsight_plugin.labels import read_labels
    from qinsight_plugin.pipeline import Pipeline
    from qinsight_plugin.scatter import scatter_plot

    # What is not installed is better known before thousands of pictures are scored than after.
    require("scipy", package="scipy", extra="eval", purpose="measuring agreement")
    if plot is not None:
        require("matplotlib", package="matplotlib", extra="eval", purpose="drawing a scatter plot")
    labels = read_labels(labels_csv, images=images, scale=scale)
    chosen = choose(labels, split)
    pipeline = Pipeline(scorer)
    inputs = [Input(str(labels.paths[i])) for i in chosen]
    scores, mos, groups, failures = [], [], [], []
    with progress(scored(pipeline, inputs, workers), len(inputs)) as rows:
        for index, (_, report) in zip(chosen, rows, strict=True):
            if report.score is None:
                failures.append(report)
                continue
            scores.append(report.score.value)
            mos.append(labels.mos[index])
            groups.append(labels.group[index] if labels.group else "")
    names = groups if labels.group else None
    results = {"pooled": evaluate(scores, mos)}
    if names:
        results |= agreement_by_group(scores, mos, names).groups
    if as_json:
        click.echo(json.dumps({name: dataclasses.asdict(r) for name, r in results.items()}))
    else:
        print_table(results)
    if plot is not None:
        scatter_plot(scores, mos, plot, title=f"{scorer} on {Path(labels_csv).name}", groups=names)
    for report in failures:
        click.echo(f"Not scored: {report.source}: {report.error}", err=True)
    return EXIT_ERROR if failures else 0


def choose(labels: Labels, split: str | None) -> list[int]:
    """Indices of the rows to measure on."""
    from qinsight_plugin.errors import LabelsError
    from qinsight_plugin.labels import held_out

    if split is None:
        return list(range(len(labels.paths)))
    if split == "test":
        return list(held_out(labels))
    chosen = [i for i, own in enumerate(labels.split or ()) if own == split]
    if not chosen:
        raise LabelsError(f"no row is in split {split!r}; leave --split out to take all rows")
    return chosen


def print_table(results: dict[str, Agreement]) -> None:
    columns = ("SRCC", "PLCC", "KRCC", "RMSE")
    click.echo(f"{'':<10}{'n':>6}  " + "".join(f"{c:<23}" for c in columns) + "bias")
    for name, result in results.items():
        figures = (result.srcc, result.plcc, result.krcc, result.rmse)
        cells = "".join(f"{figure!s:<23}" for figure in figures)
        click.echo(f"{name:<10}{result.n:>6}  {cells}{result.bias:+.3f}")
