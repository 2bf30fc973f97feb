"""A process that scores, and survives what it is shown: the parent's side.

A picture that ends its process, or takes too long, becomes a row with an error; the next one gets a
new process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from qinsight_plugin.batch.settings import Settings
from qinsight_plugin.errors import ScorerError
from qinsight_plugin.gate import judge_report
from qinsight_plugin.records import Report
from qinsight_plugin.report.serialize import Row, to_row
from qinsight_plugin.scorers.student import THREADS_VARIABLE

_TRIES = 2
"""At a picture over which a process died: what killed it need not have been the picture."""


class Worker:
    """A process with a scorer in it; one is started when need be.

    Args:
        settings: how to score.
        timeout: seconds that one picture may take; None: as many as it likes.
        threads: that a scorer on the CPU computes one picture on; None: as many as there are cores.

    Attributes:
        scorer_version: see `ScorerSpec.version`.

    Raises:
        ScorerError: the scorer or a plugin does not load; the message says why.
    """

    def __init__(
        self, settings: Settings, *, timeout: float | None = None, threads: int | None = None
    ) -> None:
        self._settings, self._timeout = settings, timeout
        # No module beside the pictures is to be taken for one of Python's; from Python 3.11 on.
        self._environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        if threads is not None:
            self._environment[THREADS_VARIABLE] = str(threads)
        self._closed = self._timed_out = False
        self._lock = threading.Lock()
        self._process = self._start()
        self.scorer_version: str = self._first_word()

    def rows(self, names: Sequence[str]) -> Iterator[Row]:
        """One row a picture, in order, as `to_row` makes them.

        Raises:
            ScorerError: a plugin failed on what is no picture's fault; or the worker was killed.
        """
        done = deaths = 0
        asked = False
        while done < len(names):
            if not asked:
                self._tell(list(names[done:]))
                asked = True
            row: Row | None = self._hear("row", self._timeout)
            if row is None:
                timed_out = self._timed_out
                ending = self._replace()
                asked = False
                deaths += 1
                if deaths < _TRIES and not timed_out:
                    continue
                row = self._failure(names[done], None if timed_out else ending)
            yield row
            done, deaths = done + 1, 0

    def kill(self) -> None:
        """End the process at once, from any thread; `rows` raises then."""
        with self._lock:
            self._closed = True
            self._process.kill()

    def close(self) -> None:
        """End the process; not while `rows` is at work."""
        self.kill()
        self._reap()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "qinsight_plugin.batch.serving"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
        )
        self._process = process
        self._tell(self._settings.to_dict())
        return process

    def _first_word(self) -> str:
        try:
            version: str | None = self._hear("ready", None)
        except ScorerError:
            self._reap()
            raise
        if version is None:
            ending = self._reap()
            raise ScorerError(f"a process {ending} while it loaded {self._settings.scorer}")
        return version

    def _replace(self) -> str:
        """A new process for one that has ended. Returns how that did."""
        ending = self._reap()
        with self._lock:
            if self._closed:
                raise ScorerError("the worker was closed while it worked")
            self._process = self._start()
        if (version := self._first_word()) != self.scorer_version:
            self.kill()
            raise ScorerError(
                f"scorer {self._settings.scorer} has changed from {self.scorer_version} to "
                f"{version} while it worked: put the old one back, or begin anew"
            )
        return ending

    def _reap(self) -> str:
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # what is left in the buffer, and nobody reads
                pipe.close()  # type: ignore[union-attr]
        return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"

    def _tell(self, message: object) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which `_hear` will notice
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()

    def _hear(self, kind: str, timeout: float | None) -> Any:
        """What the process says next, or None where it has ended."""
        stdout = self._process.stdout
        assert stdout is not None
        self._timed_out = False
        watch = threading.Timer(timeout, self._expire) if timeout else None
        if watch is not None:
            watch.start()
        try:
            line = stdout.readline()
        finally:
            if watch is not None:
                watch.cancel()
        if not line.endswith(b"\n"):
            return None
        said = json.loads(line)
        if "failed" in said:
            raise ScorerError(said["failed"])
        return said[kind]

    def _expire(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _failure(self, name: str, ending: str | None) -> Row:
        """The row of a picture over which the process ended, or took too long (None)."""
        if ending is None:
            message = f"{name} took longer than {self._timeout:g} s: allow more, or look at it"
        else:
            message = (
                f"the process {ending} over {name}, {_TRIES} times, perhaps for want of memory: "
                "score it alone"
            )
        report = Report(
            source=name,
            scorer=self._settings.scorer,
            scorer_version=self.scorer_version,
            error=message,
            error_type=ScorerError.__name__,
        )
        gate = self._settings.gate
        return to_row(report, None if gate is None else judge_report(report, gate))
