"""A server among enemies: `python -m tests.abuse FOLDER`, a folder of broken pictures.

Sends every file in it, then requests that no honest client would send, and prints what became of
them; ends with an error if the server ends, tells a traceback, takes more memory the second time
than the first, or leaves a file anywhere it could.
"""

from __future__ import annotations

import asyncio
import random
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .serving import (
    BOUNDARY,
    MULTIPART,
    Answer,
    Client,
    Server,
    hang_up,
    jpegs,
    multipart,
    post,
    read_answer,
    serving,
)

AT_ONCE = 8
SILENCE = 15.0
"""Seconds after which a connection that got no answer is given up."""


@dataclass
class Findings:
    """
    Attributes:
        statuses: of the answers; 0: the connection was closed without one.
        leaks: answers that tell of the inside.
        memory: resident bytes, now and then.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    leaks: list[bytes] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def add(self, answer: Answer | None) -> None:
        self.statuses[answer.status if answer else 0] += 1
        if answer is None:
            return
        if any(word in answer.body for word in (b"Traceback", b'File "', b"site-packages")):
            self.leaks.append(answer.body)
        if answer.status in (200, 422) and b'"results"' in answer.body:
            self.kinds.update(r["error_type"] or "scored" for r in answer.json()["results"])

    def __str__(self) -> str:
        used = [round(size / 2**20) for size in self.memory]
        return (
            f"statuses {dict(sorted(self.statuses.items()))}, results {dict(self.kinds)}, "
            f"{len(self.leaks)} tracebacks told, memory {used[0]} MiB at first, {max(used)} at "
            f"most, {used[-1]} at last"
        )


async def send_pictures(server: Server, files: list[bytes]) -> Findings:
    """Each as the body of a request."""
    found, waiting = Findings(), iter(files)

    async def sender() -> None:
        client = Client(server.port)
        for data in waiting:
            answer = None
            with suppress(OSError, EOFError):
                answer = await client.post("/v1/score", data, "application/octet-stream")
            found.add(answer)
        await client.close()

    async def watch() -> None:
        while True:
            found.memory.append(server.memory())
            await asyncio.sleep(1)

    watching = asyncio.ensure_future(watch())
    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    watching.cancel()
    found.memory.append(server.memory())
    return found


async def send_raw(server: Server, requests: list[bytes]) -> Findings:
    """Each over a connection of its own, to the letter."""
    found, waiting = Findings(), iter(requests)
    found.memory.append(server.memory())

    async def sender() -> None:
        for data in waiting:
            found.add(await exchange(server.port, data))
            found.memory.append(server.memory())

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    return found


async def exchange(port: int, data: bytes, silence: float = SILENCE) -> Answer | None:
    """What a server answers to these bytes; None when it closes instead."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(read_answer(reader), silence)
    except (OSError, EOFError, ValueError, asyncio.TimeoutError, asyncio.LimitOverrunError):
        return None
    finally:
        await hang_up(writer)


def request(body: bytes, kind: str = MULTIPART, path: str = "/v1/gate", length: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode("latin-1") + body


def crafted(count: int, seed: int = 0) -> list[bytes]:
    """Requests that no honest client would send."""
    draw = random.Random(seed)
    photo = jpegs(1, 128)[0]
    makers = (_heads, _bodies, _multiparts, _pictures)
    made: list[bytes] = []
    while len(made) < count:
        for maker in makers:
            made += maker(draw, photo)
    return made[:count]


def _heads(draw: random.Random, photo: bytes) -> Iterator[bytes]:
    junk = draw.randbytes(draw.randrange(1, 200))
    yield junk
    yield b"POST /v1/score HTTP/9.9\r\n\r\n"
    yield b"GET /%00/..%2f..%2fetc/passwd HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"GET /" + b"a" * draw.choice((100, 100_000)) + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"GET / HTTP/1.1\r\nX: " + b"a" * draw.choice((1_000, 200_000)) + b"\r\n\r\n"
    yield b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(5_000)) + b"\r\n"
    yield request(photo, "image/jpeg", length="-1")
    yield request(photo, "image/jpeg", length="99999999999999999999")
    yield request(photo, "image/jpeg", length=f"{len(photo)}\r\nContent-Length: 3")
    yield request(photo, "image/jpeg", length="5\r\nTransfer-Encoding: chunked")
    yield request(
        photo, "image/jpeg", "/v1/gate?min_score=" + draw.choice(("nan", "1e999", "x", ""))
    )
    yield request(photo, "image/jpeg", "/v1/score?map=%ff&map=" + "a" * 50)
    yield request(photo, draw.choice(("text/html", "a" * 5000, "image/", "multipart/mixed", "")))


def _bodies(draw: random.Random, photo: bytes) -> Iterator[bytes]:
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield head + b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n"
    yield head + b"zz\r\n"
    yield head + b"5;" + b"x" * 20_000 + b"\r\nabcde\r\n0\r\n\r\n"
    yield head + b"1\r\na\r\n" * draw.randrange(1, 3_000) + b"0\r\n" + b"T: 1\r\n" * 2_000 + b"\r\n"
    yield request(b"[" * draw.choice((10, 100_000)), "application/json")
    yield request(b'{"image": "file:///etc/passwd"}', "application/json")
    yield request(b'{"image": ' + b"9" * 10_000 + b"}", "application/json")
    yield request(draw.randbytes(2_000), "application/json")
    yield request(photo[: draw.randrange(len(photo))], "image/jpeg")
    yield request(b"", "image/jpeg")


def _multiparts(draw: random.Random, photo: bytes) -> Iterator[bytes]:
    part = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="image"'
    names = ("../../etc/cron.d/x", "..\\..\\x", "/tmp/x", "\x00", "a" * 5000, "<script>", "\u202e")
    yield request(multipart(("image", draw.choice(names), photo)))
    yield request(multipart(*[("image", "a", b"")] * draw.choice((17, 3_000))))
    yield request(multipart((draw.choice(("x", "", "image\x00", "reference")), "a", photo)))
    yield request(part)
    yield request(part + b'; filename="a"\r\n' + b"X: y\r\n" * 3_000 + b"\r\nabc")
    yield request(part + b"\r\n\r\n" + b"a" * 100_000 + b"\r\n--" + BOUNDARY + b"--\r\n")
    yield request(part + b"; filename*=UTF-8''%ff%fe\r\n\r\nabc\r\n--" + BOUNDARY + b"--\r\n")
    yield request(multipart(("image", "a", photo)), "multipart/form-data")
    yield request(multipart(("image", "a", photo)), "multipart/form-data; boundary=" + "b" * 3000)
    yield request(multipart(("image", "a", photo)).replace(b"\r\n", b"\n"))
    yield request(multipart(("a", "a", photo)), path="/v1/compare")
    yield request(draw.randbytes(3_000))


def _pictures(draw: random.Random, photo: bytes) -> Iterator[bytes]:
    broken = bytearray(photo)
    for _ in range(draw.randrange(1, 20)):
        broken[draw.randrange(len(broken))] = draw.randrange(256)
    yield request(bytes(broken), "image/jpeg")
    side = draw.choice((1, 31, 7_000, 40_000, 2**31 - 1))
    yield request(png(side, side), "image/png")
    yield request(png(side, 1), "image/png")
    yield request(png(6_000, 6_000, rows=draw.choice((0, 10, 6_000))), "image/png")
    yield request(b"GIF89a" + struct.pack("<HH", 65535, 65535) + draw.randbytes(50), "image/gif")
    yield request(b"P6 99999 99999 255\n" + draw.randbytes(50), "image/x-portable-pixmap")
    yield request(b"II*\0" + draw.randbytes(500), "image/tiff")


def png(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG whose head promises so much, and whose data holds so many rows of it, all black."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    pack = zlib.compressobj(1)
    row = bytes(1 + 3 * min(width, 10_000))
    data = b"".join(pack.compress(row) for _ in range(rows)) + pack.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def written(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


def require(condition: object, what: str) -> None:
    if not condition:
        raise SystemExit(f"FAILED: {what}")


def told(name: str, server: Server, found: Findings, count: int) -> None:
    """Print what was found, and check it."""
    print(f"{count} {name}: {found}", flush=True)
    require(server.process.poll() is None, "the server ended")
    require(sum(found.statuses.values()) == count, "a request was forgotten")
    require(not found.leaks, f"an answer tells a traceback: {found.leaks[:1]}")
    failures = server.events("failed")
    require(not failures, f"an error that nobody foresaw: {failures[:1]}")


def attack(files: list[bytes], requests: list[bytes], turns: int = 2) -> None:
    """Send all that, several times, and check."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), name)
        options = ("--min-score", "1", "--decode-seconds", "5", "--body-seconds", "5")
        with serving(*options, env=places, cwd=folder) as server:
            settled: list[int] = []
            for _ in range(turns):
                pictures = asyncio.run(send_pictures(server, files))
                told("pictures", server, pictures, len(files))
                require(pictures.statuses[0] == 0, "a picture got no answer")
                strange = asyncio.run(send_raw(server, requests))
                told("crafted requests", server, strange, len(requests))
                settled.append(strange.memory[-1])
            require(settled[-1] < 1.25 * settled[0], f"memory grows: {settled}")
            good = post(server.port, "/v1/score", jpegs(1)[0])
            require(good.status == 200, "a good picture is not scored any more")
            require(not written(folder), f"files were written: {written(folder)}")
            print("The server scores on, and no file was written where it could.")


def main() -> None:
    paths = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file())
    attack([path.read_bytes() for path in paths if path.stat().st_size], crafted(600))


if __name__ == "__main__":
    main()
