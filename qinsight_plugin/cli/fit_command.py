"""`qinsight fit`: ratings in, a student of one's own out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qinsight_plugin.cli.scale import SCALE, ScaleType
from qinsight_plugin.cli.training_options import (
    FOLDER,
    companions,
    finish,
    origin,
    pictures_in,
    read_start,
    require_trainable,
    trainer_of,
    training_options,
)

if TYPE_CHECKING:
    from qinsight_plugin.student.views import RatedSet

T = TypeVar("T")


@click.command("fit")
@click.argument("labels_csv", metavar="LABELS.CSV...", nargs=-1, required=True)
@click.option(
    "--images",
    type=FOLDER,
    multiple=True,
    help="Where the pictures lie; once for all files or once for each.  [default: the folder of "
    "LABELS.CSV]",
)
@click.option(
    "--scale",
    type=ScaleType(),
    multiple=True,
    help="Lowest and highest possible rating, such as 1:5 or 0:100; once for all files or once "
    "for each.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.5),
    default=0.2,
    show_default=True,
    help="Share to measure on and not to train on, where LABELS.CSV has no rows of split test.",
)
@training_options
def command(
    labels_csv: tuple[str, ...],
    images: tuple[Path, ...],
    scale: tuple[SCALE, ...],
    hold_out: float,
    out: Path,
    init: tuple[Path, ...],
    backbone: str | None,
    network: str | None,
    taught_by: tuple[Path, ...],
    device: str,
    recipe: Path | None,
    pristine: Path | None,
    work: Path | None,
    **changes: Any,
) -> None:
    """Train the student on your own ratings, or on pairs.

    LABELS.CSV has a column `path` (or filename) and a column `mos`, and may have `split` (train,
    val, test), `group` (rated together), `dup_group` (near-duplicates share a value and stay on
    one side) and `std`. Or it has the columns `a`, `b` and `better` (a, b or similar). Of several
    files, the first one's scale is the student's; the others' are mapped to it as they are learnt.

    A run that was killed goes on where it was when the same command is given again.

    \b
    Example:
      qinsight fit labels.csv --scale 1:5 --out mine.onnx
      qinsight score new.jpg --scorer student:mine.onnx
    """
    from qinsight_plugin.pairs import check_pairs_learnable, is_pairs, read_pairs

    require_trainable()
    from qinsight_plugin.student.training import Job

    folders = one_each("--images", images, labels_csv)
    student, fresh, settings = read_start(init, backbone, network, recipe, **changes)
    where = work or out.with_name(out.name + ".work")
    others = companions(student, init, taught_by, device)
    job = Job((), settings, where, pictures_in(pristine), hold_out, **others)
    if any(is_pairs(path) for path in labels_csv):
        if len(labels_csv) > 1:
            raise click.UsageError("pairs are learnt from one file at a time")
        pairs = read_pairs(labels_csv[0], images=folders[0])
        check_pairs_learnable(pairs)
        with closing(trainer_of(job, student, fresh)) as trainer:
            trained = trainer.on_pairs(pairs)
    else:
        sets = read_sets(labels_csv, folders, one_each("--scale", scale, labels_csv))
        job = dataclasses.replace(job, sets=sets)
        with closing(trainer_of(job, student, fresh)) as trainer:
            trained = trainer.on_ratings()
    names = [Path(path).name for path in labels_csv]
    finish(job, trained, out, work is not None, labels=names, **origin(init, backbone, taught_by))


def read_sets(
    files: Sequence[str], folders: Sequence[Path | None], scales: Sequence[SCALE | None]
) -> list[RatedSet]:
    from qinsight_plugin.labels import check_learnable, read_labels
    from qinsight_plugin.student.views import RatedSet

    sets = []
    for path, images, scale in zip(files, folders, scales, strict=True):
        labels = read_labels(path, images=images, scale=scale)
        check_learnable(labels)
        sets.append(RatedSet(labels, range(len(labels.paths))))
    return sets


def one_each(option: str, values: Sequence[T], files: Sequence[str]) -> list[T | None]:
    if len(values) not in (0, 1, len(files)):
        raise click.UsageError(
            f"{option} was given {len(values)} times for {len(files)} files; give it once for all "
            "or once for each"
        )
    return (
        list(values) if len(values) == len(files) else [values[0] if values else None] * len(files)
    )
