"""`qinsight eval`: how well a scorer agrees with people."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.inputs import Input
from qinsight_plugin.cli.options import (
    PLOT,
    open_pipeline,
    progress,
    scored,
    scorer_option,
    workers_option,
)
from qinsight_plugin.cli.scale import SCALE, images_option, scale_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qinsight_plugin.evaluate import CalibrationBin, Foresight, GroupedAgreement
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
@click.option("--plot", type=PLOT, help="A PNG or SVG.")
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
    bootstrap intervals, pooled and within each group; the mean rating by score; and, where the
    scorer states how sure it is, whether that means something.

    \b
    Example:
      qinsight eval labels.csv --scale 1:5 --plot agreement.png
    """
    from qinsight_plugin._imports import require
    from qinsight_plugin.cli.main import EXIT_ERROR
    from qinsight_plugin.evaluate import (
        GroupedAgreement,
        agreement_by_group,
        calibration,
        evaluate,
        foresight,
    )
    from qinsight_plugin.labels import read_labels
    from qinsight_plugin.scatter import scatter_plot

    # What is not installed is better known before thousands of pictures are scored than after.
    require("scipy", package="scipy", extra="eval", purpose="measuring agreement")
    if plot is not None:
        require("matplotlib", package="matplotlib", extra="eval", purpose="drawing a scatter plot")
    labels = read_labels(labels_csv, images=images, scale=scale)
    rated = choose(labels, split)
    inputs = [Input(str(labels.paths[i])) for i in rated]
    rows = progress(scored(open_pipeline(scorer), inputs, workers), len(inputs))
    reports = dict(zip(rated, (report for _, report in rows), strict=True))
    failures = [report for report in reports.values() if report.error is not None]
    for report in failures:
        click.echo(f"Not scored: {report.source}: {report.error}", err=True)

    kept = [i for i, report in reports.items() if report.error is None]
    scores, mos = [reports[i].value for i in kept], [labels.mos[i] for i in kept]
    groups = [labels.group[i] for i in kept] if labels.group else None
    if groups is None:
        agreement = GroupedAgreement(evaluate(scores, mos), {})
    else:
        agreement = agreement_by_group(scores, mos, groups)
    stated = [report.score.uncertainty for i in kept if (report := reports[i]).score]
    known = [uncertainty for uncertainty in stated if uncertainty is not None]
    sure = foresight(scores, known, mos) if len(known) == len(kept) else None
    show(agreement, calibration(scores, mos), sure, as_json)
    if plot is not None:
        scatter_plot(scores, mos, plot, title=f"{scorer} on {Path(labels_csv).name}", groups=groups)
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


def show(
    agreement: GroupedAgreement,
    bins: Sequence[CalibrationBin],
    sure: Foresight | None,
    as_json: bool,
) -> None:
    if as_json:
        rows = dataclasses.asdict(agreement) | {
            "calibration": [dataclasses.asdict(b) for b in bins],
            "uncertainty": None if sure is None else dataclasses.asdict(sure),
        }
        click.echo(json.dumps(rows))
        return
    columns = ("SRCC", "PLCC", "KRCC", "RMSE")
    click.echo(f"{'':<10}{'n':>6}  " + "".join(f"{c:<23}" for c in columns) + "bias")
    for name, result in {"pooled": agreement.pooled, **agreement.groups}.items():
        figures = (result.srcc, result.plcc, result.krcc, result.rmse)
        cells = "".join(f"{figure!s:<23}" for figure in figures)
        click.echo(f"{name:<10}{result.n:>6}  {cells}{result.bias:+.3f}")
    click.echo("\nscored         n  mean score  mean MOS")
    for row in bins:
        where = f"{row.low:.1f} to {row.high:.1f}"
        click.echo(f"{where:<10}{row.n:>6}  {row.score:>10.2f}  {row.mos:>8.2f}")
    if sure is not None:
        click.echo(f"\nuncertainty against absolute error: SRCC {sure.srcc}")
        click.echo(f"ratings inside the 90 % interval: {sure.coverage}")
