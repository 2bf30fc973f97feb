"""What goes wrong, as RFC 9457 tells it: application/problem+json, one line of detail."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

from qinsight_plugin.errors import (
    BusyError,
    ConfigError,
    FetchError,
    ImageError,
    QInsightError,
    ReferenceMissingError,
)

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer other than the one that was asked for."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers, MEDIA_TYPE)

    def body(self) -> dict[str, Any]:
        title = HTTPStatus(self.status).phrase
        return {"title": title, "status": self.status, "detail": self.detail}


def problem_of(error: QInsightError) -> Problem:
    """What a client is told of an error that concerns the request as a whole."""
    if isinstance(error, BusyError):
        return Problem(429, str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, (ImageError, FetchError)):
        return Problem(422, str(error))
    if isinstance(error, (ConfigError, ReferenceMissingError)):
        return Problem(400, str(error))
    return Problem(500, str(error))


def too_large(limit: int) -> Problem:
    # The rest of the body is not read, so that the connection is of no more use.
    return Problem(
        413, f"the request is larger than {limit} bytes: send less", {"Connection": "close"}
    )
