"""`qinsight batch`: a library scored into a Parquet table, through any number of kills."""

from __future__ import annotations

import time
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.options import scorer_option

if TYPE_CHECKING:
    from qinsight_plugin.batch import Job, Tally

ENGINES = {"local": "qinsight_plugin.batch.local", "ray": "qinsight_plugin.integrations.ray"}
SECONDS_BETWEEN_LINES = 15


@click.command("batch")
@click.argument("source", metavar="SOURCE")
@click.option("-o", "--out", required=True, metavar="OUT.parquet", help="A folder, or its URL.")
@click.option("--policy", type=click.Path(dir_okay=False), help="Judge by these rules too.")
@click.option("--anew", is_flag=True, help="Drop the run that is in OUT.parquet; begin again.")
@click.option("--engine", type=click.Choice(sorted(ENGINES)), default="local", show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes; with --engine ray, at most.  [default: number of cores]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="A picture that takes longer is a row with an error.",
)
@click.option(
    "--rows-per-part",
    type=click.IntRange(min=1),
    help="Rows of a file, and what a kill can cost.  [default: a 64th, between 16 and 1000]",
)
@scorer_option
def command(
    source: str,
    out: str,
    policy: str | None,
    anew: bool,
    engine: str,
    workers: int | None,
    timeout: float | None,
    rows_per_part: int | None,
    scorer: str,
) -> int:
    """Score a library of any size into a table of Parquet files.

    SOURCE is a folder, a table that names pictures (.csv, .jsonl, .parquet), or the URL of either,
    such as s3://bucket/photos. It is listed once. A run that was killed goes on where it was when
    the same command is given again; every picture has one row, and one that cannot be scored is a
    row with its error. The exit code is 3 where there are such.

    \b
    Examples:
      qinsight batch photos/ -o scores.parquet
      qinsight batch s3://bucket/photos -o s3://bucket/scores.parquet --engine ray
    """
    from qinsight_plugin.batch import Settings, Worker, open_job
    from qinsight_plugin.cli.main import EXIT_ERROR
    from qinsight_plugin.gate import load_policy

    settings = Settings(scorer, None if policy is None else load_policy(policy))
    with Worker(settings) as worker:  # what does not load is better known before all else
        version = worker.scorer_version
    job = open_job(source, out, settings, version, anew=anew, rows_per_part=rows_per_part)
    done = job.parts - len(job.missing())
    if done:
        click.echo(f"{done} of {job.parts} parts are done already.", err=True)
    run = import_module(ENGINES[engine]).run
    total = summed(job, done, run(job, workers=workers, timeout=timeout))
    click.echo(f"{out}: {job.pictures} pictures in {job.parts} parts.")
    if total.rows:
        click.echo(
            f"This time {total.rows} rows, {total.errors} with an error"
            + ("." if settings.gate is None else f", {total.rejected} rejected.")
        )
    return EXIT_ERROR if total.errors else 0


def summed(job: Job, done: int, tallies: Iterable[Tally]) -> Tally:
    """All that was done; now and then a line on standard error says how far it is."""
    from qinsight_plugin.batch import Tally

    total, begin = Tally(), time.monotonic()
    said = begin
    for tally in tallies:
        total += tally
        done += 1
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            rate = total.rows / (now - begin)
            left = duration((job.parts - done) * tally.rows / rate)
            line = f"{done} of {job.parts} parts, {rate:.0f} pictures a second, {left} to go"
            click.echo(line, err=True)
            said = now
    return total


def duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
