"""`qinsight plugins`: who is plugged in, who is not and why; scorers; encoders."""

from __future__ import annotations

import dataclasses
import json

import click


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
def command(as_json: bool) -> None:
    """List plugins, scorers and encoders.

    Plugins come from installed packages, through the entry-point group `qinsight`. Set
    QINSIGHT_BLOCK_PLUGINS to names, separated by commas, to leave them alone.
    """
    from qinsight_plugin.plugins import default_host

    host = default_host()
    plugins, scorers = host.plugins(), host.scorer_specs().values()
    encoders = host.encoder_specs().values()
    if as_json:
        rows = [
            {"name": s.name, "kind": s.kind, "range": s.range, "summary": s.summary}
            for s in scorers
        ]
        codecs = [{"name": e.name, "media": e.media, "summary": e.summary} for e in encoders]
        told = [dataclasses.asdict(plugin) for plugin in plugins]
        click.echo(json.dumps({"plugins": told, "scorers": rows, "encoders": codecs}))
        return
    click.echo("Plugins")
    for plugin in plugins:
        state = "blocked" if plugin.blocked else plugin.error or ", ".join(plugin.hooks)
        click.echo(f"  {plugin.name:<12} {plugin.origin}: {state}")
    click.echo("\nScorers")
    for scorer in scorers:
        low, high = scorer.range
        click.echo(f"  {scorer.name:<12} {scorer.kind} {low:g} to {high:g}: {scorer.summary}")
    click.echo("\nEncoders")
    for encoder in encoders:
        click.echo(f"  {encoder.name:<12} {encoder.media}: {encoder.summary}")
