"""`qinsight report`: a table of `qinsight batch` as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.options import FileToWrite

if TYPE_CHECKING:
    from qinsight_plugin.batch.summary import Summary
    from qinsight_plugin.pipeline import Pipeline


@click.command("report")
@click.argument("table", metavar="RUN.parquet")
@click.option(
    "-o",
    "--out",
    type=FileToWrite(),
    default="report.html",
    show_default=True,
)
@click.option("--against", metavar="OLD.parquet", help="An earlier run: show what has changed.")
@click.option("--title", help="[default: the table's name]")
@click.option(
    "--pictures",
    type=click.IntRange(0, 500),
    default=24,
    show_default=True,
    help="Of the worst, and of the best, to show.",
)
@click.option("--maps/--no-maps", default=True, help="Draw where each is bad; scores them again.")
def command(
    table: str, out: Path, against: str | None, title: str | None, pictures: int, maps: bool
) -> None:
    """Write one HTML file on a run: histogram, worst and best pictures with their quality maps,
    what is wrong with how many, what has changed, and filters.

    The file holds all that it shows, small copies of the pictures included, and loads nothing.

    \b
    Example:
      qinsight report march.parquet --against february.parquet -o march.html
    """
    from qinsight_plugin.batch.drift import drift
    from qinsight_plugin.batch.summary import summarise
    from qinsight_plugin.batch.table import open_table
    from qinsight_plugin.report.page import page
    from qinsight_plugin.sorting import write_into

    dataset = open_table(table)
    summary = summarise(dataset, pictures)
    changed = None
    if against is not None:
        old = open_table(against)
        changed = drift(summary, summarise(old, 0), dataset, old)
    name = title or table.rstrip("/").rpartition("/")[2]
    data = data_of(summary, maps) | {"drift": changed}
    write_into(page(name, data).encode("utf-8", "backslashreplace"), out, overwrite=True)
    click.echo(f"Wrote {out}, {out.stat().st_size / 1e6:.1f} MB.")


def data_of(summary: Summary, maps: bool) -> dict[str, Any]:
    """What the page draws."""
    from qinsight_plugin.batch.shown import with_pictures
    from qinsight_plugin.batch.summary import BINS

    pipelines: dict[str, Pipeline] = {}

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        return with_pictures(row, pipeline_of(row["scorer"], pipelines) if maps else None)

    return {
        "about": "; ".join(f"scored by {name} {version}" for name, version in summary.scorers),
        "figures": figures(summary),
        "low": summary.low,
        "high": summary.high,
        "bins": BINS,
        "cells": [[*cell, count] for cell, count in summary.cells.items()],
        "errors": [[kind, n, summary.examples[kind]] for kind, n in summary.errors.items()],
        "worst": [shown(row) for row in summary.worst],
        "best": [shown(row) for row in summary.best],
        "of_each": [shown(row) for row in summary.of_each],
    }


def pipeline_of(scorer: str, pipelines: dict[str, Pipeline]) -> Pipeline:
    from qinsight_plugin.pipeline import Pipeline

    if scorer not in pipelines:
        pipelines[scorer] = Pipeline(scorer)
    return pipelines[scorer]


def figures(summary: Summary) -> list[tuple[str, str]]:
    """Numbers to begin with, and what they are."""
    import numpy as np

    told = [(f"{summary.rows:,}", "pictures")]
    if summary.scores.size:
        low, middle, high = np.quantile(summary.scores, [0.05, 0.5, 0.95])
        told += [
            (f"{summary.scores.mean():.2f}", "mean score"),
            (f"{middle:.2f}", "median"),
            (f"{low:.1f} to {high:.1f}", "nine in ten lie there"),
        ]
    if summary.judged:
        told.append((f"{summary.rejected / summary.judged:.1%}", "rejected"))
    told.append((f"{sum(summary.errors.values()):,}", "not scored"))
    return told
