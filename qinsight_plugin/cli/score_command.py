"""`qinsight score`: pictures in, rows out."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.inputs import Input, expand
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

if TYPE_CHECKING:
    from qinsight_plugin.pipeline import Pipeline
    from qinsight_plugin.records import QualityMap, Report


@click.command("score")
@paths_argument
@format_options
@scorer_option
@click.option("--reference", metavar="FILE", help="The untouched picture that all PATHs came from.")
@click.option(
    "--maps",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Show there where each picture is bad, as NAME.map.png.",
)
@workers_option
def command(
    paths: tuple[str, ...],
    output: str | None,
    scorer: str,
    reference: str | None,
    maps: Path | None,
    workers: int | None,
) -> int:
    """Score pictures from 1 (bad) to 5 (excellent).

    PATH is a file, a folder (searched with its sub-folders), or - for one picture on standard
    input. A picture that cannot be scored is a row with its error; the others are still scored,
    and the exit code is 3.

    Maps are in the size in which pictures are scored. None is ever overwritten: a name that is
    taken gets a number.

    \b
    Examples:
      qinsight score photo.jpg
      qinsight score holiday/ --csv > scores.csv
      qinsight score holiday/ --maps maps/
      curl -s https://example.org/a.webp | qinsight score - --json
    """
    from qinsight_plugin.cli.main import EXIT_ERROR

    if maps and "-" in paths:
        raise click.UsageError("Standard input cannot be read a second time for its map.")
    pipeline = open_pipeline(scorer)
    inputs = expand(paths, skip=(maps,) if maps else ())
    rows = scored(pipeline, inputs, workers, reference)
    failed = False
    with make_writer(output) as writer:
        for item, scored_report in progress(rows, len(inputs)):
            report = add_map(pipeline, item, scored_report, maps) if maps else scored_report
            pipeline.ready(report)
            writer.write(report)
            failed = failed or report.error is not None
    return EXIT_ERROR if failed else 0


def add_map(pipeline: Pipeline, item: Input, report: Report, folder: Path) -> Report:
    """Write the map of a picture that was scored; the report tells where to.

    Raises:
        ScorerError: the scorer gave none.
        ConfigError: the folder cannot be written to.
    """
    from qinsight_plugin.errors import ImageError, ScorerError

    if report.score is None:
        return report
    if report.score.quality_map is None:
        raise ScorerError(
            f"scorer {pipeline.name} gave no quality map for {report.source}; choose another "
            "scorer or leave out --maps"
        )
    try:
        path = write_map(pipeline, item, report.score.quality_map, folder)
    except ImageError as error:  # this file only: it vanished or changed since it was scored
        return pipeline.failure(report.source, error)
    blocks = {**report.blocks, "map": {"written_to": str(path)}}
    return dataclasses.replace(report, blocks=blocks)


def write_map(pipeline: Pipeline, item: Input, quality_map: QualityMap, folder: Path) -> Path:
    """Draw the map over the picture; sub-folders of a folder that was asked for are kept."""
    from PIL import Image

    from qinsight_plugin.overlay import overlay
    from qinsight_plugin.sorting import move_into

    scale = pipeline.scorer.spec.range
    low, high = scale if pipeline.scorer.spec.higher_is_better else reversed(scale)
    shown = overlay(pipeline.decode(item.source).pixels, quality_map, low, high)
    with tempfile.TemporaryDirectory(prefix="qinsight-") as temporary:
        picture = Path(temporary, f"{Path(item.path).stem}.map.png")
        Image.fromarray(shown).save(picture)
        between = Path(item.path).parent.relative_to(item.root) if item.root else ""
        return move_into(picture, folder / between)
