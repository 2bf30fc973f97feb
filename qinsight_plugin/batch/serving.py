"""A process that scores: the child's side of a `Worker`; run as a module.

It reads lines of JSON: the settings, then lists of names. It answers with {"ready": version}, then
{"row": ...} for each name, or {"failed": message} and ends. When its parent ends, so does it.
Observers of `qinsight_report_ready` are told again of what is done again after a kill.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import IO

from qinsight_plugin.batch.remote import fetch, is_url
from qinsight_plugin.batch.settings import Settings
from qinsight_plugin.errors import ImageError, ImageUnreadableError, QInsightError
from qinsight_plugin.parallel import in_order
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.records import Report
from qinsight_plugin.report.serialize import Row, to_row
from qinsight_plugin.suffixes import is_pipe

READERS = 8
"""Files fetched at once from behind URLs, while others are scored."""


def serve(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    def say(kind: str, what: object) -> None:
        stdout.write(json.dumps({kind: what}).encode() + b"\n")
        stdout.flush()

    try:
        settings = Settings.from_dict(json.loads(stdin.readline()))
        pipeline = Pipeline(settings.scorer)
        if settings.gate is not None:
            pipeline.require_judgeable()
        say("ready", pipeline.scorer.spec.version)
        for line in stdin:
            for row in rows(pipeline, settings, json.loads(line)):
                say("row", row)
    except QInsightError as error:
        say("failed", str(error))
    except BrokenPipeError:
        sys.exit("the parent of this process has ended")


def rows(pipeline: Pipeline, settings: Settings, names: Iterable[str]) -> Iterator[Row]:
    for name, data in in_order(lambda name: (name, contents(name)), names, READERS):
        report = report_of(pipeline, name, data)
        verdict = None if settings.gate is None else pipeline.judge(report, settings.gate)
        pipeline.ready(report, verdict)
        yield to_row(report, verdict)


def contents(name: str) -> str | bytes | ImageError:
    """What to decode: the name itself of a file that lies here."""
    if is_url(name):
        return fetch(name)
    return ImageUnreadableError(f"{name} is a pipe, not a file") if is_pipe(name) else name


def report_of(pipeline: Pipeline, name: str, data: str | bytes | ImageError) -> Report:
    if isinstance(data, ImageError):
        return pipeline.failure(name, data)
    return dataclasses.replace(pipeline.report_or_error(data), source=name)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and decides
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    serve(sys.stdin.buffer, said)


if __name__ == "__main__":
    main()
