"""`qinsight serve`: scores and verdicts over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from qinsight_plugin.cli.options import scorer_option

file = click.Path(dir_okay=False, path_type=Path)
count = click.IntRange(min=1)
seconds = click.FloatRange(min=0, min_open=True)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--policy", type=file, help="A TOML file with the rules of /v1/gate.")
@click.option("--min-score", type=float, metavar="X", help="The only rule: a score of X or more.")
@scorer_option
@click.option("--key-file", type=file, help="API keys, one a line.")
@click.option("--no-key", is_flag=True, help="Let other machines ask without a key.")
@click.option("--capacity", type=count, default=64, show_default=True, help="Pictures inside.")
@click.option("--batch", type=count, default=8, show_default=True, help="Pictures scored at once.")
@click.option("--lanes", type=count, help="Batches at once.  [default: number of cores]")
@click.option("--decoders", type=count, help="Decoding processes.  [default: number of cores]")
@click.option("--max-pixels", type=count, default=50_000_000, show_default=True)
@click.option("--max-request", type=count, default=20, show_default=True, help="MiB.")
@click.option("--decode-seconds", type=seconds, default=10.0, show_default=True)
@click.option("--decode-memory", type=count, default=1024, show_default=True, help="MiB.")
@click.option("--body-seconds", type=seconds, default=30.0, show_default=True)
@click.option("--drain-seconds", type=seconds, default=30.0, show_default=True)
@click.option(
    "--fetch-from",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Fetch pictures from there, if asked to; may be given several times.",
)
def command(
    host: str,
    port: int,
    policy: Path | None,
    min_score: float | None,
    scorer: str,
    key_file: Path | None,
    no_key: bool,
    capacity: int,
    batch: int,
    lanes: int | None,
    decoders: int | None,
    max_pixels: int,
    max_request: int,
    decode_seconds: float,
    decode_memory: int,
    body_seconds: float,
    drain_seconds: float,
    fetch_from: tuple[str, ...],
) -> None:
    """Score and gate pictures over HTTP, and on a page at /.

    Only this machine can ask, unless --host says otherwise. What does not fit into the queue is
    answered 429. SIGTERM ends it when all that was accepted is answered; SIGHUP loads the policy
    and the scorer anew.

    \b
    Examples:
      qinsight serve --min-score 3.2
      curl -F image=@photo.jpg http://127.0.0.1:8000/v1/gate
      qinsight serve --host 0.0.0.0 --key-file keys.txt --policy policy.toml
    """
    from qinsight_plugin._imports import require

    for module, package in (("uvicorn", "uvicorn"), ("fastapi", "fastapi")):
        require(module, package=package, extra="serve", purpose="qinsight serve")
    from qinsight_plugin.integrations.web.server import run
    from qinsight_plugin.integrations.web.settings import MIB, Settings
    from qinsight_plugin.serving import Limits

    settings = Settings(
        scorer=scorer,
        policy=policy,
        min_score=min_score,
        key_file=key_file,
        limits=Limits(max_pixels, decode_seconds, decode_memory),
        capacity=capacity,
        batch=batch,
        lanes=lanes,
        decoders=decoders,
        max_request=max_request * MIB,
        body_seconds=body_seconds,
        fetch_from=fetch_from,
    )
    run(settings, host, port, drain_seconds, open_to_all=no_key)
