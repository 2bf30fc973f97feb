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
import re
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

from PIL import Image as PILImage

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, ScorerError
from qinsight_plugin.reasoning.backoff import Again, Backoff, GivenUp, Retrier, retry_after
from qinsight_plugin.reasoning.model import Completion, NextToken, Prompt, Sampling
from qinsight_plugin.records import Image

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Ask: TypeAlias = Callable[[], Coroutine[Any, Any, T]]

KEY_VARIABLE: Final = "QINSIGHT_API_KEY"
"""Environment variable: the key to show to the server. OPENAI_API_KEY is not looked at: a key for
OpenAI is not for whatever other server is asked."""

TOP_LOGPROBS: Final = 20
"""Likeliest tokens to ask for: the most that OpenAI's interface, and vLLM as it comes, give."""

_UNBIASED: Final = {"repetition_penalty": 1.0}
"""Servers take what is not said from the checkpoint's files, and those of Qwen2.5-VL ask for 1.05,
which shifts the ratings."""

_CONNECT_SECONDS: Final = 10.0
_EXCERPT: Final = 200
_DATA: Final = re.compile(r"data:[\w/+.-]+;base64,[^\s\"'<>]*|[\w+/=%\\-]{48,}")
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
        self._server = _Server(_checked_url(url), _checked_key(key), timeout, concurrency, retrier)
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
            if isinstance(error, _NoUse):
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
        if not isinstance(failures[0], _NoUse):
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


class _NoUse(Exception):
    """There is no use in asking this server on."""

    def __init__(self, error: ScorerError) -> None:
        super().__init__(str(error))
        self.error = error


async def _settled(ask: Ask[T]) -> T | ScorerError:
    try:
        return await ask()
    except ScorerError as error:
        return error


async def _live(
    server: _Server, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
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


class _Server:
    """The server's side of the wire; everything but `url` is for the event loop.

    Its errors are ScorerError, for one prompt, and _NoUse, for all.
    """

    def __init__(
        self, url: str, key: str, timeout: float, concurrency: int, retrier: Retrier
    ) -> None:
        self._httpx = require("httpx", package="httpx", extra="remote", purpose="asking a server")
        self.url = url
        self._key = key
        self._timeout = timeout
        self._retrier = retrier
        self._takes_fields = True
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self.client: httpx.AsyncClient = self._httpx.AsyncClient(
            headers=headers,
            timeout=self._httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=self._httpx.Limits(max_connections=concurrency),
        )

    async def only_model(self) -> str:
        advice = "see whether the server is well, or name the model"
        response = await self._ask("GET", "models", advice=advice)
        await self._require_ok(response, advice)
        with self._reading(response, "a list of models"):
            names = [str(each["id"]) for each in response.json()["data"]]
        if len(names) != 1:
            listed = f"has {len(names)} models ({', '.join(names[:10])})" if names else "lists none"
            raise ConfigError(f"{self.url} {listed}: name the model to ask")
        return names[0]

    async def complete(self, model: str, messages: bytes, sampling: Sampling) -> Completion:
        options = {
            "model": model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        choosing = dict(_UNBIASED)
        if sampling.temperature > 0:
            options |= {"top_p": sampling.top_p, "seed": sampling.seed}
            choosing |= {"top_k": sampling.top_k}
        response = await self._chat(messages, options, choosing)
        await self._require_ok(response, "its log may tell more")
        with self._reading(response, "a chat completion"):
            return _completion(response.json())

    async def next_token(self, model: str, messages: bytes, choices: Sequence[str]) -> NextToken:
        options = {
            "model": model,
            "max_tokens": 1,
            "temperature": 0,
            "add_generation_prompt": False,
            "continue_final_message": True,
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
        }
        needed = "mode=direct needs a server that gives logprobs, such as vLLM"
        response = await self._chat(messages, options, _UNBIASED)
        await self._require_ok(response, needed)
        with self._reading(response, "a chat completion"):
            body = response.json()
            tokens = _likeliest(body["choices"][0])
            prompt_tokens = _count(body, "prompt_tokens")
        if not tokens:
            raise ScorerError(f"{self.url} gave no logprobs: {needed}")
        if not tokens.keys() & set(choices):
            raise ScorerError(
                f"{self.url}: none of {', '.join(choices)} is among the {len(tokens)} likeliest "
                f"next tokens, the likeliest being {max(tokens, key=tokens.__getitem__)!r}: "
                "is it a model for this question, and does the server continue a reply?"
            )
        return NextToken(tuple(tokens.get(each, 0.0) for each in choices), prompt_tokens)

    async def _chat(
        self, messages: bytes, options: Mapping[str, Any], choosing: Mapping[str, Any]
    ) -> httpx.Response:
        """Ask, with what OpenAI knows in `options`, and what only others know in `choosing`.

        vLLM and SGLang take the latter as further fields. `transformers serve` refuses them; it has
        a field for all of them, and draws only where it is told to.
        """
        if self._takes_fields:
            response = await self._post(messages, {**options, **choosing})
            unexpected = response.status_code == 422 and "Unexpected fields" in response.text
            if not (unexpected and any(name in response.text for name in choosing)):
                return response
            self._takes_fields = False
        config = json.dumps({"do_sample": "top_k" in choosing, **choosing})
        return await self._post(messages, {**options, "generation_config": config})

    async def _post(self, messages: bytes, options: Mapping[str, Any]) -> httpx.Response:
        body = json.dumps(options).encode()[:-1] + b', "messages": ' + messages + b"}"
        return await self._ask("POST", "chat/completions", body)

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        advice: str = "see whether the server is well",
    ) -> httpx.Response:
        """What the server answers in the end, unless it is that it cannot."""
        try:
            return await self._retrier.run(partial(self._attempt, method, path, body))
        except GivenUp as given_up:
            error = ScorerError(f"{self.url}: {given_up}: {advice}")
            raise (_NoUse(error) if given_up.silent else error) from given_up

    async def _attempt(self, method: str, path: str, body: bytes | None) -> httpx.Response:
        httpx = self._httpx
        try:
            request = self.client.request(method, f"{self.url}/{path}", content=body)
            response = await asyncio.wait_for(request, self._timeout)
        except asyncio.TimeoutError as error:
            raise Again(f"no answer within {self._timeout:g} s") from error
        except httpx.RequestError as error:
            nobody = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
            what = f"{type(error).__name__}: {self._excerpt(str(error))}".rstrip(": ")
            raise Again(what, turned_away=isinstance(error, nobody)) from error
        status = response.status_code
        turned_away = status in (429, 502, 503)
        too_late = status in (408, 504)  # said by a proxy: the server itself may be gone
        if not (turned_away or too_late):
            self._retrier.heard()
        if turned_away or too_late or status >= 500:
            asked = retry_after(response.headers.get("Retry-After"))
            raise Again(self._told(response), turned_away=turned_away, asked=asked)
        return response

    async def _require_ok(self, response: httpx.Response, advice: str) -> None:
        status = response.status_code
        answered = f"{self.url} answered {self._told(response)}"
        if status in (401, 403):
            advice = f"set the environment variable {KEY_VARIABLE} to a key that it accepts"
            raise _NoUse(ScorerError(f"{answered}: {advice}"))
        if status == 404:
            longer = f"{self.url}/v1"
            is_there = await self._knows_models(longer)
            advice = f"take {longer}" if is_there else "correct the address, or the model's name"
            raise _NoUse(ScorerError(f"{answered}: {advice}"))
        if 300 <= status < 400:
            advice = f"it is moved to {self._excerpt(response.headers.get('Location', ''))}"
            raise _NoUse(ScorerError(f"{answered}: {advice}"))
        if not response.is_success:
            raise ScorerError(f"{answered}: {advice}")

    async def _knows_models(self, url: str) -> bool:
        with suppress(self._httpx.HTTPError, asyncio.TimeoutError):
            request = self.client.get(f"{url}/models")
            return (await asyncio.wait_for(request, _CONNECT_SECONDS)).status_code != 404
        return False

    @contextmanager
    def _reading(self, response: httpx.Response, expected: str) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            kind = response.headers.get("Content-Type", "no type")
            raise ScorerError(
                f"{self.url} answered {kind} where {expected} was expected "
                f"({self._excerpt(response.text)}): is it an OpenAI-style server?"
            ) from error

    def _told(self, response: httpx.Response) -> str:
        """Status and message: OpenAI's and vLLM's error.message, FastAPI's detail, or all."""
        said: Any = None
        with suppress(ValueError):
            said = response.json()
            for name in ("error", "message", "detail"):
                said = said.get(name, said) if isinstance(said, dict) else said
        text = self._excerpt(said if isinstance(said, str) else response.text)
        return f"{response.status_code} {response.reason_phrase} ({text})"

    def _excerpt(self, text: str) -> str:
        """Its beginning in one line, without the key and without what might be a picture."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = " ".join(_DATA.sub("[data]", text).split())
        return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."


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


def _completion(body: Any) -> Completion:
    choice = body["choices"][0]
    message = choice["message"]
    text = message.get("content") or ""
    # SGLang and older versions of vLLM say reasoning_content, newer ones reasoning.
    thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
    if not (isinstance(text, str) and isinstance(thoughts, str)):
        raise TypeError("the message is no text")
    cut = choice.get("finish_reason") == "length"
    if thoughts:
        end = "" if cut and not text else "</think>"  # cut while it thought
        text = f"<think>{thoughts}{end}{text}"
    return Completion(
        text, _count(body, "prompt_tokens"), _count(body, "completion_tokens"), cut=cut
    )


def _likeliest(choice: Any) -> dict[str, float]:
    """Probabilities of the likeliest tokens, by text; empty where the server gives none."""
    content = (choice.get("logprobs") or {}).get("content")
    top = content[0].get("top_logprobs") if content else None
    return {each["token"]: math.exp(min(0.0, each["logprob"])) for each in top or ()}


def _count(body: Any, name: str) -> int:
    return int((body.get("usage") or {}).get(name) or 0)


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
