"""`qinsight distill`: a teacher's opinions in, a student that shares them out."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.fit_command import read_sets
from qinsight_plugin.cli.inputs import expand
from qinsight_plugin.cli.options import open_pipeline, paths_argument
from qinsight_plugin.cli.scale import scale_option
from qinsight_plugin.cli.training_options import (
    companions,
    finish,
    now_and_then,
    origin,
    pictures_in,
    read_start,
    require_trainable,
    trainer_of,
    training_options,
)

if TYPE_CHECKING:
    from qinsight_plugin.answers import Answer
    from qinsight_plugin.student.views import RatedSet


@click.command("distill")
@paths_argument
@click.option(
    "--teacher",
    required=True,
    metavar="NAME[:ARG]",
    help="Any scorer, such as student:big.onnx; `qinsight plugins` lists the names.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Times that each picture is asked about; for teachers that answer differently each time.",
)
@click.option(
    "--answers",
    type=click.Path(file_okay=False, path_type=Path),
    help="The Parquet folder of the teacher's answers, found again by a run that goes on.  "
    "[default: OUT.answers.parquet]",
)
@click.option("--labels", "labels_csv", help="Human ratings to learn from as well; see fit.")
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the pictures of --labels lie.",
)
@scale_option
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.5),
    default=0.1,
    show_default=True,
    help="Share to measure on and not to train on.",
)
@training_options
def command(
    paths: tuple[str, ...],
    teacher: str,
    samples: int,
    answers: Path | None,
    labels_csv: str | None,
    images: Path | None,
    scale: tuple[float, float] | None,
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
    """Teach the student what a slower scorer thinks of pictures that nobody rated.

    The teacher is asked once or more about every picture. Its answers are kept as they come, so
    that a killed run asks nothing twice. Replies that cannot be read are counted and left out.

    \b
    Example:
      qinsight distill pictures/ --teacher student:big.onnx --out small.onnx
    """
    require_trainable()
    from qinsight_plugin.student.training import Job

    if labels_csv is None and (images or scale):
        raise click.UsageError("--images and --scale are about --labels, which is not given")
    student, fresh, settings = read_start(init, backbone, network, recipe, **changes)
    human = read_sets([labels_csv], [images], [scale]) if labels_csv else []
    kept = answers or out.with_name(out.name + ".answers.parquet")
    taught = ask(teacher, paths, samples, kept)
    where = work or out.with_name(out.name + ".work")
    others = companions(student, init, taught_by, device)
    job = Job([*human, taught], settings, where, pictures_in(pristine), hold_out, **others)
    with closing(trainer_of(job, student, fresh)) as trainer:
        trained = trainer.on_ratings()
    start = origin(init, backbone, taught_by)
    finish(job, trained, out, work is not None, teacher=teacher, samples=samples, **start)


def ask(teacher: str, paths: tuple[str, ...], samples: int, kept: Path) -> RatedSet:
    """The teacher's answers as a set to learn from."""
    import numpy as np

    from qinsight_plugin.labels import Labels
    from qinsight_plugin.student.views import RatedSet
    from qinsight_plugin.teacher import sample_teacher
    from qinsight_plugin.teacher_labels import teacher_labels

    pictures = [Path(item.path) for item in expand(paths)]
    done: list[Answer] = []
    due = now_and_then()

    def on_answer(answer: Answer) -> None:
        done.append(answer)
        if len(done) == len(pictures) or due():
            click.echo(f"asked about {len(done)} of {len(pictures)} pictures")

    found = sample_teacher(
        open_pipeline(teacher), pictures, samples=samples, cache=kept, on_answer=on_answer
    )
    for answer in found:
        if answer.error is not None:
            click.echo(f"left out: {answer.error}", err=True)
    asked = samples * sum(answer.error is None for answer in found)
    unread = asked - sum(answer.readable for answer in found)
    click.echo(f"{unread} of {asked} replies could not be read.")
    lessons = teacher_labels(found)
    spread = np.sqrt(np.nan_to_num(lessons.variance))
    labels = Labels(lessons.paths, tuple(map(float, lessons.mos)), std=tuple(map(float, spread)))
    chosen = range(len(lessons.paths))
    return RatedSet(labels, chosen, lessons.reliability, lessons.severities)
