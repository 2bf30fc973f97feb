"""`qinsight train`: a reasoning model of one's own, by GRPO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from qinsight_plugin.grpo.config import Config, Wanted
    from qinsight_plugin.grpo.training import Outcome, Watch

CONFIG = click.argument(
    "config_file", metavar="CONFIG.toml", type=click.Path(dir_okay=False, path_type=Path)
)


@click.group("train")
def command() -> None:
    """Train a vision-language model on your own ratings, by GRPO as Q-Insight was.

    It is for the models behind the scorer `reasoning`; the student is trained by `fit`.
    """


@command.command("check")
@CONFIG
def check_command(config_file: Path) -> int:
    """List all that is wrong with the labels and pictures of a training.

    Exit codes: 0 nothing, 3 something.
    """
    config, _ = read(config_file)
    from qinsight_plugin.grpo.rows import check_enough
    from qinsight_plugin.grpo.training import check, steps_of

    rows, problems = check(config, watch())
    for problem in problems:
        click.echo(str(problem))
    for one, own in zip(config.data, rows.train, strict=True):
        click.echo(f"{one.labels.name}: {len(own)} rows of {one.task} to train on")
    click.echo(f"{len(rows.held)} rows are held back to measure on")
    if rows.left_out:
        near = "near-duplicates of theirs, or pictures, are trained on"
        click.echo(f"{rows.left_out} rows are left out: {near}")
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        click.echo(f"{len(problems)} {noun}: mend or remove these rows", err=True)
        return 3
    check_enough(rows, config)
    room(config)
    steps = config.train.iterations * steps_of(config, sum(map(len, rows.train)))
    click.echo(f"Nothing is wrong; training will take {steps} steps.")
    return 0


@command.command("grpo")
@CONFIG
def grpo_command(config_file: Path) -> None:
    """Train, and keep the checkpoint that is best on what was held back.

    A run that was killed goes on where it was when the same command is given again. On several
    GPUs, give the command to `accelerate launch`.

    \b
    Example:
      qinsight train check own.toml
      qinsight train grpo own.toml
      qinsight score new.jpg --scorer reasoning:OUTPUT/model
    """
    config, wanted = read(config_file)
    from qinsight_plugin.grpo.training import train

    room(config)
    outcome = train(config, wanted, watch())
    if outcome is None:
        click.echo(f"{config.output / 'model'} is there: this training is done.")
    else:
        report(outcome, config)


def read(config_file: Path) -> tuple[Config, tuple[Wanted, ...]]:
    """The config and its rewards, once all packages are known to be there."""
    from qinsight_plugin._imports import require
    from qinsight_plugin.grpo.config import read_config, wanted_rewards
    from qinsight_plugin.plugins import default_host

    config = read_config(config_file)
    wanted = wanted_rewards(config, default_host().reward_specs(), config_file)
    for module in ("torch", "transformers", "accelerate", "peft", "datasets", "tensorboard"):
        require(module, package=module, extra="grpo", purpose="training by GRPO")
    for module in ("matplotlib", "scipy", "trl"):
        require(module, package=module, extra="grpo", purpose="training by GRPO")
    return config, wanted


def room(config: Config) -> None:
    """Say how much memory it takes, or that there is not enough."""
    from qinsight_plugin.grpo.memory import require_room

    found = require_room(config)
    if found.parameters >= 1e8:
        click.echo(f"Memory: {found}.")


def watch() -> Watch:
    """Says how far it is, and tells the plugins."""
    from qinsight_plugin.grpo.training import Watch
    from qinsight_plugin.plugins import default_host

    host = default_host()

    def on_picture(done: int, total: int, problem: Any) -> None:
        if done % 1000 == 0:
            click.echo(f"checked {done} of {total} pictures")

    def on_step(step: int, steps: int, figures: Mapping[str, float]) -> None:
        host.call("qinsight_training_step", step=step, metrics=figures)
        if step == steps or step % 10 == 0:
            named = {n: v for n, v in figures.items() if n.endswith(("reward", "unreadable", "kl"))}
            click.echo(f"step {step} of {steps}  {line(named)}")

    def on_measured(step: int, figures: Mapping[str, float]) -> None:
        click.echo(f"held back, after step {step}  {line(figures)}")

    def on_resume(step: int) -> None:
        click.echo(f"goes on after step {step}")

    return Watch(on_picture, on_step, on_measured, on_resume)


def line(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())


def report(outcome: Outcome, config: Config) -> None:
    if outcome.early:
        click.echo(f"Stopped early: {config.validation.patience} measurements brought no better.")
    metric = config.validation.metric
    for name, value in outcome.best.items():
        if name.endswith(f"/{metric}"):
            click.echo(f"{name}: {outcome.start.get(name, 0):.3f} -> {value:.3f} (held back)")
    click.echo(f"Wrote {outcome.model}, step {outcome.step} of {outcome.steps}.")
