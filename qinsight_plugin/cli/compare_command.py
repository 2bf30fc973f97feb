"""`qinsight compare`: which of two pictures is better."""

from __future__ import annotations

import json

import click

from qinsight_plugin.cli.options import scorer_option


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option(
    "--margin",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="Scores no further apart than this are called similar.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@scorer_option
def command(a: str, b: str, margin: float, as_json: bool, scorer: str) -> None:
    """Tell which of the pictures A and B is better.

    And how sure that is, where the scorer states how far off its scores may be.

    \b
    Example:
      qinsight compare before.jpg after.jpg
    """
    from qinsight_plugin.pipeline import compare
    from qinsight_plugin.report import to_dict

    result = compare(a, b, scorer=scorer, margin=margin)
    if as_json:
        row = {
            "better": result.better,
            "margin": result.margin,
            "probability": result.probability,
            "a": to_dict(result.a),
            "b": to_dict(result.b),
        }
        click.echo(json.dumps(row))
        return
    first, second = result.a.value, result.b.value
    if result.better == "similar":
        click.echo(f"similar: A {first:.2f}, B {second:.2f}, no more than {margin:g} apart")
    else:
        sure = how_sure(result.better, result.probability)
        click.echo(f"{result.better} is better: A {first:.2f}, B {second:.2f}{sure}")


def how_sure(better: str, probability: float | None) -> str:
    """` (93 % sure)`; never 100, which rounding would make of what is not certain."""
    if probability is None:
        return ""
    percent = 100 * (probability if better == "A" else 1 - probability)
    return " (over 99 % sure)" if percent >= 99.5 else f" ({percent:.0f} % sure)"
