"""A server on a bad day: `python -m tests.faults`.

Each fault is checked, and told in a line. Traffic goes to this machine only.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import qinsight_plugin as qi
from qinsight_plugin.scorers.student import SHIPPED, SHIPPED_WEIGHTS

from .abuse import exchange
from .serving import Answer, Client, Server, hang_up, jpegs, serving, until

TOLERANCE = 1e-4


async def ask_all(
    server: Server, files: list[bytes], clients: int = 8
) -> list[tuple[bytes, Answer | None]]:
    """Each file once, by so many clients; None where there was no answer."""
    answers: list[tuple[bytes, Answer | None]] = []
    waiting = iter(files)

    async def client() -> None:
        connection = Client(server.port)
        for data in waiting:
            answer = None
            with suppress(OSError, EOFError):
                answer = await connection.post("/v1/score", data)
            answers.append((data, answer))
        await connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def expected(files: list[bytes], scorer: str = "student") -> dict[bytes, float]:
    reports = qi.score_many(files, scorer=scorer)
    return {data: report.value for data, report in zip(files, reports, strict=True)}


def check_answers(answers: list[tuple[bytes, Answer | None]], right: dict[bytes, float]) -> str:
    """Every file has one answer: its score, or an error that says why not."""
    outcomes: Counter[str] = Counter()
    for data, answer in answers:
        assert answer is not None, "a request got no answer"
        if answer.status == 500:  # they were killed faster than they can start
            assert "decoding processes do not start" in answer.json()["detail"]
            outcomes["told that none starts"] += 1
            continue
        (row,) = answer.json()["results"]
        if row["error_type"] is None:
            assert abs(row["score"] - right[data]) < TOLERANCE
        outcomes[row["error_type"] or "scored"] += 1
    return ", ".join(f"{n} {name}" for name, n in outcomes.items())


def killed_decoders(requests: int, pause: float = 2.0) -> str:
    """Decoding processes are killed at random while pictures come."""
    different = jpegs(6, side=1600)
    files = [different[n % 6] for n in range(requests)]
    right, killed = expected(different), 0

    async def kill(server: Server) -> None:
        nonlocal killed
        draw = random.Random(0)
        await asyncio.sleep(0.2)
        while True:
            if decoders := server.decoders():
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(decoders), signal.SIGKILL)
                    killed += 1
            await asyncio.sleep(pause)

    async def both(server: Server) -> list[tuple[bytes, Answer | None]]:
        killing = asyncio.ensure_future(kill(server))
        answers = await ask_all(server, files)
        killing.cancel()
        return answers

    with serving() as server:
        told = check_answers(asyncio.run(both(server)), right)
        check_calm(server)
    assert killed
    return f"{killed} decoders killed during {requests} requests: {told}"


def hung_up(clients: int) -> str:
    """Clients that send a picture and leave before its answer."""
    files = jpegs(6, side=1024)

    async def leave(server: Server, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()
        await asyncio.sleep(random.Random(len(data)).random() / 20)
        await hang_up(writer)
        del reader

    async def crowd(server: Server) -> None:
        await asyncio.gather(*(leave(server, files[n % 6]) for n in range(clients)))

    with serving("--capacity", str(clients)) as server:
        asyncio.run(crowd(server))
        check_calm(server)
        until(lambda: len(server.events("request")) >= clients)
        statuses = Counter(line["status"] for line in server.events("request")[:clients])
        answered = check_answers(asyncio.run(ask_all(server, files)), expected(files))
    return f"{clients} clients hung up: statuses {dict(statuses)}; then {answered}"


def slow_loris(connections: int) -> str:
    """Connections that never end their head, or their body, beside clients in earnest."""
    files = jpegs(6)

    async def drip(server: Server, begin: bytes) -> float:
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(begin)
        reading = asyncio.ensure_future(reader.read())
        while not reading.done():
            with suppress(OSError):
                writer.write(b"x")
            await asyncio.wait({reading}, timeout=0.5)
        await hang_up(writer)
        with suppress(OSError):
            await reading
        return time.perf_counter() - start

    async def beside(server: Server) -> tuple[list[float], list[tuple[bytes, Answer | None]]]:
        head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
        begins = [head if n % 2 else b"GET / HTTP/1.1\r\nX: " for n in range(connections)]
        drips = [asyncio.ensure_future(drip(server, begin)) for begin in begins]
        answers = await ask_all(server, files * 4)
        return await asyncio.gather(*drips), answers

    with serving("--body-seconds", "5") as server:
        ended, answers = asyncio.run(beside(server))
        told = check_answers(answers, expected(files))
        check_calm(server)
    assert max(ended) < 20
    return (
        f"{connections} slow connections, ended after {min(ended):.0f} to {max(ended):.0f} s; "
        f"beside them {told}"
    )


def full_disk() -> str:
    """Neither the log nor anything else can be written."""
    files = jpegs(6)
    with tempfile.TemporaryDirectory() as name, Path("/dev/full").open("wb") as nowhere:
        mounted = mount_full(Path(name))
        try:
            places = dict.fromkeys(("TMPDIR", "HOME", "XDG_CACHE_HOME"), name)
            port = free_port()
            with serving(stderr=nowhere, port=port, env=places) as server:
                until(lambda: asyncio.run(answers_health(port)))
                told = check_answers(asyncio.run(ask_all(server, files * 3)), expected(files))
                lost = server.metric("qinsight_log_lines_lost_total")
        finally:
            if mounted:
                subprocess.run(["umount", name], check=True)
    assert lost
    where = (
        "the log and a full file system" if mounted else "the log (no file system was to be had)"
    )
    return f"nothing could be written to {where}: {told}; {lost:.0f} log lines lost, and counted"


def mount_full(folder: Path) -> bool:
    """Put a full file system there, where that may be done."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "qinsight", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    with suppress(OSError), (folder / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return True


def swapped_model(requests: int, pause: float = 2.0) -> str:
    """The model file is replaced, by a good one and by a broken one, while pictures come."""
    files = jpegs(6)
    first, second = SHIPPED_WEIGHTS, SHIPPED["int8"]
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model.onnx"

        def put(data: bytes) -> None:
            fresh = model.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.replace(model)

        put(first.read_bytes())
        scores: dict[str, dict[bytes, float]] = {}
        for path in (first, second):
            reports = list(qi.score_many(files, scorer=f"student:{path}"))
            scores[reports[0].scorer_version] = {
                data: report.value for data, report in zip(files, reports, strict=True)
            }

        async def swap(server: Server) -> list[tuple[bytes, Answer | None]]:
            asking = asyncio.ensure_future(ask_all(server, (files * requests)[:requests]))
            for data, event in (
                (second.read_bytes(), "reloaded"),
                (b"junk", "reload failed"),
                (first.read_bytes(), "reloaded"),
            ):
                count = len(server.events(event))
                put(data)
                server.process.send_signal(signal.SIGHUP)
                while len(server.events(event)) == count:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(pause)
            return await asking

        seen: Counter[str] = Counter()
        with serving("--scorer", f"student:{model}") as server:
            for data, answer in asyncio.run(swap(server)):
                assert answer is not None
                (row,) = answer.json()["results"]
                assert abs(row["score"] - scores[row["scorer_version"]][data]) < TOLERANCE
                seen[row["scorer_version"]] += 1
            check_calm(server)
    assert len(seen) == 2
    return (
        f"a model swapped by another, by junk and back during {requests} requests: "
        f"{' and '.join(map(str, seen.values()))} answered by the one or the other, each right; "
        "the junk was refused"
    )


def ended_in_mid_work(clients: int) -> str:
    """SIGTERM while pictures come: what was accepted is answered, and the process ends well."""
    files = jpegs(6)
    right = expected(files)

    async def until_refused(server: Server) -> tuple[list[tuple[bytes, Answer]], int]:
        answers: list[tuple[bytes, Answer]] = []
        cut = 0

        async def client(number: int) -> None:
            nonlocal cut
            connection = Client(server.port)
            for turn in range(10_000):
                data = files[(number + turn) % 6]
                try:
                    answers.append((data, await connection.post("/v1/score", data)))
                except (OSError, EOFError):
                    cut += 1
                    break
            await connection.close()

        work = asyncio.gather(*(client(n) for n in range(clients)))
        await asyncio.sleep(2)
        server.process.send_signal(signal.SIGTERM)
        await work
        return answers, cut

    with serving() as server:
        answers, cut = asyncio.run(until_refused(server))
        assert server.process.wait(60) == 0
    logged = Counter(line["status"] for line in server.events("request"))
    assert set(logged) == {200}
    assert logged[200] == len(answers)
    check_answers(list(answers), right)
    return (
        f"SIGTERM with {clients} requests inside: {logged[200]} accepted, as many answered, right; "
        f"then {cut} connections refused or closed, exit code 0"
    )


def check_calm(server: Server, seconds: float = 30.0) -> None:
    """The server lives, and soon nothing is inside any more."""
    until(lambda: server.metric("qinsight_queue_pictures") == 0, seconds)
    assert server.process.poll() is None
    assert not server.events("failed")


async def answers_health(port: int) -> bool:
    with suppress(OSError):
        answer = await exchange(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        return answer is not None and answer.status == 200
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    for fault in (
        lambda: killed_decoders(60, 1.5),
        lambda: hung_up(100),
        lambda: slow_loris(100),
        full_disk,
        lambda: swapped_model(100, 1.0),
        lambda: ended_in_mid_work(32),
    ):
        print(fault(), flush=True)


if __name__ == "__main__":
    main()
