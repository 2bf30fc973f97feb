"""`qinsight score`: pictures in, rows out."""

from __future__ import annotations

import click

from qinsight_plugin.cli.inputs import expand
from qinsight_plugin.cli.options import (
    format_options,
    make_writer,
    paths_argument,
    progress,
    scored,
    scorer_option,
    warn_of_skipped_plugins,
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
    from qinsight_plugin.pipeline import Pipeline

    pipeline = Pipeline(scorer)
    warn_of_skipped_plugins(pipeline)
    inputs = expand(paths)
    failed = False
    with (
        make_writer(output) as writer,
        progress(scored(pipeline, inputs, workers, reference), len(inputs)) as rows,
    ):
        for _, report in rows:
            pipeline.ready(report)
            writer.write(report)
            failed = failed or report.error is not None
    return EXIT_ERROR if failed else 0
