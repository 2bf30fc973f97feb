"""Options that several commands share, and the joining of inputs, pipeline and output."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qinsight_plugin.cli.inputs import Input

if TYPE_CHECKING:
    from qinsight_plugin.pipeline import Pipeline
    from qinsight_plugin.records import Report
    from qinsight_plugin.report import ReportWriter

T = TypeVar("T")


class FileToWrite(click.Path):
    """What a command writes at its end: that it cannot is better known before the work.

    Args:
        suffixes: that the name may end in; none: any.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from qinsight_plugin.errors import ConfigError

        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        if self.suffixes and path.suffix.lower() not in self.suffixes:
            self.fail(f"{path} must end in {' or '.join(self.suffixes)}", param, ctx)
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            option = f"{param.opts[-1]}: " if param else ""
            raise ConfigError(
                f"{option}{path.parent} is not a folder that can be written to; make it first"
            )
        return path


PLOT = FileToWrite(".png", ".svg")

scorer_option = click.option(
    "--scorer",
    default="student",
    show_default=True,
    metavar="NAME[:ARG]",
    help="Who scores; `qinsight plugins` lists the names.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Pictures worked on at once.  [default: number of cores]",
)
paths_argument = click.argument("paths", nargs=-1, required=True, metavar="PATH...")


def numbers(text: str, option: str) -> list[float]:
    """What an option lists, separated by commas."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise click.UsageError(f"{option} {text} is not a list of numbers.")
    return found


def format_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--json, --jsonl, --csv, --explain; a table when none is given."""
    for name, help_text in (
        ("explain", "A paragraph a picture: the reasons, where the scorer gives any."),
        ("csv", "CSV with a header."),
        ("jsonl", "One JSON object a line, as soon as it is known."),
        ("json", "A JSON list."),
    ):
        command = click.option(f"--{name}", "output", flag_value=name, help=help_text)(command)
    return command


def make_writer(output: str | None) -> ReportWriter:
    from qinsight_plugin import report

    writers: dict[str | None, type[ReportWriter]] = {
        None: report.TableWriter,
        "json": report.JsonWriter,
        "jsonl": report.JsonlWriter,
        "csv": report.CsvWriter,
        "explain": report.ReasonsWriter,
    }
    return writers[output](sys.stdout)


def open_pipeline(scorer: str) -> Pipeline:
    """The pipeline; plugins that did not load are named on standard error."""
    from qinsight_plugin.pipeline import Pipeline

    pipeline = Pipeline(scorer)
    for plugin in pipeline.host.skipped:
        if plugin.error:
            click.echo(f"Skipped plugin {plugin.name} ({plugin.origin}): {plugin.error}", err=True)
    return pipeline


def scored(
    pipeline: Pipeline,
    inputs: Sequence[Input],
    workers: int | None,
    reference: str | None = None,
) -> Iterator[tuple[Input, Report]]:
    """Each input with its report, in order.

    Raises:
        ImageError: the reference cannot be used.
    """
    from qinsight_plugin.parallel import in_order

    against = None if reference is None else pipeline.reference(reference)

    def work(item: Input) -> tuple[Input, Report]:
        if item.error is not None:
            return item, pipeline.failure(item.path, item.error)
        return item, pipeline.report_or_error(item.source, against)

    return in_order(work, inputs, workers)


def progress(items: Iterable[T], total: int, label: str = "Scoring") -> Iterator[T]:
    """The items, and where standard error is a terminal a progress bar under the rows."""
    if not sys.stderr.isatty() or total < 2:
        yield from items
        return
    with click.progressbar(items, length=total, file=sys.stderr, label=label) as bar:
        for item in bar:
            # The row that is written now takes the bar's line; the bar is drawn again under it.
            click.echo("\r\x1b[K", nl=False, err=True)
            yield item
