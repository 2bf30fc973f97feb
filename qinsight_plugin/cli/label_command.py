"""`qinsight label`: a page on which people judge the pictures of a folder."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from qinsight_plugin.feedback.asking import Asker
    from qinsight_plugin.feedback.store import Rater, Store
    from qinsight_plugin.feedback.study import Study

ANSWERS = "qinsight-answers.sqlite"
COUNT = click.IntRange(min=0)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("label")
@click.argument(
    "folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--rater",
    "raters",
    multiple=True,
    metavar="NAME[@TEAM]",
    help="Who judges; once for each. Everyone gets a link of their own.  [default: you]",
)
@click.option(
    "--ratings",
    type=COUNT,
    help="Pictures to rate from bad to excellent, each person.  [default: 100, or 0 where other "
    "questions are asked for]",
)
@click.option("--pairs", type=COUNT, default=0, help="Pairs to compare, each person.")
@click.option("--best", type=COUNT, default=0, help="Sets of which to pick the best.")
@click.option("--set-size", type=click.IntRange(3, 9), default=4, show_default=True)
@click.option(
    "--severity",
    "severities",
    multiple=True,
    metavar="DISTORTION=N",
    help="How much noise, compression, blur or darken is to be seen in N pictures.",
)
@click.option(
    "--adjust",
    "adjusts",
    multiple=True,
    metavar="PARAMETER[:LOW:HIGH]=N",
    help="A slider to set for N pictures: exposure, brightness, contrast, saturation, sharpness, "
    "jpeg, or package.module:function of pixels and a number.",
)
@click.option(
    "--golden",
    type=FILE,
    help="A CSV of known answers (path and mos, 1 to 5; or a, b and better), which are mixed in.",
)
@click.option("--repeat", type=click.FloatRange(0, 0.5), default=0.1, show_default=True)
@click.option("--practice", type=COUNT, default=3, show_default=True, help="Not counted.")
@click.option("--rest", type=COUNT, default=50, show_default=True, help="Questions to a break.")
@click.option(
    "--teacher",
    type=FILE,
    help="A CSV of a teacher's scores (path and mos, 1 to 5): after the first hundred pictures, "
    "those on which the scorer disagrees with it, or is unsure.",
)
@click.option(
    "--scorer",
    default="student",
    show_default=True,
    metavar="NAME[:ARG]",
    help="Whose scores help to choose what to ask; `none` for nobody's.",
)
@click.option(
    "--answers",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Where answers are kept.  [default: DIR/{ANSWERS}]",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets phones nearby in."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True)
def command(
    folder: Path,
    raters: tuple[str, ...],
    answers: Path | None,
    golden: Path | None,
    teacher: Path | None,
    scorer: str,
    host: str,
    port: int,
    **wanted: Any,
) -> None:
    """Let people judge the pictures in DIR, in a browser.

    Prints a link for each person. Stop it with Ctrl-C and give the same command again whenever you
    like: an answer is on the disk before the page goes on. `qinsight scale` makes labels of them.

    \b
    Example:
      qinsight label photos/ --rater ann --rater ben --ratings 60 --pairs 60
      qinsight scale photos/qinsight-answers.sqlite --out labels.csv
    """
    from qinsight_plugin._imports import require

    for module in ("fastapi", "uvicorn", "scipy", "threadpoolctl"):
        require(module, package=module, extra="label", purpose="qinsight label")
    from qinsight_plugin.cli.label_study import study_of
    from qinsight_plugin.feedback.app import make_app
    from qinsight_plugin.feedback.asking import Asker
    from qinsight_plugin.feedback.store import Store

    names = people(raters)
    study = study_of(folder, golden, people=len(names), **wanted)
    listener = listen(host, port)
    with closing(listener), closing(Store(answers or folder / ANSWERS)) as store:
        choose_pictures(store, folder, study, scorer, teacher)
        known = [store.rater(name, team) for name, team in names]
        asker = Asker(study, store, folder, on_unusable=left_out)
        say_links(known, asker, host, listener.getsockname()[1])
        serve(make_app(asker), listener)
        click.echo(f"Stopped. {len(store.answers())} answers are in {store.path}.")


def people(raters: Sequence[str]) -> list[tuple[str, str]]:
    """Names and teams; of nobody, whoever is logged in."""
    pairs = [tuple(part.strip() for part in rater.partition("@")[::2]) for rater in raters]
    names = [name.lower() for name, _ in pairs]
    for name in names:
        if not name:
            raise click.UsageError("--rater: a name is empty")
        if names.count(name) > 1:
            raise click.UsageError(f"--rater {name}: two people of one name; tell them apart")
    return [(name, team) for name, team in pairs] or [(getpass.getuser(), "")]


def listen(host: str, port: int) -> socket.socket:
    from qinsight_plugin.errors import ConfigError

    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error}): "
            "is another qinsight label running? Take another --port, or 0 for any"
        ) from error


def choose_pictures(
    store: Store, folder: Path, study: Study, scorer: str, teacher: Path | None
) -> None:
    """Fill the pool, saying so: it takes seconds where the folder is large."""
    from qinsight_plugin.cli.label_study import inside
    from qinsight_plugin.errors import ImageNotFoundError
    from qinsight_plugin.feedback.coverage import least_sure
    from qinsight_plugin.feedback.pool import fill_pool, pictures_of
    from qinsight_plugin.labels import read_labels

    listing = pictures_of(folder)
    known: dict[str, float] = {}
    if teacher is not None:
        told = read_labels(teacher, images=folder, scale=(1, 5))
        pairs = zip(told.paths, told.mos, strict=True)
        known = {inside(path, folder): mos for path, mos in pairs}

    def doubt(paths: Sequence[str]) -> list[int]:
        told = opinions(folder, paths, scorer)
        scores, spreads = zip(*(told.get(path, (0.0, 0.0)) for path in paths), strict=True)
        teachers = [known.get(path, score) for path, score in zip(paths, scores, strict=True)]
        return least_sure(scores, spreads, teachers if known else None)

    looked = 0

    def on_looked(path: str, error: str | None) -> None:
        nonlocal looked
        looked += 1
        if error is not None:
            left_out(path, error)
        if looked % 500 == 0:
            click.echo(f"Looked at {looked} pictures", err=True)

    singles = [b.count for b in study.blocks if b.kind in ("rating", "severity", "adjust")]
    several = [study.compared for b in study.blocks if b.kind in ("pair", "best")]
    fill_pool(store, folder, listing, max(singles + several), doubt, on_looked)
    if not store.pool():
        raise ImageNotFoundError(f"no picture in {folder} can be shown: name another folder")
    if any(block.kind == "pair" for block in study.blocks):
        compared = store.pool()[: study.compared]
        unknown = [path for path in compared if path not in store.opinions_of_student()]
        store.remember_scores(opinions(folder, unknown, scorer))


def opinions(folder: Path, paths: Sequence[str], scorer: str) -> dict[str, tuple[float, float]]:
    """Score and uncertainty of the pictures that the scorer can score; where it states none, 0."""
    from qinsight_plugin.cli.inputs import Input
    from qinsight_plugin.cli.options import open_pipeline, progress, scored

    if scorer == "none":
        return {}
    inputs = [Input(str(folder / path)) for path in paths]
    rows = progress(scored(open_pipeline(scorer), inputs, None), len(inputs))
    scores = zip(paths, (report.score for _, report in rows), strict=True)
    return {path: (s.value, s.uncertainty or 0.0) for path, s in scores if s is not None}


def left_out(path: str, error: str) -> None:
    click.echo(f"Not asked about: {path}: {error}", err=True)


def say_links(raters: Sequence[Rater], asker: Asker, host: str, port: int) -> None:
    for rater in raters:
        asker.outlook(rater.number)  # what is asked first is chosen before anyone waits for it
        done = asker.progress(rater.number)
        place = address() if host in ("0.0.0.0", "::") else host
        link = f"http://{place}:{port}/r/{rater.token}"
        click.echo(f"{rater.name}: {link} ({done.done} of {done.total} answered)")
    click.echo("Ctrl-C stops; answers are kept.")


def address() -> str:
    """This machine's own on its network: that of the way out. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # kept for documentation, RFC 5737
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def serve(app: Any, listener: socket.socket) -> None:
    """Until Ctrl-C, or SIGTERM."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
