"""`qinsight bench`: what a score costs on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qinsight_plugin.bench.contest import Contest
    from qinsight_plugin.bench.roofline import Roofline
    from qinsight_plugin.bench.stages import Timing


@click.command("bench")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Time spent on each size in each table; three rounds at least are made.",
)
@click.option("--peers", is_flag=True, help="Beside what else scores a picture by itself.")
@click.option("--roofline", is_flag=True, help="Beside bare matrix products on this machine.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="For each that --peers and --roofline time.  [default: 2, or 1 on a single core]",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    default=("student",),
    show_default=True,
    metavar="NAME[:ARG]",
    help="Who scores; may be repeated. The first is what --peers compares with.",
)
def command(
    seconds: float,
    peers: bool,
    roofline: bool,
    threads: int | None,
    as_json: bool,
    scorers: tuple[str, ...],
) -> None:
    """Time decoding and scoring at 0.3, 1 and 12 megapixels.

    JPEG files at quality 90, made up on the spot, one at a time. Decoding shrinks as scoring does:
    `full` is the same file decoded to all its pixels, for comparison.

    --peers and --roofline time students from decoded pixels to the score, on the CPU.
    """
    if threads and not (peers or roofline):
        raise click.UsageError("--threads is for --peers and --roofline")
    from qinsight_plugin._imports import require
    from qinsight_plugin.bench.stages import measure

    if roofline:  # which comes last
        require("onnx", package="onnx", extra="train", purpose="the roofline")
    threads = threads or min(2, os.cpu_count() or 1)
    names = list(dict.fromkeys(scorers))
    sizes = {name: measure(name, seconds) for name in names}
    contests: list[Contest] = []
    rates: Roofline | None = None
    if peers:
        from qinsight_plugin.bench.contest import measure_peers

        contests = measure_peers(names, seconds, threads)
    if roofline:
        from qinsight_plugin.bench.roofline import measure_roofline

        rates = measure_roofline(names, seconds, threads)
    if as_json:
        click.echo(as_object(sizes, threads, contests, rates))
        return
    lines = size_lines(sizes)
    if contests:
        lines += ["", *contest_lines(contests, threads)]
    if rates:
        lines += ["", *roofline_lines(rates, threads)]
    click.echo("\n".join(lines))


def as_object(
    sizes: Mapping[str, Sequence[Timing]],
    threads: int,
    contests: Sequence[Contest],
    rates: Roofline | None,
) -> str:
    """`peers` is empty and `roofline` null where they were not asked for."""
    rows = [
        {"scorer": name, **dataclasses.asdict(timing)}
        for name, timings in sizes.items()
        for timing in timings
    ]
    return json.dumps(
        {
            "sizes": rows,
            "threads": threads,
            "peers": [dataclasses.asdict(contest) for contest in contests],
            "roofline": None if rates is None else dataclasses.asdict(rates),
        }
    )


def size_lines(sizes: Mapping[str, Sequence[Timing]]) -> list[str]:
    lines = ["Medians in milliseconds, one picture at a time"]
    for name, timings in sizes.items():
        lines += [name] if len(sizes) > 1 else []
        lines.append("    MP  full decode  decode  score  file to score  images/s  n")
        lines += [
            f"{t.megapixels:6.1f}  {t.full_decode_ms:11.1f}  {t.decode_ms:6.1f}"
            f"  {t.score_ms:5.1f}  {t.total_ms:13.1f}  {1000 / t.total_ms:8.1f}  {t.n}"
            for t in timings
        ]
    return lines


def contest_lines(contests: Sequence[Contest], threads: int) -> list[str]:
    lines = [
        f"Medians in milliseconds from decoded pixels to the answer, CPU, {in_words(threads)} each"
    ]
    for contest in contests:
        lines += [
            f"{contest.width}x{contest.height}, {contest.title}, n {contest.n}",
            "        ms  times ours",
        ]
        lines += [
            f"{number(e.ms, '.1f'):>10}  {number(e.times_ours, '#.3g'):>10}  {e.name}"
            + (f" ({e.note})" if e.note else "")
            for e in contest.entries
        ]
    return lines


def roofline_lines(rates: Roofline, threads: int) -> list[str]:
    return [
        f"Matrices of {rates.side}x{rates.side} in ONNX Runtime, CPU, {in_words(threads)}, best of "
        f"{rates.n}",
        f"{rates.sgemm_gflops:10.1f}  GFLOP/s float32",
        f"{rates.u8s8_gops:10.1f}  GOP/s uint8 by int8",
        f"{rates.megapixels:.1f} MP, every pixel seen, decoded pixels to score, best of {rates.n}",
        "      GMAC        ms  GFLOP/s  of float32  of uint8 by int8",
        *(
            f"{s.gmac:10.2f}  {s.ms:8.1f}  {s.gflops:7.1f}  {s.of_sgemm:10.0%}"
            f"  {s.of_u8s8:16.0%}  {s.scorer}"
            for s in rates.students
        ),
    ]


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def in_words(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"
