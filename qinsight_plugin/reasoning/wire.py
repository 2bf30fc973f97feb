"""A model behind an OpenAI-style server: vLLM, SGLang, `transformers serve`.

Threads ask; one event loop, in a thread of its own, speaks to the server. Pictures go as PNG, so
that what is judged is the very pixels. Neither they nor the key get into a message or a log.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

from PIL import Image as PILImage

from qinsight_plugin.errors import ConfigError, ScorerError
from qinsight_plugin.reasoning.backoff import Backoff, Retrier
from qinsight_plugin.reasoning.model import Completion, NextToken, Prompt, Sampling
from qinsight_plugin.reasoning.server import KEY_VARIABLE, NoUse, Server
from qinsight_plugin.records import Image

T = TypeVar("T")
Ask: TypeAlias = Callable[[], Coroutine[Any, Any, T]]

_BACKOFF: Final = Backoff()


class RemoteModel:
    """A model that a server runs; see `LanguageModel`.

    A prompt that fails for a reason that may pass (429, 5xx, no connection, no answer in time) is
    sent again, after ever longer waits. Once the server has answered anything, being turned away
    (no connection, 429, 502, 503) costs none of the `attempts`: a server that starts again, or has
    too much to do, is waited for until the `deadline`. One that never answered is not waited for:
    its address may be wrong.

    A server that gives no sign of life all the while that a prompt is tried, or that refuses the
    key or the address, is asked nothing more by that call: the prompts that are left have the same
    error, which is raised if none of the prompts was answered.

    Args:
        url: where the interface begins, such as http://host:8000/v1.
        model: the server's name for it; None takes the only one that it lists.
        concurrency: most prompts at the server at once, over all threads that ask.
        timeout: seconds for one attempt, the whole reply included.
        attempts: how often a prompt is sent at most.
        deadline: seconds after which a prompt is not sent again.
        key: shown to the server as a bearer token; None takes that in QINSIGHT_API_KEY, if any.
        backoff: the waits between attempts.

    Raises:
        ConfigError: an argument is out of range, or the server lists no model, or several.
        ScorerError: the server does not tell which models it has.
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        concurrency: int = 8,
        timeout: float = 120.0,
        attempts: int = 5,
        deadline: float = 600.0,
        key: str | None = None,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        for name, number in {"concurrency": concurrency, "attempts": attempts}.items():
            if number < 1:
                raise ConfigError(f"{name} must be 1 or more, not {number}")
        for name, seconds in {"timeout": timeout, "deadline": deadline}.items():
            if not 0 < seconds < math.inf:
                raise ConfigError(f"{name} must be a number of seconds above 0, not {seconds}")
        retrier = Retrier(attempts, deadline, backoff)
        self._server = Server(_checked_url(url), _checked_key(key), timeout, concurrency, retrier)
        self._slots = threading.BoundedSemaphore(concurrency)
        self._closing = threading.Lock()
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # Holds on to the server, not to `self`, which is closed when nobody holds on to it.
        life = _live(self._server, started)
        thread = threading.Thread(
            target=asyncio.run, args=(life,), name="qinsight-remote", daemon=True
        )
        thread.start()
        self._loop, stop = started.result()
        self._finish = weakref.finalize(self, _stop, self._loop, stop, thread)
        # Closing an event loop starts a thread, which Python 3.12 refuses to do at exit.
        self._finish.atexit = False
        try:
            self._model = model or self._start(self._server.only_model).result()
        except BaseException as error:
            self.close()
            if isinstance(error, NoUse):
                raise error.error from error
            raise

    @property
    def name(self) -> str:
        return f"{self._model} at {self._server.url}"

    @property
    def version(self) -> str:
        """The model's name: a server does not tell when its weights change."""
        return self._model

    def complete(
        self, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[Completion | ScorerError]:
        """See `LanguageModel`. Where a server separates the thoughts from the reply, they are put
        before it again, between <think> and </think>."""

        def question(prompt: Prompt, sampling: Sampling) -> Ask[Completion]:
            return partial(self._server.complete, self._model, _messages(prompt), sampling)

        pairs = zip(prompts, samplings, strict=True)
        return self._all([partial(question, *pair) for pair in pairs])

    def next_token(
        self, prompts: Sequence[Prompt], prefix: str, choices: Sequence[str]
    ) -> list[NextToken | ScorerError]:
        """See `LanguageModel`. A choice that is not among the 20 likeliest tokens, to the letter,
        has probability 0; so has one that is more than one token, which a server does not tell. A
        prompt for which no choice is among them has an error instead."""

        def question(prompt: Prompt) -> Ask[NextToken]:
            messages = _messages(prompt, prefix)
            return partial(self._server.next_token, self._model, messages, choices)

        return self._all([partial(question, prompt) for prompt in prompts])

    def close(self) -> None:
        """End the connections; what is being asked fails. May be called again."""
        with self._closing:
            self._finish()

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, questions: Sequence[Callable[[], Ask[T]]]) -> list[T | ScorerError]:
        asked: list[Future[T | ScorerError]] = []
        over = threading.Event()

        def done(future: Future[T | ScorerError]) -> None:
            if future.cancelled() or future.exception():
                over.set()
            self._slots.release()

        try:
            for question in questions:
                self._slots.acquire()
                if over.is_set():
                    self._slots.release()
                    break
                try:
                    # Made only now, for the pictures of all might not fit into memory.
                    future = self._start(partial(_settled, question()))
                except BaseException:
                    self._slots.release()
                    raise
                future.add_done_callback(done)
                asked.append(future)
            wait(asked, return_when=FIRST_EXCEPTION)
            return self._answers(asked, len(questions))
        finally:
            for future in asked:
                future.cancel()  # does nothing to one that is done

    def _answers(
        self, asked: Sequence[Future[T | ScorerError]], count: int
    ) -> list[T | ScorerError]:
        """What came; for what did not, why the asking ended."""
        done = {future for future in asked if future.done()}
        if any(future.cancelled() for future in done):
            raise self._closed()
        failures = [error for future in done if (error := future.exception())]
        if not failures:
            return [future.result() for future in asked]
        if not isinstance(failures[0], NoUse):
            raise failures[0]
        end = failures[0].error
        answers = [
            future.result() if future in done and not future.exception() else end
            for future in asked
        ]
        if all(isinstance(answer, ScorerError) for answer in answers):
            raise end from failures[0]
        return answers + [end] * (count - len(asked))

    def _start(self, ask: Ask[T]) -> Future[T]:
        with self._closing:
            if not self._finish.alive:
                raise self._closed()
            return asyncio.run_coroutine_threadsafe(ask(), self._loop)

    def _closed(self) -> ScorerError:
        return ScorerError(f"{self._server.url}: the connection was closed: open a new one")


async def _settled(ask: Ask[T]) -> T | ScorerError:
    try:
        return await ask()
    except ScorerError as error:
        return error


async def _live(
    server: Server, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    """All that happens on the event loop, from its beginning to its end."""
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await server.client.aclose()


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(stop.set)
    if thread is not threading.current_thread():  # as when it dropped the last reference
        thread.join()


def _messages(prompt: Prompt, prefix: str | None = None) -> bytes:
    """The conversation in JSON; encodes the pictures."""
    parts = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": _data_url(part)}}
        for part in prompt.parts
    ]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": parts},
    ]
    if prefix is not None:
        messages.append({"role": "assistant", "content": prefix})
    return json.dumps(messages).encode()


def _data_url(image: Image) -> str:
    file = io.BytesIO()
    # Level 1 takes a fraction of the time for a few per cent more bytes.
    PILImage.fromarray(image.pixels).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _checked_url(url: str) -> str:
    example = "give one such as http://host:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"the server's address cannot be read: {example}") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            "the server's address has a user, a password, a query or a fragment: leave them out; "
            f"a key is taken from the environment variable {KEY_VARIABLE}"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{url!r} is no server's address: {example}")
    return url.rstrip("/")


def _checked_key(key: str | None) -> str:
    key = (os.environ.get(KEY_VARIABLE, "") if key is None else key).strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {KEY_VARIABLE} cannot be sent: it has to be printable ASCII")
    return key
