"""A server under twice the load that it can bear: `python -m tests.load [SECONDS] [SCORER]`.

Prints what the README quotes. The load comes from this process, on the same cores, and takes its
share of them; the bare scorer has none to share with. Rounds of both take turns.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import qinsight_plugin as qi

from .serving import Client, Server, jpegs, serving

ROUNDS = 4
QUEUE = 64
FILES = jpegs(24)


@dataclass
class Run:
    """What clients saw.

    Attributes:
        seconds: of each request that was answered 200.
        statuses: how many answers had which status; 0: none came.
        memory: resident bytes, a sample a second.
    """

    took: float = 0.0
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    wrong: int = 0

    @property
    def rate(self) -> float:
        return self.statuses[200] / self.took

    def line(self) -> str:
        accepted = np.array(self.seconds) * 1000
        memory = np.array(self.memory[len(self.memory) // 4 :] or [0]) / 2**20
        p50, p99 = np.quantile(accepted, [0.5, 0.99])
        rest = {status: n for status, n in self.statuses.items() if status not in (0, 200, 429)}
        return (
            f"{sum(self.statuses.values())} requests in {self.took:.0f} s: "
            f"{self.statuses[200]} accepted ({self.rate:.1f}/s), {self.statuses[429]} times 429, "
            f"others {rest or 'none'}, lost {self.statuses[0]}, wrong {self.wrong}; accepted ones "
            f"took {p50:.0f} ms (median), {p99:.0f} ms (99th percentile); memory after the first "
            f"quarter {memory.min():.0f} to {memory.max():.0f} MiB, {memory[-1]:.0f} at the end"
        )


class Load:
    def __init__(self, server: Server, expected: dict[bytes, float]) -> None:
        self._server = server
        self._expected = expected
        self.run = Run()

    async def one(self, client: Client, body: bytes) -> float:
        """Ask once; returns the seconds to wait before asking again."""
        begin = time.perf_counter()
        try:
            answer = await client.post("/v1/score", body)
        except (OSError, EOFError):
            self.run.statuses[0] += 1
            return 0.1
        self.run.statuses[answer.status] += 1
        if answer.status == 200:
            self.run.seconds.append(time.perf_counter() - begin)
            (row,) = answer.json()["results"]
            self.run.wrong += abs(row["score"] - self._expected[body]) > 1e-4
        return float(answer.headers.get("retry-after", 0))

    async def closed(self, clients: int, seconds: float) -> Run:
        """So many clients, each of whom asks again once answered, or when told to."""
        end = time.perf_counter() + seconds

        async def client(number: int) -> None:
            connection, turn = Client(self._server.port), number
            while time.perf_counter() < end:
                await asyncio.sleep(await self.one(connection, FILES[turn % len(FILES)]))
                turn += 1
            await connection.close()

        return await self._watched([client(number) for number in range(clients)])

    async def open(self, rate: float, seconds: float) -> Run:
        """Requests that come at random, so many a second, whatever became of the others."""
        draw, idle = random.Random(0), [Client(self._server.port)]
        tasks: list[asyncio.Task[None]] = []

        async def request(body: bytes) -> None:
            client = idle.pop() if idle else Client(self._server.port)
            await self.one(client, body)
            idle.append(client)

        async def arrivals() -> None:
            due = time.perf_counter()
            end = due + seconds
            while due < end:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(asyncio.ensure_future(request(draw.choice(FILES))))
                due += draw.expovariate(rate)
            await asyncio.gather(*tasks)

        run = await self._watched([arrivals()])
        for client in idle:
            await client.close()
        return run

    async def _watched(self, work: list[object]) -> Run:
        begin = time.perf_counter()
        watching = asyncio.ensure_future(self._watch())
        await asyncio.gather(*work)  # type: ignore[call-overload]
        self.run.took = time.perf_counter() - begin
        watching.cancel()
        return self.run

    async def _watch(self) -> None:
        while True:
            self.run.memory.append(self._server.memory())
            await asyncio.sleep(1)


class Measured(NamedTuple):
    rate: float  # pictures a second
    cpu: float  # milliseconds of CPU time a picture, the client's included


def bare(scorer: str, seconds: float) -> Measured:
    """`score_many` in this process."""
    begin, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        done += sum(1 for _ in qi.score_many(FILES, scorer=scorer))
    took = time.perf_counter() - begin
    return Measured(done / took, 1000 * (time.process_time() - cpu) / done)


def served(server: Server, expected: dict[bytes, float], seconds: float) -> Measured:
    """A server that is kept busy from this process."""
    cpu = time.process_time() + server.cpu()
    run = asyncio.run(Load(server, expected).closed(16, seconds))
    cpu = time.process_time() + server.cpu() - cpu
    return Measured(run.rate, 1000 * cpu / run.statuses[200])


def ratio(pairs: list[tuple[float, float]]) -> str:
    """The ratio of the rates of rounds, with a bootstrap interval over them."""
    rates = np.array(pairs)
    draws = np.random.default_rng(0).integers(0, len(rates), (10_000, len(rates)))
    low, high = np.quantile(rates[draws, 0].sum(1) / rates[draws, 1].sum(1), [0.025, 0.975])
    a, b = rates.mean(0)
    return f"{a:.1f} / {b:.1f} = {a / b:.3f} [{low:.3f}, {high:.3f}]"


def measure(seconds: float, scorer: str, rounds: int = ROUNDS, turn: float = 10.0) -> None:
    expected = {
        body: report.value
        for body, report in zip(FILES, qi.score_many(FILES, scorer=scorer), strict=True)
    }
    options = ("--scorer", scorer, "--capacity", str(QUEUE))
    with serving(*options) as server, serving(*options, "--batch", "1") as unbatched:
        for where in (server, unbatched):
            served(where, expected, 2.0)
        turns = [
            (
                served(server, expected, turn),
                bare(scorer, turn),
                served(unbatched, expected, turn),
            )
            for _ in range(rounds)
        ]
        print(f"{scorer}, {rounds} rounds of {turn:g} s each")
        print("  served / bare, a second: " + ratio([(s.rate, b.rate) for s, b, _ in turns]))
        print("  bare / served, CPU ms: " + ratio([(b.cpu, s.cpu) for s, b, _ in turns]))
        print("  batches of 8 / of 1, a second: " + ratio([(s.rate, u.rate) for s, _, u in turns]))
        capacity = float(np.mean([s.rate for s, _, _ in turns]))
        print(f"closed loop, {2 * QUEUE} clients for a queue of {QUEUE}:", flush=True)
        overload(server, Load(server, expected).closed(2 * QUEUE, seconds))
        print(f"open loop, {2 * capacity:.1f} requests a second:", flush=True)
        overload(server, Load(server, expected).open(2 * capacity, seconds))


def overload(server: Server, work: Coroutine[Any, Any, Run]) -> None:
    """Do it, print it, and hold what the clients counted against what the server did."""
    before = counted(server)
    run = asyncio.run(work)
    after = counted(server)
    after.subtract(before)
    print("  " + run.line())
    agree = all(after[status] == run.statuses[status] for status in (200, 429))
    print(f"  the server counts {'the same' if agree else dict(after)}", flush=True)


def counted(server: Server) -> Counter[int]:
    """Answers to /v1/score by status, as the server's metrics tell."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found = re.findall(r'qinsight_requests_total{route="/v1/score",status="(\d+)"} (\S+)', text)
    return Counter({int(status): int(float(number)) for status, number in found})


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    for scorer in sys.argv[2:] or ("student", "student:int8"):
        measure(seconds, scorer)


if __name__ == "__main__":
    main()
