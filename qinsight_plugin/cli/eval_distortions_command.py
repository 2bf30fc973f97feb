"""`qinsight eval-distortions`: how well a scorer names what is wrong, and how steadily it falls."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.inputs import Input, expand
from qinsight_plugin.cli.options import open_pipeline, progress, scorer_option, workers_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qinsight_plugin.errors import QInsightError
    from qinsight_plugin.evaluate_distortions import Inversions, Naming, Outcome, Result


@click.command("eval-distortions")
@click.argument("folder", metavar="PRISTINE_FOLDER")
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=60,
    show_default=True,
    help="Pictures at most, spread evenly over the folder.",
)
@click.option(
    "--side",
    type=click.IntRange(min=32),
    default=512,
    show_default=True,
    help="Of the central window, in pixels; pictures of up to 1.5 times that are taken whole.",
)
@click.option("--all", "every_variant", is_flag=True, help="Every variant of every distortion.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@scorer_option
@workers_option
def command(
    folder: str,
    limit: int,
    side: int,
    every_variant: bool,
    as_json: bool,
    scorer: str,
    workers: int | None,
) -> int:
    """Measure whether a scorer names distortions, and falls as they grow.

    PRISTINE_FOLDER holds good pictures that the scorer was not trained on. Each is degraded by
    noise, compression, blur and darkening at five levels, a variant of each drawn at random, and
    encoded at falling quality factors by JPEG, WebP and AVIF. Prints the shares of distortions
    named rightly and of scores that rise as quality falls, with 95 % bootstrap intervals.

    \b
    Example:
      qinsight eval-distortions photographs/ --limit 30
    """
    from qinsight_plugin.cli.main import EXIT_ERROR
    from qinsight_plugin.degradations import PACKAGES, library
    from qinsight_plugin.errors import QInsightError
    from qinsight_plugin.evaluate_distortions import summarise
    from qinsight_plugin.examine import examine, spaced
    from qinsight_plugin.parallel import in_order

    for package in PACKAGES:  # what is missing is better known before than after minutes
        library(package)
    inputs = expand([folder])
    chosen = [inputs[i] for i in spaced(len(inputs), limit)]
    pipeline = open_pipeline(scorer)

    def work(numbered: tuple[int, Input]) -> Outcome | QInsightError:
        seed, item = numbered
        try:
            if item.error is not None:
                raise item.error
            return examine(pipeline, item.path, seed=seed, side=side, every_variant=every_variant)
        except QInsightError as error:
            return error

    outcomes: list[Outcome] = []
    for item, outcome in zip(
        chosen, progress(in_order(work, enumerate(chosen), workers), len(chosen)), strict=True
    ):
        if isinstance(outcome, QInsightError):
            click.echo(f"Not measured: {item.path}: {outcome}", err=True)
        else:
            outcomes.append(outcome)
    result = summarise(outcomes)
    show(result, as_json)
    return EXIT_ERROR if len(outcomes) < len(chosen) else 0


def show(result: Result, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    click.echo(f"{result.pictures} pictures, 95 % bootstrap intervals over them\n")
    if result.naming is None:
        click.echo("The scorer does not look for distortions.")
    else:
        show_naming(result.naming)
    show_inversions(result.inversions)


def show_naming(naming: Naming) -> None:
    from qinsight_plugin.evaluate_distortions import CLASSES

    click.echo(f"Named rightly            {naming.accuracy}, mean of the five classes")
    near = naming.near or "none"
    click.echo(f"Severity within a level  {near} of those named rightly")
    click.echo(f"                         {naming.near_of_all} of all distorted\n")
    click.echo(f"{'class':<23}{'named rightly':<22}" + "".join(f"{c:>12}" for c in CLASSES))
    for (name, share), row in zip(naming.by_class.items(), naming.confusion, strict=True):
        click.echo(f"{name:<23}{share!s:<22}" + "".join(f"{count:>12}" for count in row))
    for level, share in naming.by_level.items():
        click.echo(f"{f'level {level}':<23}{share}")
    for variant, share in naming.by_variant.items():
        click.echo(f"{variant:<23}{share}")


def show_inversions(inversions: Mapping[str, Inversions]) -> None:
    from qinsight_plugin.evaluate_distortions import QUALITY_FACTORS, RISE

    factors = ", ".join(map(str, QUALITY_FACTORS))
    click.echo(f"\nScores that rise as quality falls: {factors}")
    click.echo(f"codec  steps  {f'by over {RISE:g}':<22}at all")
    for codec, row in inversions.items():
        click.echo(f"{codec:<5}{row.steps:>7}  {row.share!s:<22}{row.any_rise}")
