"""`qinsight score`: pictures in, rows out."""

from __future__ import annotations

import click

from qinsight_plugin.cli.inputs import expand
from qinsight_plugin.cli.options import (
    format_options,
    make_writer,
    open_pipeline,
    paths_argument,
    progress,
    scored,
    scorer_option,
    workers_option,
)


@click.command("score")
@paths_argument
@format_options
@scorer_option
@click.option("--reference", metavar="FILE", help="The untouched picture that all PATHs came from.")
@workers_option
def command(
    paths: tuple[str, ...],
    output: str | None,
    scorer: str,
    reference: str | None,
    workers: int | None,
) -> int:
    """Score pictures from 1 (bad) to 5 (excellent).

    PATH is a file, a folder (searched with its sub-folders), or - for one picture on standard
    input. A picture that cannot be scored is a row with its error; the others are still scored,
    and the exit code is 3.

    \b
    Examples:
      qinsight score photo.jpg
      qinsight score holiday/ --csv > scores.csv
      curl -s https://example.org/a.webp | qinsight score - --json
    """
    from qinsight_plugin.cli.main import EXIT_ERROR

    pipeline = open_pipeline(scorer)
    inputs = expand(paths)
    rows = scored(pipeline, inputs, workers, reference)
    failed = False
    with make_writer(output) as writer:
        for _, report in progress(rows, len(inputs)):
            pipeline.ready(report)
            writer.write(report)
            failed = failed or report.error is not None
    return EXIT_ERROR if failed else 0
