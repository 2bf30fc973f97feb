"""Logs as JSON lines. No line holds anything of a picture, its name, or where it came from."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TextIO

LOGGER = "qinsight.serve"
logger = logging.getLogger(LOGGER)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class LossyHandler(logging.StreamHandler):  # type: ignore[type-arg] # none on Python 3.10
    """Counts what it cannot write, and goes on: a full disk must not stop a server."""

    def __init__(self, stream: TextIO, lost: Callable[[], None]) -> None:
        super().__init__(stream)
        self._lost = lost
        self.setFormatter(JsonLines())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        self._lost()


def write_logs(lost: Callable[[], None]) -> None:
    """Send this server's log, and everybody's warnings, to standard error."""
    root = logging.getLogger()
    root.handlers = [LossyHandler(sys.stderr, lost)]
    root.setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)
    # It warns of each body that is not well formed, and quotes from it.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def say(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    logger.log(level, event, extra={"fields": fields})
