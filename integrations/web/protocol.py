"""uvicorn's HTTP, for clients who may mean harm: heads that never end, or are never sent."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
HEAD_BYTES = 32 * 1024
CHUNKED_OVERHEAD = 2
"""How many bytes a body may take on the wire for each of its own; the application counts those."""


def guarded(max_request: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which closes a connection whose head does not arrive within
    `HEAD_SECONDS` or has more than `HEAD_BYTES`, or whose request has far more than `max_request`
    bytes: neither uvicorn nor its parser limits those.
    """
    most = HEAD_BYTES + CHUNKED_OVERHEAD * max_request

    class Guarded(HttpToolsProtocol):
        _clock: asyncio.TimerHandle | None = None
        _in_head = True
        _bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start_clock()

        def data_received(self, data: bytes) -> None:
            self._bytes += len(data)
            if self._clock is None and self._in_head:
                self._start_clock()
            super().data_received(data)
            # Only now, for one piece may hold a head and much of its body.
            if self._bytes > (HEAD_BYTES if self._in_head else most):
                self.transport.close()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_clock()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head, self._bytes = True, 0
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def _start_clock(self) -> None:
            self._clock = self.loop.call_later(HEAD_SECONDS, self._give_up)

        def _stop_clock(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

        def _give_up(self) -> None:
            self._clock = None
            if not self.transport.is_closing():
                self.transport.close()

    return Guarded
