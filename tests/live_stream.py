"""A live stream on loopback: MPEG-TS over HTTP, made by PyAV, with all that streams do wrong."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple

import av
import numpy as np

from .conftest import Pixels

FPS = 25


class Play(NamedTuple):
    """So many seconds of encoded footage, sent as fast as it is to be seen."""

    data: bytes
    seconds: float


class Fault(NamedTuple):
    """A "silence": the connection stays and nothing comes; "drop": it breaks, and for so long
    nobody answers."""

    kind: Literal["silence", "drop"]
    seconds: float


def footage(photograph: Pixels, width: int, height: int) -> Callable[[int], Pixels]:
    """A camera that sways over a photograph larger than its picture: frame number -> pixels."""
    room_y, room_x = photograph.shape[0] - height, photograph.shape[1] - width

    def frame(number: int) -> Pixels:
        left = round(room_x * (0.5 + 0.5 * np.sin(number / 40)))
        top = round(room_y * (0.5 + 0.5 * np.cos(number / 47)))
        return photograph[top : top + height, left : left + width]

    return frame


def encoded(
    frames: Iterable[Pixels], container: str = "mpegts", crf: int = 18, first: int = 0
) -> bytes:
    """H.264, a key frame twice a second; the clock begins at frame number `first`."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = None
        for number, pixels in enumerate(frames, first):
            if stream is None:
                stream = output.add_stream("libx264", rate=FPS)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"preset": "ultrafast", "crf": str(crf), "g": str(FPS // 2)}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        assert stream is not None
        output.mux(stream.encode())
    return buffer.getvalue()


class LiveServer:
    """Plays a script once, to whoever connects; a client that comes back goes on where it is."""

    def __init__(self, script: Iterable[Play | Fault]) -> None:
        self._script: Iterator[Play | Fault] = iter(script)
        self._down_until = 0.0
        self.connections = 0
        self.stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.serve(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/live.ts"

    def __enter__(self) -> LiveServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        if time.monotonic() < self._down_until:
            request.send_error(503)
            return
        self.connections += 1
        request.send_response(200)
        request.send_header("Content-Type", "video/mp2t")
        request.end_headers()
        for action in self._script:
            if isinstance(action, Fault):
                if action.kind == "drop":
                    self._down_until = time.monotonic() + action.seconds
                    return
                self.stop.wait(action.seconds)
            elif not self._play(request, action):
                return
        self._down_until = float("inf")

    def _play(self, request: BaseHTTPRequestHandler, action: Play) -> bool:
        """In pieces; False when the client or the test has gone."""
        pieces = max(1, round(action.seconds * FPS))
        size = -(-len(action.data) // pieces)
        began = time.monotonic()
        for number in range(pieces):
            late = began + number / FPS - time.monotonic()
            if self.stop.wait(max(0.0, late)):
                return False
            try:
                request.wfile.write(action.data[number * size : (number + 1) * size])
                request.wfile.flush()
            except OSError:
                return False
        return True
