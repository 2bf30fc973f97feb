"""`qinsight bench`: what a score costs on this machine."""

from __future__ import annotations

import dataclasses
import json

import click

from qinsight_plugin.cli.options import scorer_option


@click.command("bench")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Time spent on each size.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
@scorer_option
def command(seconds: float, as_json: bool, scorer: str) -> None:
    """Time decoding and scoring at 0.3, 1 and 12 megapixels.

    JPEG files at quality 90, made up on the spot, one at a time. Decoding shrinks as scoring does:
    `full` is the same file decoded to all its pixels, for comparison.
    """
    from qinsight_plugin.bench import measure

    timings = measure(scorer, seconds)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(timing) for timing in timings]))
        return
    click.echo("Medians in milliseconds, one picture at a time")
    click.echo("    MP  full decode  decode  score  file to score  images/s  n")
    for t in timings:
        click.echo(
            f"{t.megapixels:6.1f}  {t.full_decode_ms:11.1f}  {t.decode_ms:6.1f}  {t.score_ms:5.1f}"
            f"  {t.total_ms:13.1f}  {1000 / t.total_ms:8.1f}  {t.n}"
        )
