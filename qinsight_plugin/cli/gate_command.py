"""`qinsight gate`: pictures in, verdicts out, files sorted by them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.inputs import Input, expand
from qinsight_plugin.cli.options import (
    format_options,
    make_writer,
    paths_argument,
    progress,
    scored,
    scorer_option,
    workers_option,
)

if TYPE_CHECKING:
    from qinsight_plugin.records import Gate, Report, Verdict

folder = click.Path(file_okay=False, path_type=Path)


@click.command("gate")
@paths_argument
@click.option("--policy", type=click.Path(dir_okay=False), help="A TOML file with the rules.")
@click.option("--min-score", type=float, metavar="X", help="The only rule: a score of X or more.")
@click.option("--shadow", is_flag=True, help="Accept all, and say what would be rejected.")
@click.option("--reference", metavar="FILE", help="The untouched picture, for max_drop.")
@click.option("--move-rejected", type=folder, metavar="DIR", help="Move what is rejected there.")
@click.option("--copy-accepted", type=folder, metavar="DIR", help="Copy what is accepted there.")
@format_options
@scorer_option
@workers_option
def command(
    paths: tuple[str, ...],
    policy: str | None,
    min_score: float | None,
    shadow: bool,
    reference: str | None,
    move_rejected: Path | None,
    copy_accepted: Path | None,
    output: str | None,
    scorer: str,
    workers: int | None,
) -> int:
    """Accept or reject pictures by rules.

    The exit code is 1 when any is rejected. A picture that cannot be scored is rejected, unless the
    policy says unscorable = "accept". Files are never overwritten: a name that is taken gets a
    number.

    \b
    Examples:
      qinsight gate upload.jpg --min-score 3.2 && publish upload.jpg
      qinsight gate renders/ --policy policy.toml --move-rejected rejected/

    \b
    A policy:
      min_score = 3.2
      min_width = 640
      unscorable = "reject"
    """
    from qinsight_plugin.cli.main import EXIT_ERROR, EXIT_REJECTED
    from qinsight_plugin.pipeline import Pipeline

    if (policy is None) == (min_score is None):
        raise click.UsageError("Give either --policy FILE or --min-score X.")
    if "-" in paths and (move_rejected or copy_accepted):
        raise click.UsageError("Standard input is not a file that can be moved or copied.")
    gate = make_gate(policy, min_score)
    if shadow:
        gate = dataclasses.replace(gate, shadow=True)
    pipeline = Pipeline(scorer)
    pipeline.require_judgeable()
    inputs = expand(paths, skip=tuple(filter(None, (move_rejected, copy_accepted))))
    rows = scored(pipeline, inputs, workers, reference)
    rejected = unsorted = False
    with make_writer(output) as writer:
        for item, scored_report in progress(rows, len(inputs)):
            verdict = pipeline.judge(scored_report, gate)
            report = sort_file(item, scored_report, verdict, move_rejected, copy_accepted)
            pipeline.ready(report, verdict)
            writer.write(report, verdict)
            rejected = rejected or not verdict.accepted
            if problem := report.blocks.get("sorting", {}).get("error"):
                click.echo(f"Not sorted: {problem}", err=True)
                unsorted = True
    if unsorted:
        return EXIT_ERROR
    return EXIT_REJECTED if rejected else 0


def make_gate(policy: str | None, min_score: float | None) -> Gate:
    from qinsight_plugin.gate import check_gate, load_policy
    from qinsight_plugin.records import Gate

    return load_policy(policy) if policy is not None else check_gate(Gate(min_score=min_score))


def sort_file(
    item: Input,
    report: Report,
    verdict: Verdict,
    move_rejected: Path | None,
    copy_accepted: Path | None,
) -> Report:
    """Move or copy the file as its verdict asks; the report tells where to."""
    from qinsight_plugin.errors import ImageError
    from qinsight_plugin.sorting import copy_into, move_into

    if item.error is not None or report.error_type in (
        "ImageNotFoundError",
        "ImageUnreadableError",
    ):
        return report  # there is no file to sort
    try:
        if verdict.accepted and copy_accepted:
            outcome = {"copied_to": str(copy_into(item.path, copy_accepted, item.root))}
        elif not verdict.accepted and move_rejected:
            outcome = {"moved_to": str(move_into(item.path, move_rejected, item.root))}
        else:
            return report
    except ImageError as error:  # this file only: it vanished, or may not be removed
        outcome = {"error": str(error)}
    return dataclasses.replace(report, blocks={**report.blocks, "sorting": outcome})
