"""`qinsight scale`: what people said, on one scale, and what the people are like."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.options import FileToWrite
from qinsight_plugin.cli.scale import SCALE, scale_option

if TYPE_CHECKING:
    from qinsight_plugin.feedback.joining import Joined
    from qinsight_plugin.feedback.judgements import Gathered
    from qinsight_plugin.feedback.mos import Model, Mos
    from qinsight_plugin.feedback.raters import RaterReport

FILE = FileToWrite()


@click.command("scale")
@click.argument(
    "sources",
    metavar="ANSWERS...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--out", type=FILE, help="MOS of each picture, as a CSV for fit, grpo and calibrate.")
@click.option("--pairs", type=FILE, help="What most said of each pair, as a CSV for fit and grpo.")
@click.option("--severities", type=FILE, help="Distortions and severities, as a CSV for grpo.")
@click.option("--settings", type=FILE, help="What sliders were set to, as a CSV.")
@click.option(
    "--model",
    type=click.Choice(["p910", "p910-ml", "p913", "bt500", "mean"]),
    help="How ratings become MOS.  [default: p910, or the mean of one or two people]",
)
@click.option("--leave-out", multiple=True, metavar="RATER", help="Whose answers not to count.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the pictures lie.  [default: the folder of ANSWERS]",
)
@scale_option
@click.option(
    "--export",
    "exports",
    type=FILE,
    multiple=True,
    help="All answers as .csv, or as Label Studio's .json.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
def command(
    sources: tuple[Path, ...],
    images: Path | None,
    scale: SCALE | None,
    leave_out: tuple[str, ...],
    model: Model | None,
    exports: tuple[Path, ...],
    as_json: bool,
    **files: Path | None,
) -> None:
    """Put what people said on one scale, and say what each person's answers are like.

    ANSWERS is a file of `qinsight label`, a CSV with the columns rater, path and rating, or rater,
    a, b and better, or a JSON export of Label Studio; or several of these, about one folder.
    Nobody is left out unless you say so.

    \b
    Example:
      qinsight scale photos/qinsight-answers.sqlite --out labels.csv --pairs pairs.csv
      qinsight fit labels.csv --scale 1:5 --out mine.onnx
    """
    from qinsight_plugin.errors import LabelsError
    from qinsight_plugin.feedback.gathering import export, gather
    from qinsight_plugin.feedback.joining import join
    from qinsight_plugin.feedback.judgements import Gathered
    from qinsight_plugin.feedback.mos import scale as scale_ratings
    from qinsight_plugin.feedback.mos import suited_model, tabulate
    from qinsight_plugin.feedback.outputs import without
    from qinsight_plugin.feedback.raters import report

    folder = images or sources[0].parent
    parts = [gather(source, images=folder, scale=scale) for source in sources]
    everything = [one for part in parts for one in part.judgements]
    stale = {path: count for part in parts for path, count in part.stale.items()}
    gathered = without(Gathered(tuple(everything), stale), leave_out)
    if not gathered.judgements:
        raise LabelsError(f"{sources[0]}: nobody has answered anything yet that counts")
    opinions = tabulate(gathered.judgements)
    mos = joined = None
    suited = suited_model(opinions) if model is None and opinions.pictures else model
    if suited is not None and opinions.pictures:
        mos = scale_ratings(opinions, suited)
        joined = join(mos, gathered.judgements)
    reports = report(gathered.judgements, mos)
    if as_json:
        click.echo(as_object(reports, joined, suited, stale))
    else:
        show(reports, gathered, mos, joined, str(suited))
    write(gathered, joined, folder, as_json, **files)
    for target in exports:
        for path in export(gathered, target, folder.resolve().name):
            click.echo(f"Wrote {path}", err=as_json)


def write(
    gathered: Gathered,
    joined: Joined | None,
    folder: Path,
    quiet: bool,
    *,
    out: Path | None,
    pairs: Path | None,
    severities: Path | None,
    settings: Path | None,
) -> None:
    from qinsight_plugin.errors import LabelsError
    from qinsight_plugin.feedback import outputs

    if out is not None:
        if joined is None:
            raise LabelsError(
                "--out: nothing was rated, and pairs alone say which is better, not how good: "
                "rate some of the pictures as well, or take --pairs"
            )
        clipped = outputs.write_labels(joined, folder, out)
        beyond = f"; {clipped} lay beyond the scale's ends" if clipped else ""
        click.echo(f"Wrote {out}: {len(joined.pictures)} pictures{beyond}", err=quiet)
    writers: tuple[tuple[Path | None, Callable[..., int], str], ...] = (
        (pairs, outputs.write_pairs, "pairs"),
        (severities, outputs.write_severities, "pictures"),
        (settings, outputs.write_settings, "settings"),
    )
    for target, writer, what in writers:
        if target is not None:
            count = writer(gathered.judgements, folder, target)
            click.echo(f"Wrote {target}: {count} {what}", err=quiet)


def show(
    reports: Sequence[RaterReport],
    gathered: Gathered,
    mos: Mos | None,
    joined: Joined | None,
    model: str,
) -> None:
    head = (
        "ratings",
        "pairs",
        "agree",
        "bias",
        "error",
        "repeat",
        "drift",
        "sec",
        "golden",
        "left",
    )
    width = max(12, *(len(report.rater) for report in reports))
    click.echo(f"{'rater':<{width}}" + "".join(f"{name:>8}" for name in head))
    for one in reports:
        agree = one.agreement if one.agreement is not None else one.pair_agreement
        golden = f"{one.golden[1] - one.golden[0]}/{one.golden[1]}" if one.golden[1] else "-"
        numbers = (agree, one.bias, one.inconsistency, one.repeat_error, one.drift, one.seconds)
        cells = [str(one.ratings), str(one.pairs), *map(number, numbers), golden]
        cells.append("-" if one.left is None else f"{one.left:.0%}")
        click.echo(f"{one.rater:<{width}}" + "".join(f"{cell:>8}" for cell in cells))
    for one in reports:
        for note in one.notes:
            click.echo(f"{one.rater}: {note}")
    for one in reports:
        for reason in one.leave_out:
            click.echo(f"{one.rater}: {reason}; to leave them out: --leave-out {one.rater!r}")
    if mos is not None and mos.rejected:
        click.echo(f"The model {model} left out {', '.join(mos.rejected)}.")
    for path, count in gathered.stale.items():
        click.echo(f"{path} has changed since: {count} answers about it do not count.")
    if joined is not None:
        half = 1.96 * float(joined.error.mean())
        click.echo(
            f"{len(joined.pictures)} pictures by the model {model}: MOS within {half:.2f} on "
            "average (95 %)."
        )
        if joined.unplaced:
            click.echo(
                f"{len(joined.unplaced)} pictures were only compared and have no MOS: too few of "
                "the compared ones were rated."
            )


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def as_object(
    reports: Sequence[RaterReport], joined: Joined | None, model: str | None, stale: dict[str, int]
) -> str:
    told: dict[str, Any] = {
        "model": model,
        "raters": [dataclasses.asdict(one) for one in reports],
        "stale": stale,
        "pictures": [],
    }
    if joined is not None:
        columns = (joined.pictures, joined.value, joined.error, joined.ratings, joined.comparisons)
        told["pictures"] = [
            {
                "path": path,
                "mos": float(value),
                "error": float(error),
                "ratings": int(n),
                "comparisons": int(m),
            }
            for path, value, error, n, m in zip(*columns, strict=True)
        ]
        told["unplaced"] = list(joined.unplaced)
    return json.dumps(told)
