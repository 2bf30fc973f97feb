"""`qinsight calibrate`: examples of a site's decisions in, a policy that fits them out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.inputs import Input, expand
from qinsight_plugin.cli.options import (
    PLOT,
    FileToWrite,
    open_pipeline,
    progress,
    scored,
    scorer_option,
    workers_option,
)
from qinsight_plugin.cli.scale import SCALE, scale_option

if TYPE_CHECKING:
    from qinsight_plugin.calibrate import Calibration
    from qinsight_plugin.decisions import Decisions
    from qinsight_plugin.pipeline import Pipeline

folder = click.Path(file_okay=False, exists=True)
share = click.FloatRange(0, 1, min_open=True)


@click.command("calibrate")
@click.option("--accepted", type=folder, help="Pictures that ought to pass.")
@click.option("--rejected", type=folder, help="Pictures that ought not to.")
@click.option("--labels", metavar="CSV", help="Instead of folders: path, and label or mos.")
@click.option("--images", type=folder, help="Where the pictures of --labels lie.")
@scale_option
@click.option("--accept-from", type=float, metavar="X", help="With mos: the lowest that may pass.")
@click.option(
    "--max-wrong-rejections",
    type=share,
    default=0.05,
    show_default=True,
    help="Of what ought to pass, the share that may be rejected; 1: no bound.",
)
@click.option(
    "--costs",
    nargs=2,
    type=float,
    default=(1.0, 1.0),
    show_default=True,
    metavar="R A",
    help="Of a wrong rejection, and of a wrong acceptance.",
)
@click.option(
    "--rejected-share",
    type=share,
    help="Of your traffic, how much ought to be rejected.  [default: as in the examples]",
)
@click.option("-o", "--out", type=FileToWrite(), default="policy.toml", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace a policy that is there.")
@click.option("--plot", type=PLOT, help="A PNG or SVG.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@scorer_option
@workers_option
def command(
    accepted: str | None,
    rejected: str | None,
    labels: str | None,
    images: str | None,
    scale: SCALE | None,
    accept_from: float | None,
    max_wrong_rejections: float,
    costs: tuple[float, float],
    rejected_share: float | None,
    out: Path,
    overwrite: bool,
    plot: Path | None,
    as_json: bool,
    scorer: str,
    workers: int | None,
) -> int:
    """Find the min_score that fits what a site accepted and rejected, and write a policy.

    Of the scores that keep the bound on wrong rejections it takes the one of least expected cost.
    The policy states the rates to expect, with intervals. Try it with --shadow first.

    \b
    Examples:
      qinsight calibrate --accepted good/ --rejected bad/ --plot calibration.png
      qinsight calibrate --labels labels.csv --scale 1:5 --accept-from 3
      qinsight gate uploads/ --policy policy.toml --shadow --jsonl >> shadow.jsonl
    """
    from qinsight_plugin._imports import require
    from qinsight_plugin.calibrate import Aims, calibrate, check_aims
    from qinsight_plugin.cli.main import EXIT_ERROR

    if (labels is None) == (accepted is None) or (accepted is None) != (rejected is None):
        raise click.UsageError("Give --accepted and --rejected, or --labels.")
    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} is there already: say --overwrite, or name another -o.")
    require("scipy", package="scipy", extra="eval", purpose="calibrating a gate")
    if plot is not None:
        require("matplotlib", package="matplotlib", extra="eval", purpose="drawing a calibration")
    aims = check_aims(Aims(*costs, rejected_share, max_wrong_rejections))
    examples = read_examples(accepted, rejected, labels, images, scale, accept_from)
    pipeline = open_pipeline(scorer)
    pipeline.require_judgeable()
    good, bad, failures = score_all(pipeline, examples, workers)
    result = calibrate(good, bad, aims)
    if plot is not None:
        from qinsight_plugin.calibrate_plot import calibration_plot

        calibration_plot(
            result, good, bad, plot, title=f"{scorer} on {len(good) + len(bad)} pictures"
        )
    # Last: where the plot fails, the command can be given again as it was.
    write_policy(result, pipeline, out, overwrite)
    for warning in result.warnings:
        click.echo(f"Warning: {warning}.", err=True)
    click.echo(json.dumps(as_dict(result)) if as_json else told(result, out))
    return EXIT_ERROR if failures else 0


def read_examples(
    accepted: str | None,
    rejected: str | None,
    labels: str | None,
    images: str | None,
    scale: SCALE | None,
    accept_from: float | None,
) -> Decisions:
    from qinsight_plugin.decisions import decisions_of, read_decisions

    if labels is not None:
        return read_decisions(labels, images=images, scale=scale, accept_from=accept_from)
    good, bad = (pictures_in(name) for name in (accepted, rejected) if name is not None)
    return decisions_of(good, bad)


def pictures_in(name: str) -> list[Path]:
    inputs = expand([name])
    for item in inputs:
        if item.error is not None:
            raise item.error
    return [Path(item.path) for item in inputs]


def score_all(
    pipeline: Pipeline, examples: Decisions, workers: int | None
) -> tuple[list[float], list[float], int]:
    """Scores of what was accepted, of what was rejected, and how many pictures have none."""
    inputs = [Input(str(path)) for path in examples.paths]
    scores: dict[bool, list[float]] = {True: [], False: []}
    failures = 0
    rows = progress(scored(pipeline, inputs, workers), len(inputs))
    for accepted, (_, report) in zip(examples.accepted, rows, strict=True):
        if report.error is None:
            scores[accepted].append(report.value)
        else:
            click.echo(f"Left out: {report.source}: {report.error}", err=True)
            failures += 1
    return scores[True], scores[False], failures


def write_policy(result: Calibration, pipeline: Pipeline, out: Path, overwrite: bool) -> None:
    from qinsight_plugin.errors import ConfigError
    from qinsight_plugin.sorting import write_into

    about = [
        "Made by qinsight calibrate. What is expected holds for pictures like its examples, as",
        f"scored by {pipeline.name} {pipeline.scorer.spec.version}.",
        *summary(result),
        *(f"Warning: {warning}." for warning in result.warnings),
    ]
    text = "".join(f"# {line}\n" for line in about) + f"min_score = {result.min_score!r}\n"
    try:
        write_into(text.encode(), out, overwrite=overwrite)
    except FileExistsError as error:
        raise ConfigError(f"{out} is there already: say --overwrite") from error


def summary(result: Calibration) -> list[str]:
    aims = result.aims
    bound = f"at most {aims.most_wrong_rejections:.2%} with {aims.confidence:.0%} confidence"
    return [
        f"{result.accepted} accepted and {result.rejected} rejected examples: AUC {result.auc}",
        f"expected wrong rejections: {percent(result.wrong_rejections)}"
        + (f", {bound}" if aims.most_wrong_rejections < 1 else ""),
        f"expected wrong acceptances: {percent(result.wrong_acceptances)}",
        f"costs {aims.wrong_rejection_cost:g} and {aims.wrong_acceptance_cost:g}; "
        f"{aims.rejected_share:.1%} of the traffic ought to be rejected",
    ]


def percent(rate: Any) -> str:
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def told(result: Calibration, out: Path) -> str:
    return "\n".join([*summary(result), f"min_score = {result.min_score!r}, written to {out}"])


def as_dict(result: Calibration) -> dict[str, Any]:
    curve = {key: values.tolist() for key, values in dataclasses.asdict(result.curve).items()}
    plain = dataclasses.asdict(dataclasses.replace(result, curve=None))  # type: ignore[arg-type]
    return plain | {"curve": curve}
