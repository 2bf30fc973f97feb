"""Reports as paragraphs: the score in words, and the model's reasons where it gives any."""

from __future__ import annotations

import shutil
import textwrap
from typing import TextIO

from qinsight_plugin.explain import explain
from qinsight_plugin.records import Cost, Report, Verdict
from qinsight_plugin.report.table import printable, what_is_wrong
from qinsight_plugin.report.writers import ReportWriter

_INDENT = "  "


class ReasonsWriter(ReportWriter):
    """A paragraph a report: source, score and what is wrong, then what the model thought, what an
    uploader can be told, what was decided about the picture, and what it cost.

    Args:
        stream: see `ReportWriter`.
        width: columns of the terminal; asked of the system when None.
    """

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        self._width = width
        super().__init__(stream)

    def _row(self, report: Report, verdict: Verdict | None) -> str:
        score = report.score
        plain = score if verdict is None else None
        found = what_is_wrong(report, verdict) if plain is None else explain(plain)
        said = [printable(f"{report.source}: {found}")]
        if score is not None and score.reasoning is not None:
            said.append(wrapped(score.reasoning, self._width))
        if verdict is not None and verdict.sentence:
            said.append(wrapped(f'To the uploader: "{verdict.sentence}"', self._width))
        said += [wrapped(note, self._width) for note in report.notes]
        if score is not None and score.cost is not None:
            said.append(wrapped(in_words(score.cost), self._width))
        return "\n".join(said) + "\n"


def wrapped(text: str, width: int | None = None) -> str:
    """Indented paragraphs as wide as the terminal; unprintable characters escaped."""
    columns = shutil.get_terminal_size().columns if width is None else width
    return "\n".join(
        textwrap.fill(printable(line), columns, initial_indent=_INDENT, subsequent_indent=_INDENT)
        for line in text.splitlines()
        if line.strip()
    )


def in_words(cost: Cost) -> str:
    replies = "1 reply" if cost.replies == 1 else f"{cost.replies} replies"
    unreadable = f", {cost.unreadable} unreadable" if cost.unreadable else ""
    return (
        f"({replies}{unreadable}, {cost.prompt_tokens} tokens read, {cost.completion_tokens} "
        f"written, {cost.seconds:.1f} s)"
    )
