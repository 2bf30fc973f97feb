"""`qinsight tune`: a configuration in, a setting that makes better pictures and a report out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click


@click.command("tune")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--trials", type=click.IntRange(min=1), help="Instead of the file's.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."
)
@click.option("--join", is_flag=True, help="Only add trials to the study; no report.")
@click.option("--json", "as_json", is_flag=True, help="What was found, as JSON.")
def command(config: Path, trials: int | None, workers: int, join: bool, as_json: bool) -> int:
    """Search the parameters of a camera or an ISP that make the best pictures.

    CONFIG.toml says what is tuned (the reference ISP, a Python function, a command, or a camera
    with its controls), on which scenes, what may be turned, and how far a picture's look may go.
    The study lies in OUTPUT/study.journal: a run that was killed goes on when the same command is
    given again, and other processes or machines that see the file may --join it. Exit code 1: the
    best setting did not hold on held-out scenes, and the default is recommended.

    \b
    Examples:
      qinsight tune isp.toml
      qinsight tune isp.toml --workers 4
    """
    from qinsight_plugin.cli.main import EXIT_REJECTED
    from qinsight_plugin.tune.config import read_config
    from qinsight_plugin.tune.report import document, summary, write
    from qinsight_plugin.tune.study import tune
    from qinsight_plugin.tune.taste import learn

    read = read_config(config)
    wanted = trials or read.search.trials
    read.output.mkdir(parents=True, exist_ok=True)
    helpers = [join_in(config, wanted) for _ in range(workers - 1)]
    try:
        tuned = tune(
            read.render,
            read.space,
            read.scenes,
            held_out=() if join else read.held_out,
            trials=wanted,
            goals=read.search.goals,
            objective=read.objective,
            taste=None if read.pairs is None else learn(read.pairs, scorer=read.scorer),
            sampler=read.search.sampler,
            seed=read.search.seed,
            patience=read.search.patience,
            time_limit=read.search.time_limit,
            scorer=read.scorer,
            storage=read.output / "study.journal",
            on_trial=None if join else Progress(wanted),
        )
    finally:
        for helper in helpers:
            helper.terminate()
            helper.wait()
    if join:
        return 0
    page = write(tuned, read.output, read.search.goals)
    if as_json:
        import json

        click.echo(json.dumps(document(tuned), indent=1))
    else:
        show(tuned, summary(tuned), page)
    rejected = tuned.held_out is not None and tuned.held_out.objection
    return EXIT_REJECTED if rejected else 0


def join_in(config: Path, trials: int) -> subprocess.Popen[bytes]:
    """Another process on the same study."""
    words = ["-m", "qinsight_plugin", "tune", str(config), "--join", "--trials", str(trials)]
    return subprocess.Popen([sys.executable, *words])


class Progress:
    """A line a trial on a terminal's standard error."""

    def __init__(self, trials: int) -> None:
        self._trials = trials

    def __call__(self, trial: Any) -> None:
        if not sys.stderr.isatty():
            return
        values = trial.values
        said = trial.user_attrs.get("error", "") if values is None else f"{values[0]:.3f}"
        click.echo(f"trial {trial.number + 1} of {self._trials}: {said}", err=True)


def show(tuned: Any, said: str, page: Path) -> None:
    click.echo(f"{'parameter':<20} {'default':>10} {'best':>10}")
    for name, value in tuned.best.items():
        default = tuned.space.defaults[name]
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in (default, value))
        click.echo("{:<20} {:>10} {:>10}".format(name, *cells))
    click.echo("")
    rows = [("on the scenes", tuned.default, tuned.outcome)]
    if tuned.held_out is not None and tuned.held_out.best is not None:
        rows.append(("held out", tuned.held_out.default, tuned.held_out.best))
    for name, default, best in rows:
        click.echo(
            f"{name:<14} mean {default.mean:.2f} -> {best.mean:.2f}, worst decile "
            f"{default.worst:.2f} -> {best.worst:.2f}"
        )
    click.echo(said)
    click.echo(f"Report: {page}")
