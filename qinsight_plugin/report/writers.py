"""Reports as JSON, JSON Lines or CSV, written one by one as they come."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO, TypeVar

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Report, Verdict
from qinsight_plugin.report.serialize import REPORT_KEYS, VERDICT_KEYS, to_row

CSV_COLUMNS = (*REPORT_KEYS, *VERDICT_KEYS)
"""The columns of every CSV report, gated or not, so that such files can be joined."""

# What makes Excel, LibreOffice or Sheets evaluate a cell (CWE-1236); full-width forms included.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", *"\uff1d\uff0b\uff0d\uff20")

_W = TypeVar("_W", bound="ReportWriter")


class ReportWriter(ABC):
    """Writes reports to a text stream; whatever has been written can be read at once.

    Closing the writer, which leaving its `with` block does, ends the document. The stream stays
    open: it is the caller's. Characters that the stream's encoding lacks, lone surrogates of
    undecodable file names among them, are written as backslash escapes.

    Args:
        stream: the beginning of the document, if it has one, is written to it straight away.

    Raises:
        OSError: the stream failed; also from `write` and `close`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._closed = False
        self._emit(self._head())

    def write(self, report: Report, verdict: Verdict | None = None) -> None:
        """Add one report.

        Raises:
            ConfigError: the writer is closed, or JSON cannot hold the report.
        """
        if self._closed:
            raise ConfigError(f"the report of {report.source!r} came after its document was closed")
        self._emit(self._row(report, verdict))

    def close(self) -> None:
        """End the document. Closing again changes nothing."""
        if not self._closed:
            self._closed = True
            self._emit(self._tail())

    def __enter__(self: _W) -> _W:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _head(self) -> str:
        return ""

    @abstractmethod
    def _row(self, report: Report, verdict: Verdict | None) -> str: ...

    def _tail(self) -> str:
        return ""

    def _emit(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._stream.flush()


class JsonlWriter(ReportWriter):
    """JSON Lines: one object a line, in ASCII."""

    def _row(self, report: Report, verdict: Verdict | None) -> str:
        return json.dumps(to_row(report, verdict)) + "\n"


class JsonWriter(ReportWriter):
    """A JSON list, in ASCII, with one report a line. Closed after a failure it is still valid."""

    _separator = "\n"

    def _head(self) -> str:
        return "["

    def _row(self, report: Report, verdict: Verdict | None) -> str:
        text = self._separator + json.dumps(to_row(report, verdict))
        self._separator = ",\n"
        return text

    def _tail(self) -> str:
        return "\n]\n"


class CsvWriter(ReportWriter):
    """A header and a row a report, in the columns of `CSV_COLUMNS`.

    Lists are joined by "; ", blocks are JSON, and a value that is not known is empty, as is a list
    without items: JSON tells the two apart. Numbers are bare and exact; all else is quoted, which
    keeps a semicolon or a carriage return in a file name from starting a cell or a row.

    A file name such as `=1+1.jpg` would be evaluated by a spreadsheet, quoted or not. It is written
    as `./=1+1.jpg`: text to a spreadsheet, and still the same file to a script, as an apostrophe
    in front, the usual cure, would not leave it. Prose does get the apostrophe.
    """

    def _head(self) -> str:
        return _csv_line(CSV_COLUMNS)

    def _row(self, report: Report, verdict: Verdict | None) -> str:
        row = to_row(report, verdict)
        return _csv_line(_cell(column, row.get(column)) for column in CSV_COLUMNS)


def _csv_line(cells: Iterable[float | str | None]) -> str:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _cell(column: str, value: Any) -> float | str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, (int, float)):
        return value
    text = _text(value)
    if text.startswith(_FORMULA_STARTS):
        return ("./" if column == "source" else "'") + text
    return text


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return json.dumps(value)
    return "; ".join(
        f"{item['severity']} {item['name']}" if isinstance(item, dict) else str(item)
        for item in value
    )
