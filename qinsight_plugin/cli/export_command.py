"""`qinsight export`: a student's other precisions, and whether they say the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.options import FileToWrite, progress

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels
    from qinsight_plugin.student.parity import Parity

MOST_CALIBRATING = 1000
MOST_COMPARED = 500
COMPARED_BY_THE_WAY = 50
"""Of the calibration pictures, where no others are named."""

folder = click.Path(file_okay=False)


@click.command("export")
@click.argument("student", metavar="STUDENT.ONNX", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--fp16", type=FileToWrite(".onnx"), help="Write it in half precision, for GPUs.")
@click.option(
    "--int8", type=FileToWrite(".onnx"), help="Write it in 8 bits, for CPUs; needs --calibrate."
)
@click.option(
    "--calibrate",
    type=folder,
    help="Pictures of all qualities for --int8: 64 or more, 1000 better.",
)
@click.option(
    "--reduce-range", is_flag=True, help="With --int8: less exact, faster on CPUs without VNNI."
)
@click.option(
    "--check", type=folder, help="Pictures to compare on.  [default: those of --calibrate]"
)
@click.option(
    "--tensorrt",
    is_flag=True,
    help="Build TensorRT's engine now, of the --fp16 file if given.",
)
@click.option(
    "--triton",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write a model repository for Triton: of --int8, else --fp16 (for GPUs), else STUDENT.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
def command(
    student: Path,
    fp16: Path | None,
    int8: Path | None,
    calibrate: str | None,
    reduce_range: bool,
    check: str | None,
    tensorrt: bool,
    triton: Path | None,
    as_json: bool,
) -> None:
    """Write a student in other precisions, and compare each file with PyTorch.

    STUDENT.ONNX is a float32 file. All files are for --scorer student:FILE. The comparison shows
    by how much scores differ in MOS, under ONNX Runtime and, for float32, OpenCV's own runner.

    \b
    Example:
      qinsight export mine.onnx --fp16 mine-fp16.onnx
      qinsight export mine.onnx --int8 mine-int8.onnx --calibrate photographs/
      qinsight export mine.onnx --triton models/
    """
    if not (fp16 or int8 or check or tensorrt or triton):
        raise click.UsageError(
            "nothing to do: give --fp16, --int8, --check, --triton or --tensorrt"
        )
    if bool(int8) != bool(calibrate):
        raise click.UsageError("--int8 and --calibrate need each other")
    if reduce_range and not int8:
        raise click.UsageError("--reduce-range is for --int8")
    from qinsight_plugin._imports import require

    made = [path for path in (fp16, int8) if path]
    for path in made:
        require_another(path, student)
    for module in ("onnx", "onnxruntime", *(["torch"] if int8 else [])):
        require(module, package=module, extra="export", purpose="exporting a student")
    calibrating = read_pictures(calibrate, MOST_CALIBRATING) if calibrate else []
    if fp16:
        from qinsight_plugin.student.half import to_fp16

        to_fp16(student, fp16)
    if int8:
        write_int8(student, int8, calibrating, reduce_range)
    compared = read_pictures(check, MOST_COMPARED) if check else calibrating[:COMPARED_BY_THE_WAY]
    seen = "" if check else " that int8 was made with (--check names others)"
    rows = compare(student, made, compared) if compared else []
    if as_json:
        click.echo(json.dumps({"parity": [dataclasses.asdict(row) for row in rows]}))
    else:
        for path in made:
            click.echo(f"Wrote {path}, {path.stat().st_size / 1e6:.1f} MB.")
        if rows:
            click.echo(table(rows, seen))
        elif made:
            click.echo("Not compared with PyTorch: give pictures by --check.")
    if triton:
        from qinsight_plugin.student.triton import Serving, write_repository

        served = int8 or fp16 or student
        written = write_repository(served, triton, Serving(gpu=served == fp16))
        click.echo(
            f"Wrote {written}, a model for tritonserver --model-repository {triton}.", err=True
        )
    if tensorrt:
        build_engine(fp16 or student)


def write_int8(student: Path, out: Path, pictures: Sequence[Pixels], reduce_range: bool) -> None:
    """By our own quantiser, or by optimum where the student stands on a hub backbone."""
    from qinsight_plugin.student.graph import metadata, read_graph
    from qinsight_plugin.student.quantize import to_int8

    if metadata(read_graph(student)).get("backbone"):
        from qinsight_plugin.student.hub_export import hub_to_int8

        hub_to_int8(student, out, pictures, reduce_range=reduce_range)
    else:
        to_int8(student, out, pictures, reduce_range=reduce_range, watch=progress)


def require_another(path: Path, student: Path) -> None:
    """An export does not replace what it is made from."""
    from qinsight_plugin.errors import ConfigError

    if path.resolve() == student.resolve():
        raise ConfigError(f"{path} is the student itself; choose another name")


def read_pictures(name: str, most: int) -> list[Pixels]:
    """Pictures spread evenly over the folder, as the scorer sees them; what cannot be read is
    named on standard error and left out."""
    from qinsight_plugin.cli.inputs import expand
    from qinsight_plugin.decode import decode
    from qinsight_plugin.errors import ImageError
    from qinsight_plugin.examine import spaced
    from qinsight_plugin.scorers.student import SPEC, windows

    inputs = expand([name])
    pictures = []
    for index in spaced(len(inputs), most):
        item = inputs[index]
        try:
            if item.error is not None:
                raise item.error
            image = decode(item.path, max_pixels=SPEC.max_pixels, min_side=SPEC.min_side)
        except ImageError as error:
            click.echo(f"Not used: {item.path}: {error}", err=True)
        else:
            pictures.append(windows(image.pixels, SPEC.max_pixels)[0])
    return pictures


def compare(student: Path, made: Sequence[Path], pictures: Sequence[Pixels]) -> list[Parity]:
    from qinsight_plugin._imports import require

    for module, package in (("torch", "torch"), ("scipy.stats", "scipy")):
        require(module, package=package, extra="export", purpose="comparing files")
    from qinsight_plugin.student.parity import parity_report

    return parity_report(student, made, pictures)


def table(rows: Sequence[Parity], seen: str) -> str:
    """As text; `seen` says of the pictures what makes them easy."""
    width = max(len(row.file) for row in rows)
    count = max(row.pictures for row in rows)
    lines = [
        f"Differences from PyTorch in MOS, {count} pictures{seen}",
        f"{'file':<{width}}  {'runner':<20}     max     p95    mean  to 0.05    SRCC  odd sizes"
        "  map p95",
    ]
    for row in rows:
        head = f"{row.file:<{width}}  {row.runner:<20}"
        if row.note:
            lines.append(f"{head}  {row.note}")
            continue
        score, local = row.outputs["score"], row.outputs["quality_map"]
        figures = (score.maximum, score.p95, score.mean)
        srcc = "-" if row.srcc is None else f"{row.srcc:.4f}"
        lines.append(
            f"{head}  {'  '.join(map(number, figures))}  {score.near:7.1%}  {srcc:>6}"
            f"  {number(row.odd):>9}  {number(local.p95):>7}"
        )
    return "\n".join(lines)


def number(difference: float | None) -> str:
    if difference is None:
        return "-"
    return f"{difference:6.4f}" if difference >= 5e-5 else f"{difference:6.0e}"


def build_engine(file: Path) -> None:
    """TensorRT's engine for the file, into the cache, by scoring one picture."""
    import numpy as np

    from qinsight_plugin.records import Image
    from qinsight_plugin.scorers.student import StudentScorer
    from qinsight_plugin.scorers.tensorrt import LIKELY_SHAPE, cache_folder

    _, height, width = LIKELY_SHAPE
    grey = Image(np.full((height, width, 3), 128, np.uint8), "<grey>", width, height)
    StudentScorer(file, "tensorrt").score([grey])
    click.echo(f"Built the engine of {file}; it is kept in {cache_folder()}.", err=True)
