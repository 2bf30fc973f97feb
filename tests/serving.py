"""A real `qinsight serve` in a process of its own, and clients for it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import skimage.data
from PIL import Image

START_SECONDS = 120.0
BOUNDARY = b"----------------------------qinsight"


@dataclass
class Server:
    """
    Attributes:
        process: the server's.
        port: on 127.0.0.1.
        log: what it has logged so far.
    """

    process: subprocess.Popen[bytes]
    port: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def decoders(self) -> list[int]:
        """The process ids of its decoding processes."""
        found: list[int] = []
        for path in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):  # a thread that has just ended
                found += map(int, path.read_text().split())
        return [pid for pid in found if b"decoding_process" in command_line(pid)]

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        found = [line.rsplit(" ", 1) for line in lines if re.match(rf"{name}[ {{]", line)]
        return sum(float(value) for _, value in found)

    def cpu(self) -> float:
        """Seconds of CPU time that it and its decoding processes have taken."""
        return sum(map(cpu_seconds, [self.process.pid, *self.decoders()]))

    def memory(self) -> int:
        """Resident bytes of the server and its decoding processes."""
        return sum(map(resident, [self.process.pid, *self.decoders()]))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("event") == name]

    def request(self, identity: str) -> dict[str, Any]:
        """What it logged of one request, which it does after its answer's last byte."""

        def logged() -> list[dict[str, Any]]:
            return [line for line in self.events("request") if line["id"] == identity]

        until(logged)
        (line,) = logged()
        return line


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def resident(pid: int) -> int:
    with suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


def cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextmanager
def serving(
    *arguments: str | Path,
    env: dict[str, str] | None = None,
    stderr: IO[bytes] | None = None,
    port: int = 0,
    cwd: Path | None = None,
) -> Iterator[Server]:
    """A server that listens; it is stopped at the end by SIGTERM and must end well.

    Args:
        stderr: where its log goes instead; `port` must be told then.
    """
    options = ("--port", str(port), *map(str, arguments))
    process = subprocess.Popen(
        [sys.executable, "-m", "qinsight_plugin", "serve", *options],
        stderr=stderr or subprocess.PIPE,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )
    server = Server(process, port)
    reader = None
    try:
        if process.stderr is not None:
            server.port = _started(server, process.stderr)
            reader = threading.Thread(target=_read, args=(server, process.stderr), daemon=True)
            reader.start()
        yield server
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        if reader is not None:
            reader.join()
        if process.stderr is not None:
            process.stderr.close()


def _started(server: Server, lines: IO[bytes]) -> int:
    clock = threading.Timer(START_SECONDS, server.process.kill)
    clock.start()
    try:
        for line in lines:
            with suppress(ValueError):
                server.log.append(json.loads(line))
                if server.log[-1]["event"] == "listening":
                    return int(server.log[-1]["url"].rpartition(":")[2])
            if not line.startswith(b"{"):
                raise AssertionError(line.decode())
    finally:
        clock.cancel()
    raise AssertionError("the server did not start")


def _read(server: Server, lines: IO[bytes]) -> None:
    for line in lines:
        try:
            server.log.append(json.loads(line))
        except ValueError:  # whatever a dying process says
            server.log.append({"event": "noise", "text": line.decode(errors="replace")})


def jpegs(count: int, side: int = 512, quality: int = 90) -> list[bytes]:
    """Different crops of photographs, as files."""
    photographs = (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())
    files = []
    for number in range(count):
        pixels = np.roll(photographs[number % 3], 11 * number, axis=1)
        picture = Image.fromarray(pixels).resize((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def multipart(*files: tuple[str, str, bytes]) -> bytes:
    """A body of (field, file name, bytes)."""
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n'
        % (BOUNDARY, name.encode(), filename.encode(), data)
        for name, filename, data in files
    ]
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY


MULTIPART = f"multipart/form-data; boundary={BOUNDARY.decode()}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection, as cheap for the machine as asyncio allows, lest it take what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, kind: str = "image/jpeg") -> Answer:
        """
        Raises:
            OSError, EOFError: there was no answer.
        """
        if self._streams is None or self._streams[0].at_eof():  # closed for idleness
            await self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + body)
            return await read_answer(reader)
        except (OSError, EOFError):
            await self.close()
            raise

    async def close(self) -> None:
        if self._streams is not None:
            await hang_up(self._streams[1])
            self._streams = None


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close, and wait until that is done."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def post(port: int, path: str, body: bytes, kind: str = "image/jpeg") -> Answer:
    """One request over a connection of its own."""

    async def once() -> Answer:
        client = Client(port)
        try:
            return await client.post(path, body, kind)
        finally:
            await client.close()

    return asyncio.run(once())


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split()[1]), headers, body)
