"""Reports as aligned text for a terminal."""

from __future__ import annotations

import shutil
import unicodedata
from itertools import accumulate
from typing import TextIO

from qinsight_plugin.explain import findings
from qinsight_plugin.records import Report, Verdict
from qinsight_plugin.report.writers import ReportWriter

_ELLIPSIS = "..."
_LEAST_SOURCE_WIDTH = 16


class TableWriter(ReportWriter):
    """A line a report: source, score and its uncertainty with two decimals, and what is wrong.

    With a verdict, what is wrong is the verdict and its reasons; else the error, or what was found
    wrong with the picture and where. That column comes last and is never cut. Sources are shortened
    in the middle to half of the width. Unprintable characters, such as escape sequences and marks
    that turn the direction of writing, are shown escaped, so that a file's name cannot act on the
    terminal.

    Args:
        stream: see `ReportWriter`.
        width: columns of the terminal; asked of the system when None.
    """

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        columns = shutil.get_terminal_size().columns if width is None else width
        self._source_width = max(_LEAST_SOURCE_WIDTH, columns // 2)
        super().__init__(stream)

    def _head(self) -> str:
        return self._line("source", "score", "±", "what is wrong")

    def _row(self, report: Report, verdict: Verdict | None) -> str:
        score = "-" if report.score is None else f"{report.score.value:.2f}"
        spread = None if report.score is None else report.score.uncertainty
        uncertainty = "" if spread is None else f"{spread:.2f}"
        return self._line(report.source, score, uncertainty, what_is_wrong(report, verdict))

    def _line(self, source: str, score: str, uncertainty: str, wrong: str) -> str:
        shown = shorten(printable(source), self._source_width)
        padding = " " * (self._source_width - text_width(shown))
        return f"{shown}{padding}  {score:>7} {uncertainty:>5}  {printable(wrong)}".rstrip() + "\n"


def printable(text: str) -> str:
    """The text with every unprintable character escaped as in a Python string."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shorten(text: str, width: int) -> str:
    """The text, or its beginning and end around an ellipsis, in at most `width` columns."""
    if text_width(text) <= width:
        return text
    room = width - len(_ELLIPSIS)
    head = _beginning(text, room // 2)
    tail = _beginning(text[::-1], room - text_width(head))[::-1]
    return head + _ELLIPSIS + tail


def text_width(text: str) -> int:
    """Terminal columns that printable text takes: 2 a wide character, 0 a combining mark."""
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def _beginning(text: str, width: int) -> str:
    return text[: sum(columns <= width for columns in accumulate(map(_char_width, text)))]


def what_is_wrong(report: Report, verdict: Verdict | None) -> str:
    """The last column of `TableWriter`."""
    if verdict is not None:
        decision = "accepted" if verdict.accepted else "rejected"
        return ": ".join(filter(None, (decision, "; ".join(verdict.reasons))))
    if report.error is not None:
        return report.error
    return "" if report.score is None else findings(report.score)
