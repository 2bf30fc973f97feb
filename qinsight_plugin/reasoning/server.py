"""What an OpenAI-style server is sent, and what it answers."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, ScorerError
from qinsight_plugin.reasoning.backoff import Again, GivenUp, Retrier, retry_after
from qinsight_plugin.reasoning.model import Completion, NextToken, Sampling

if TYPE_CHECKING:
    import httpx

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


class NoUse(Exception):
    """There is no use in asking this server on."""

    def __init__(self, error: ScorerError) -> None:
        super().__init__(str(error))
        self.error = error


class Server:
    """The server's side of the wire; everything but `url` is for the event loop.

    Its errors are ScorerError, for one prompt, and NoUse, for all.
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
            raise (NoUse(error) if given_up.silent else error) from given_up

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
            if not self._key:
                advice += ", and for ComfyUI QINSIGHT_API_SERVER to the server's address"
            raise NoUse(ScorerError(f"{answered}: {advice}"))
        if status == 404:
            longer = f"{self.url}/v1"
            is_there = await self._knows_models(longer)
            advice = f"take {longer}" if is_there else "correct the address, or the model's name"
            raise NoUse(ScorerError(f"{answered}: {advice}"))
        if 300 <= status < 400:
            advice = f"it is moved to {self._excerpt(response.headers.get('Location', ''))}"
            raise NoUse(ScorerError(f"{answered}: {advice}"))
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
