"""A line in the log, and a number in the books, of every request; and no traceback to anyone."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .logs import logger, say
from .metrics import Metrics
from .problems import Problem
from .service import Told

HUNG_UP = 499
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Watching:
    """ASGI middleware. It looks at heads only, and leaves bodies alone."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        offered = dict(scope["headers"]).get(b"x-request-id", b"")
        identity = offered if _ID.fullmatch(offered) else uuid4().hex.encode()
        told = scope["qinsight"] = Told()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_SAFE, (b"x-request-id", identity)]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = HUNG_UP
        except Exception:
            logger.exception("failed", extra={"fields": {"id": identity.decode()}})
            if not status:
                problem = Problem(500, "this server made a mistake; its log tells more")
                await problem.response()(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - begin
            self._metrics.answered(route_of(scope), status, seconds)
            self._log(scope, identity, status, seconds, told)

    def _log(self, scope: Scope, identity: bytes, status: int, seconds: float, told: Told) -> None:
        counts: dict[str, Any] = {name: n for name, n in asdict(told).items() if n}
        say(
            "request",
            level=logging.WARNING if status >= 500 else logging.INFO,
            id=identity.decode(),
            client=(scope.get("client") or ("",))[0],
            method=scope["method"],
            route=route_of(scope),
            status=status,
            seconds=round(seconds, 4),
            **counts,
        )


def route_of(scope: Scope) -> str:
    """The route, and not the path: that is whatever a stranger writes."""
    return getattr(scope.get("route"), "path", "none")
