"""`qinsight watch`: a stream in, its quality over time and events out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.options import PLOT, scorer_option

if TYPE_CHECKING:
    from qinsight_plugin.watch.alarms import Event
    from qinsight_plugin.watch.watching import Policy, Sample

file = click.Path(dir_okay=False, path_type=Path)
_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN = 40


@click.command("watch")
@click.argument("source")
@scorer_option
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Frames a second to look at.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="CORES",
    help="What scoring may take, 0.3 of a core say; lowers the rate as need be.",
)
@click.option("--policy", "policy_file", type=file, help="A gate's policy file.")
@click.option("--min-score", type=float, help="Lowest score; overrides the policy file.")
@click.option(
    "--for", "lasting", type=float, default=2.0, show_default=True, metavar="SECONDS",
    help="How long quality must be too low, or good again, to be an event.",
)  # fmt: skip
@click.option(
    "--margin", type=float, default=0.2, show_default=True,
    help="How far over the lowest score quality must be to have recovered.",
)  # fmt: skip
@click.option(
    "--fall", type=float, metavar="MOS",
    help="How far under what the stream usually scores is too low, too; for a camera that keeps "
    "its view.",
)  # fmt: skip
@click.option(
    "--smooth", type=click.IntRange(min=1), default=3, show_default=True,
    help="Samples of which the median is judged.",
)  # fmt: skip
@click.option("--freeze", type=float, metavar="SECONDS", help="A picture this still is an event.")
@click.option("--duration", type=float, metavar="SECONDS", help="End after so long.")
@click.option("--realtime", is_flag=True, help="Play a file, as if it were live.")
@click.option("--jsonl", type=click.Path(path_type=Path), metavar="FILE", help="Lines; - for here.")
@click.option("--plot", type=PLOT, metavar="FILE", help="Draw the timeline at the end.")
@click.option(
    "--metrics", type=click.IntRange(0, 65535), metavar="PORT", help="Serve Prometheus metrics."
)
@click.option(
    "--metrics-address", default="127.0.0.1", show_default=True, help="Where to listen for it."
)
def command(source: str, scorer: str, **options: Any) -> int:
    """Watch the quality of a stream and say when it falls and when it is back.

    SOURCE is a video file, a folder that is being filled, a camera's number, or an address
    (rtsp://, http://, ...). A live stream that drops out is opened again until it is back. Ctrl-C
    ends. Exit code 1: quality was too low at the end.

    \b
    Examples:
      qinsight watch clip.mp4 --min-score 3 --plot timeline.png
      qinsight watch rtsp://camera/1 --policy policy.toml --for 5 --metrics 9108 --jsonl log.jsonl
      qinsight watch 0 --budget 0.3
    """
    from qinsight_plugin._imports import require
    from qinsight_plugin.cli.main import EXIT_REJECTED
    from qinsight_plugin.watch.feeds import open_feed
    from qinsight_plugin.watch.metrics import Metrics
    from qinsight_plugin.watch.timeline import Timeline
    from qinsight_plugin.watch.watching import watch

    if options["plot"] is not None:
        require("matplotlib", package="matplotlib", extra="watch", purpose="drawing a timeline")
    policy = make_policy(**options)
    feed = open_feed(source)
    samples = watch(
        feed,
        scorer=scorer,
        rate=options["rate"],
        budget=options["budget"],
        policy=policy,
        realtime=options["realtime"],
        duration=options["duration"],
    )
    timeline, view, last = Timeline(), View(), None
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(opened(options["jsonl"]))
        sinks = [timeline.add, view.show if options["jsonl"] != Path("-") else view.count]
        if lines is not None:
            sinks.append(lambda sample: write(lines, sample))
        if options["metrics"] is not None:
            metrics = Metrics(feed.name, options["metrics"], options["metrics_address"])
            stack.callback(metrics.close)
            sinks.append(metrics.add)
        with contextlib.suppress(KeyboardInterrupt):
            for sample in samples:
                for sink in sinks:
                    sink(sample)
                last = sample
    view.end()
    if options["plot"] is not None:
        timeline.draw(options["plot"], feed.name, policy.gate.min_score)
    return EXIT_REJECTED if last is not None and last.degraded else 0


def make_policy(
    policy_file: Path | None,
    min_score: float | None,
    lasting: float,
    margin: float,
    smooth: int,
    freeze: float | None,
    fall: float | None,
    **_: Any,
) -> Policy:
    from qinsight_plugin.gate import load_policy
    from qinsight_plugin.records import Gate
    from qinsight_plugin.watch.watching import Policy

    gate = Gate() if policy_file is None else load_policy(policy_file)
    if min_score is not None:
        gate = dataclasses.replace(gate, min_score=min_score)
    return Policy(gate, lasting, margin, smooth, freeze, fall)


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
    elif path == Path("-"):
        yield sys.stdout
    else:
        with path.open("a", encoding="utf-8") as lines:
            yield lines


def write(lines: IO[str], sample: Sample) -> None:
    """A line a sample and one an event, each whole when it is there."""
    for event in sample.events:
        lines.write(json.dumps({"event": event.kind, **described(event)}) + "\n")
    if sample.report is not None:
        score = sample.report.score
        row = {
            "seconds": round(sample.seconds, 3),
            "score": None if score is None else round(score.value, 3),
            "smoothed": None if sample.smoothed is None else round(sample.smoothed, 3),
            "degraded": sample.degraded,
            "skipped": sample.skipped,
            "dropped": sample.dropped,
            "source": sample.report.source,
        }
        if sample.report.error is not None:
            row["error"] = sample.report.error
        lines.write(json.dumps(row) + "\n")
    lines.flush()


def described(event: Event) -> dict[str, Any]:
    return {
        "seconds": round(event.seconds, 3),
        "since": round(event.since, 3),
        "detail": event.detail,
    }


class View:
    """Events as lines; on a terminal, under them a line that is drawn anew with each sample."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._recent: list[float] = []
        self._scored = self._dropped = 0

    def count(self, sample: Sample) -> None:
        self._dropped += sample.dropped
        self._scored += sample.report is not None

    def show(self, sample: Sample) -> None:
        self.count(sample)
        for event in sample.events:
            self._clear()
            click.echo(f"{event.seconds:9.2f} s  {event.kind:<10} {event.detail}".rstrip())
        if not self._live or sample.smoothed is None or sample.report is None:
            return
        self._recent = [*self._recent, sample.smoothed][-_SHOWN:]
        line = "".join(_BLOCKS[min(7, max(0, int(2 * (v - 1))))] for v in self._recent)
        state = "DEGRADED" if sample.degraded else "ok"
        self._clear()
        click.echo(
            f"{sample.seconds:9.2f} s  {sample.smoothed:.2f} {line:<{_SHOWN}} {state}, "
            f"{self._dropped} dropped",
            nl=False,
        )

    def end(self) -> None:
        self._clear()
        click.echo(f"{self._scored} frames looked at, {self._dropped} dropped", err=True)

    def _clear(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False)
