"""`qinsight compare`: which of two pictures is better."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.options import scorer_option

if TYPE_CHECKING:
    from qinsight_plugin.records import Comparison, Preference


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--reference", metavar="FILE", help="What both were made from.")
@click.option(
    "--margin",
    type=click.FloatRange(min=0),
    help="Scores no further apart than this are called similar.  [default: 0.1]",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@scorer_option
def command(
    a: str, b: str, reference: str | None, margin: float | None, as_json: bool, scorer: str
) -> None:
    """Tell which of the pictures A and B is better.

    And how sure that is, where the scorer states how far off its scores may be. The reasoning
    model is shown both at once, and tells why.

    \b
    Examples:
      qinsight compare before.jpg after.jpg
      qinsight compare a.png b.png --reference original.png --scorer reasoning
    """
    from qinsight_plugin.comparing import compare

    result = compare(a, b, scorer=scorer, margin=margin, reference=reference)
    click.echo(json.dumps(as_row(result)) if as_json else in_words(result))


def as_row(result: Comparison) -> dict[str, Any]:
    from qinsight_plugin.report import to_dict

    told = result.preference
    return {
        "better": result.better,
        "margin": result.margin,
        "probability": result.probability,
        "preference": None if told is None else dataclasses.asdict(told),
        "a": to_dict(result.a),
        "b": to_dict(result.b),
    }


def in_words(result: Comparison) -> str:
    if result.preference is not None:
        return told_why(result.preference)
    first, second = result.a.value, result.b.value
    if result.better == "similar":
        return f"similar: A {first:.2f}, B {second:.2f}, no more than {result.margin:g} apart"
    sure = how_sure(result.better, result.probability)
    return f"{result.better} is better: A {first:.2f}, B {second:.2f}{sure}"


def told_why(told: Preference) -> str:
    """What the model decided, and its reasons."""
    from qinsight_plugin.report.reasons import wrapped

    decision = "similar" if told.better == "similar" else f"{told.better} is better"
    return "\n".join(filter(None, (decision, wrapped(told.reasoning or ""))))


def how_sure(better: str, probability: float | None) -> str:
    """` (93 % sure)`; never 100, which rounding would make of what is not certain."""
    if probability is None:
        return ""
    percent = 100 * (probability if better == "A" else 1 - probability)
    return " (over 99 % sure)" if percent >= 99.5 else f" ({percent:.0f} % sure)"
