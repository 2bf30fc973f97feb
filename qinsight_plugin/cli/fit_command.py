"""`qinsight fit`: ratings in, a student of one's own out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qinsight_plugin.cli.scale import SCALE, images_option, scale_option

if TYPE_CHECKING:
    from qinsight_plugin.labels import Labels


@click.command("fit")
@click.argument("labels_csv", metavar="LABELS.CSV")
@images_option
@scale_option
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .onnx file."
)
@click.option(
    "--init",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Start from a student's .onnx, or from MobileNetV2 as .safetensors (torchvision's key "
    "names).  [default: the shipped student]",
)
@click.option("--epochs", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def command(
    labels_csv: str,
    images: str | None,
    scale: SCALE | None,
    out: Path,
    init: Path | None,
    epochs: int,
    seed: int,
) -> None:
    """Train the student on your own ratings.

    LABELS.CSV has a column `path` (or filename) and a column `mos`, and may have `split` (train,
    val, test), `group` and `dup_group` (near-duplicates share a value and stay on one side).
    The result is a file for --scorer student:FILE, with its checksum beside it. About 0.4 MB of
    memory and, on two cores, 0.3 seconds a picture.

    \b
    Example:
      qinsight fit labels.csv --scale 1:5 --out mine.onnx
      qinsight eval labels.csv --scale 1:5 --split test --scorer student:mine.onnx
    """
    from qinsight_plugin._imports import require
    from qinsight_plugin.labels import check_learnable, read_labels
    from qinsight_plugin.scorers.student import SHIPPED_WEIGHTS

    if out.suffix != ".onnx":
        raise click.UsageError(f"--out {out} must end in .onnx")
    require_writable(out.parent)
    for module in ("torch", "onnx"):
        require(module, package=module, extra="train", purpose="training a student")
    labels = read_labels(labels_csv, images=images, scale=scale)
    check_learnable(labels)
    train_and_export(labels, out, init or SHIPPED_WEIGHTS, epochs, seed)


def require_writable(folder: Path) -> None:
    """Training takes long: what would fail at its end is better known at its beginning."""
    from qinsight_plugin.errors import ConfigError

    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigError(f"--out: {folder} is not a folder that can be written to; make it first")


def train_and_export(labels: Labels, out: Path, init: Path, epochs: int, seed: int) -> None:
    from qinsight_plugin import __version__
    from qinsight_plugin.plugins import default_host
    from qinsight_plugin.student.export import export_onnx, load_student
    from qinsight_plugin.student.fit import Recipe, calibration_set, fit, split_labels

    student, fresh = load_student(init)
    recipe = Recipe(epochs=epochs, seed=seed)
    train, validation = split_labels(labels, recipe)
    calibrated_on = len(calibration_set(train, validation))
    click.echo(f"Training on {len(train)} pictures, calibrating on {calibrated_on}.")
    host = default_host()
    steps = recipe.steps(len(train))

    def on_step(step: int, losses: Mapping[str, float]) -> None:
        host.call("qinsight_training_step", step=step, metrics=losses)
        if step == steps or step % 50 == 0:
            figures = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            click.echo(f"step {step} of {steps}  {figures}")

    def on_cached(done: int, total: int) -> None:
        if done == total or done % 500 == 0:
            click.echo(f"read {done} of {total} pictures")

    trained = fit(
        student,
        labels,
        train,
        validation,
        recipe,
        fresh=fresh,
        on_step=on_step,
        on_cached=on_cached,
    )
    about = {
        "version": __version__,
        "recipe": dataclasses.asdict(recipe),
        "init": init.name,
        "trained_on": len(train),
        "calibrated_on": calibrated_on,
    }
    difference = export_onnx(trained, out, about)
    click.echo(f"Wrote {out}; ONNX Runtime agrees with PyTorch to {difference:.1e} MOS.")
