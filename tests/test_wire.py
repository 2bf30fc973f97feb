"""A client and a real HTTP server on the loopback, which says what each test has it say."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

pytest.importorskip("httpx")

from qinsight_plugin.errors import ConfigError, ScorerError
from qinsight_plugin.reasoning.backoff import Backoff, retry_after
from qinsight_plugin.reasoning.model import Completion, NextToken, Prompt, Sampling
from qinsight_plugin.reasoning.server import KEY_VARIABLE
from qinsight_plugin.reasoning.wire import RemoteModel
from qinsight_plugin.records import Image

QUICK = Backoff(first=0.01, longest=0.03, longest_asked=0.3)
GREEDY = Sampling(max_tokens=64)
KEY = "sk-a.key/that+nobody=must-see"


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The question's first text."""
        return str(self.json["messages"][1]["content"][0]["text"])


@dataclass(frozen=True)
class Reply:
    """What to answer, or to drop the connection; `missing` bytes of the body are promised and not
    sent, and there are `pause` seconds between those that are."""

    body: Any = b""
    status: int = 200
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    pause: float = 0.0
    drop: bool = False


Answer = Callable[[Asked], Reply]


class Server(ThreadingHTTPServer):
    """Answers as it is told; see `asked` and `most_at_once` for what it saw."""

    daemon_threads = False

    def __init__(self, answer: Answer, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer = answer
        self.asked: list[Asked] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the tests."""

    def stop(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self.shutdown()
            self.thread.join()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            number = len(self.server.asked)
            asked = Asked(number, self.command, self.path, dict(self.headers), body)
            self.server.asked.append(asked)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self.send(self.server.answer(asked))
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    do_GET = do_POST  # noqa: N815

    def send(self, reply: Reply) -> None:
        if reply.drop:
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(body) + reply.missing))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for begin in range(0, len(body), step := 1 if reply.pause else len(body)):
            self.wfile.write(body[begin : begin + step])
            self.server.over.wait(reply.pause)
        self.close_connection |= bool(reply.missing)


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers; they end with the test."""
    servers: list[Server] = []

    def start(answer: Answer, port: int = 0) -> Server:
        servers.append(Server(answer, port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def chat(text: str | None, reason: str = "stop", **message: Any) -> Reply:
    """A chat completion as OpenAI, and vLLM, word it."""
    return Reply(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, **message},
                    "finish_reason": reason,
                }
            ],
            "usage": {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37},
        }
    )


def echo(asked: Asked) -> Reply:
    return chat(f"re {asked.text}")


def in_turn(*replies: Reply) -> Answer:
    """The replies one after the other, then the last of them for ever."""
    return lambda asked: replies[min(asked.number, len(replies) - 1)]


def picture(seed: int = 0, height: int = 31, width: int = 45) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image(pixels, f"<{seed}>", width, height)


def prompt(text: str = "how good?", *parts: str | Image) -> Prompt:
    return Prompt("be fair", (text, *parts))


def remote(server: Server, **settings: Any) -> RemoteModel:
    return RemoteModel(server.url, **{"model": "m", "backoff": QUICK, "key": "", **settings})


def ask(model: RemoteModel, count: int = 1) -> list[Completion | ScorerError]:
    return model.complete([prompt(f"{i}") for i in range(count)], [GREEDY] * count)


def answer_of(model: RemoteModel) -> Completion:
    (answer,) = ask(model)
    assert isinstance(answer, Completion)
    return answer


def failure_of(model: RemoteModel) -> str:
    """The message of the error that the one prompt of a call ends with."""
    with pytest.raises(ScorerError) as caught:
        raise ask(model)[0]  # type: ignore[misc]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def closed_port() -> str:
    server = Server(echo)
    server.stop()
    return server.url


# What is sent, and what is made of the answer


def test_the_server_gets_the_words_in_order_and_the_very_pixels(serve: Serve) -> None:
    server = serve(in_turn(chat("fine")))
    first, second = picture(1), picture(2, 3, 200)
    with remote(server) as model:
        question = Prompt("be fair", ("before", first, "between", second, "after"))
        (answer,) = model.complete([question], [GREEDY])
    assert answer == Completion("fine", 30, 7)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    system, user = asked.json["messages"]
    assert system == {"role": "system", "content": "be fair"}
    assert user["role"] == "user"
    assert [part["type"] for part in user["content"]] == [
        "text",
        "image_url",
        "text",
        "image_url",
        "text",
    ]
    assert [part["text"] for part in user["content"][::2]] == ["before", "between", "after"]
    for part, image in zip(user["content"][1::2], (first, second), strict=True):
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        decoded = PILImage.open(io.BytesIO(base64.b64decode(data, validate=True)))
        assert decoded.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(decoded), image.pixels)


def test_temperature_0_asks_for_no_drawing_at_all(serve: Serve) -> None:
    server = serve(echo)
    with remote(server) as model:
        model.complete([prompt()], [Sampling(seed=3, max_tokens=12)])
    sent = server.asked[0].json
    del sent["messages"]
    assert sent == {"model": "m", "max_tokens": 12, "temperature": 0, "repetition_penalty": 1}


def test_each_prompt_is_sampled_in_its_own_way(serve: Serve) -> None:
    server = serve(echo)
    samplings = [Sampling(0.5, 10, 0.8, seed, 99) for seed in (1, 2)]
    with remote(server, concurrency=1) as model:
        model.complete([prompt("a"), prompt("b")], samplings)
    for asked, seed in zip(server.asked, (1, 2), strict=True):
        sent = asked.json
        assert [sent[name] for name in ("temperature", "top_p", "top_k", "seed", "max_tokens")] == [
            *(0.5, 0.8, 10),
            *(seed, 99),
        ]


@pytest.mark.parametrize(
    ("sampling", "config"),
    [
        (GREEDY, {"do_sample": False, "repetition_penalty": 1}),
        (Sampling(0.7, top_k=20), {"do_sample": True, "repetition_penalty": 1, "top_k": 20}),
    ],
)
def test_a_server_that_refuses_fields_as_transformers_does_is_asked_its_way(
    serve: Serve, sampling: Sampling, config: dict[str, Any]
) -> None:
    def answer(asked: Asked) -> Reply:
        if unknown := asked.json.keys() & {"top_k", "repetition_penalty"}:
            return Reply({"detail": f"Unexpected fields in the request: {unknown}"}, 422)
        return echo(asked)

    server = serve(answer)
    with remote(server) as model:
        for _ in range(2):
            (reply,) = model.complete([prompt("a")], [sampling])
            assert isinstance(reply, Completion)
    assert len(server.asked) == 3  # it is remembered
    for asked in server.asked[1:]:
        assert json.loads(asked.json["generation_config"]) == config


def test_a_server_that_dislikes_a_value_is_not_asked_without_it(serve: Serve) -> None:
    server = serve(in_turn(Reply({"message": "top_k must be under 5"}, 400)))
    with remote(server) as model, pytest.raises(ScorerError, match=r"400 .*top_k must be under 5"):
        raise model.complete([prompt("a")], [Sampling(0.7, top_k=20)])[0]  # type: ignore[misc]
    assert len(server.asked) == 1


def test_a_reply_at_the_limit_of_tokens_is_cut(serve: Serve) -> None:
    with remote(serve(in_turn(chat("half a", "length")))) as model:
        assert answer_of(model) == Completion("half a", 30, 7, cut=True)


@pytest.mark.parametrize("text", [None, ""])
def test_an_empty_reply_is_empty_words(serve: Serve, text: str | None) -> None:
    with remote(serve(in_turn(chat(text)))) as model:
        assert answer_of(model).text == ""


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_that_the_server_took_out_are_put_back(serve: Serve, name: str) -> None:
    with remote(serve(in_turn(chat("<answer>4</answer>", **{name: "sharp"})))) as model:
        assert answer_of(model).text == "<think>sharp</think><answer>4</answer>"


def test_thoughts_that_were_cut_stay_open(serve: Serve) -> None:
    with remote(serve(in_turn(chat(None, "length", reasoning="sharp, but")))) as model:
        assert answer_of(model) == Completion("<think>sharp, but", 30, 7, cut=True)


def test_a_server_that_counts_no_tokens_counts_0(serve: Serve) -> None:
    body = {"choices": [{"message": {"content": "fine"}}]}
    with remote(serve(in_turn(Reply(body)))) as model:
        assert answer_of(model) == Completion("fine", 0, 0)


def test_answers_come_in_the_order_of_the_prompts(serve: Serve) -> None:
    def late_first(asked: Asked) -> Reply:
        time.sleep(0.01 * (8 - int(asked.text)))
        return echo(asked)

    with remote(serve(late_first)) as model:
        texts = [each.text for each in ask(model, 8) if isinstance(each, Completion)]
    assert texts == [f"re {i}" for i in range(8)]


def test_no_prompts_have_no_answers(serve: Serve) -> None:
    server = serve(echo)
    with remote(server) as model:
        assert model.complete([], []) == []
    assert server.asked == []


# The next token


def likeliest(tokens: Mapping[str, float]) -> Reply:
    top = [{"token": token, "logprob": float(np.log(p))} for token, p in tokens.items()]
    body = {
        "choices": [
            {"message": {"content": "4"}, "logprobs": {"content": [{"top_logprobs": top}]}}
        ],
        "usage": {"prompt_tokens": 41},
    }
    return Reply(body)


def next_of(model: RemoteModel) -> NextToken | ScorerError:
    (answer,) = model.next_token([prompt("rate", picture())], '{"rating": ', ["1", "4", "5"])
    return answer


def test_the_next_token_is_that_of_a_reply_that_is_begun(serve: Serve) -> None:
    server = serve(in_turn(likeliest({"4": 0.5, " 4": 0.2, "5": 0.125, "The": 0.1})))
    with remote(server) as model:
        answer = next_of(model)
    assert isinstance(answer, NextToken)
    assert answer.probabilities == pytest.approx((0.0, 0.5, 0.125))  # " 4" is another token
    assert answer.prompt_tokens == 41
    sent = server.asked[0].json
    assert sent["messages"][2] == {"role": "assistant", "content": '{"rating": '}
    assert sent["continue_final_message"] is True
    assert sent["add_generation_prompt"] is False
    assert (sent["logprobs"], sent["top_logprobs"], sent["max_tokens"]) == (True, 20, 1)
    assert sent["temperature"] == 0


@pytest.mark.parametrize(
    "reply",
    [
        chat("4"),
        Reply({"choices": [{"message": {"content": "4"}, "logprobs": None}]}),
        Reply({"choices": [{"logprobs": {"content": [{"token": "4", "top_logprobs": []}]}}]}),
        Reply({"detail": "Unexpected fields in the request: {'continue_final_message'}"}, 422),
    ],
)
def test_a_server_without_logprobs_cannot_do_the_direct_mode(serve: Serve, reply: Reply) -> None:
    with remote(serve(in_turn(reply))) as model:
        answer = next_of(model)
    assert isinstance(answer, ScorerError)
    assert "mode=direct needs a server that gives logprobs, such as vLLM" in str(answer)


def test_a_model_that_would_go_on_with_something_else_is_an_error(serve: Serve) -> None:
    with remote(serve(in_turn(likeliest({"The": 0.75, "I": 0.25})))) as model:
        answer = next_of(model)
    assert isinstance(answer, ScorerError)
    assert "none of 1, 4, 5 is among the 2 likeliest next tokens" in str(answer)
    assert "'The'" in str(answer)


# Which model


@pytest.mark.parametrize(("ids", "model"), [(["only"], None), (["a", "b"], "b")])
def test_the_only_model_need_not_be_named(serve: Serve, ids: list[str], model: str | None) -> None:
    listed = Reply({"object": "list", "data": [{"id": each} for each in ids]})
    server = serve(lambda asked: listed if asked.method == "GET" else echo(asked))
    with remote(server, model=model) as asked_one:
        assert answer_of(asked_one).text == "re 0"
        assert asked_one.version == ids[-1]
        assert asked_one.name == f"{ids[-1]} at {server.url}"
    assert server.asked[-1].json["model"] == ids[-1]
    assert [asked.path for asked in server.asked if asked.method == "GET"] == (
        [] if model else ["/v1/models"]
    )


@pytest.mark.parametrize(
    ("ids", "words"), [(["a", "b"], r"2 models \(a, b\): name the"), ([], "none: name the model")]
)
def test_several_models_or_none_are_to_be_chosen_from(
    serve: Serve, ids: list[str], words: str
) -> None:
    server = serve(in_turn(Reply({"data": [{"id": each} for each in ids]})))
    with pytest.raises(ConfigError, match=words):
        remote(server, model=None)


@pytest.mark.parametrize("model", [None, "m"])
def test_an_address_that_lacks_its_end_is_completed_in_the_message(
    serve: Serve, model: str | None
) -> None:
    def answer(asked: Asked) -> Reply:
        known = asked.path == "/v1/models"
        return Reply({"data": [{"id": "m"}]}) if known else Reply({"detail": "Not Found"}, 404)

    server = serve(answer)
    root = server.url.removesuffix("/v1")
    with (
        pytest.raises(ScorerError, match=rf"404 Not Found .*: take {root}/v1$"),
        RemoteModel(f"{root}/", model, backoff=QUICK) as asked_one,
    ):
        ask(asked_one)


# What is tried again


@pytest.mark.parametrize(
    "trouble",
    [
        Reply({"error": {"message": "slow down"}}, 429),
        Reply(b"<html>bad gateway</html>", 502, "text/html"),
        Reply({"detail": "loading"}, 503),
        Reply(b"", 500),
        Reply(b"", 504),
        Reply(b"", 408),
        Reply(drop=True),
        Reply(b'{"choices": [', missing=100),
    ],
    ids=lambda reply: f"{reply.status}{'-dropped' * reply.drop}{'-short' * bool(reply.missing)}",
)
def test_what_may_pass_is_tried_again_and_counted_once(serve: Serve, trouble: Reply) -> None:
    server = serve(in_turn(trouble, trouble, chat("fine")))
    with remote(server) as model:
        assert answer_of(model) == Completion("fine", 30, 7)
    assert len(server.asked) == 3
    assert len({asked.body for asked in server.asked}) == 1


def test_a_picture_is_encoded_once_however_often_it_is_sent(serve: Serve) -> None:
    reads = []

    class Watched(np.ndarray[Any, Any]):
        """Pixels that tell when they are read."""

        @property
        def __array_interface__(self) -> Any:
            reads.append(self.shape)
            return super().__array_interface__

    shown = Image(picture().pixels.view(Watched), "<watched>", 45, 31)
    server = serve(in_turn(Reply(b"", 503), Reply(b"", 503), chat("fine")))
    with remote(server) as model:
        model.complete([prompt("a", shown)], [GREEDY])
    assert len(server.asked) == 3
    assert reads == [(31, 45, 3)]


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_is_left_alone_as_long_as_it_asks_but_not_longer_than_we_will(
    serve: Serve, status: int
) -> None:
    busy = Reply(b"", status, headers={"Retry-After": "3600"})
    begun = time.monotonic()
    with remote(serve(in_turn(busy, chat("fine")))) as model:
        answer_of(model)
    assert 0.3 <= time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (Reply({"error": {"message": "on\nfire"}}, 500), r"500 Internal Server Error \(on fire\)"),
        (Reply({"object": "error", "message": "full"}, 503), r"503 Service Unavailable \(full\)"),
        (Reply({"error": "slow down"}, 429), r"429 Too Many Requests \(slow down\)"),
        (Reply(drop=True), "RemoteProtocolError: Server disconnected"),
    ],
)
def test_after_all_attempts_the_error_tells_how_many_and_the_last(
    serve: Serve, trouble: Reply, words: str
) -> None:
    server = serve(in_turn(trouble))
    with remote(server, attempts=3) as model:
        message = failure_of(model)
    assert len(server.asked) == 3
    assert message.startswith(f"{server.url}: no answer after 3 attempts in ")
    assert re.search(words, message)


def test_a_server_that_hangs_is_an_error_in_time(serve: Serve) -> None:
    server: Server

    def hang(_: Asked) -> Reply:
        return Reply(drop=server.over.wait(30))

    server = serve(hang)
    with remote(server, timeout=0.1, attempts=2) as model:
        message = failure_of(model)
    assert "2 attempts" in message
    assert "no answer within 0.1 s" in message


def test_a_server_that_trickles_is_out_of_time_too(serve: Serve) -> None:
    """Each byte is in time, the whole is not."""
    server = serve(in_turn(Reply(b" " * 1000, pause=0.02)))
    with remote(server, timeout=0.2, attempts=1) as model:
        assert "1 attempt in" in failure_of(model)


def test_nobody_there_is_an_error_soon(serve: Serve) -> None:
    url = closed_port()
    with RemoteModel(url, "m", attempts=3, backoff=QUICK) as model:
        assert "3 attempts" in failure_of(model)
    with pytest.raises(ScorerError, match=f"{url}: no answer after 3 attempts .*ConnectError"):
        RemoteModel(url, attempts=3, backoff=QUICK)


def test_the_deadline_ends_it_before_the_attempts_do(serve: Serve) -> None:
    server = serve(in_turn(Reply(b"", 500)))
    with remote(server, attempts=10**6, deadline=0.2) as model:
        assert "500" in failure_of(model)
    assert 1 < len(server.asked) < 10**4


def test_a_server_that_comes_up_late_is_found(serve: Serve) -> None:
    url = closed_port()
    port = int(url.rpartition(":")[2].removesuffix("/v1"))
    later = threading.Timer(0.2, lambda: serve(echo, port))
    with RemoteModel(url, "m", attempts=100, backoff=QUICK) as model:
        later.start()
        assert answer_of(model).text == "re 0"
    later.join()


def test_a_server_that_starts_again_in_the_middle_loses_nothing(serve: Serve) -> None:
    """Far more refused connections than attempts: a server that has answered is waited for."""
    killed = threading.Event()

    def until_killed(asked: Asked) -> Reply:
        if asked.number < 4:
            return echo(asked)
        first.socket.close()
        killed.set()
        return Reply(drop=True)

    first = serve(until_killed)
    with remote(first, attempts=4, concurrency=2) as model, ThreadPoolExecutor(1) as thread:
        answers = thread.submit(ask, model, 12)
        assert killed.wait(20)
        first.stop()
        time.sleep(0.3)
        second = serve(echo, first.server_port)
        got = answers.result(20)
    assert got == [Completion(f"re {i}", 30, 7) for i in range(12)]
    assert sorted(asked.text for asked in second.asked) == sorted(f"{i}" for i in range(4, 12))


def test_a_server_that_does_not_come_back_leaves_what_it_answered(serve: Serve) -> None:
    server: Server

    def answer_two(asked: Asked) -> Reply:
        if asked.number < 2:
            return echo(asked)
        server.socket.close()
        return Reply(drop=True)

    server = serve(answer_two)
    with remote(server, concurrency=1, deadline=0.3) as model:
        got = ask(model, 6)
        assert [isinstance(each, Completion) for each in got] == [True] * 2 + [False] * 4
        assert len({str(each) for each in got[2:]}) == 1  # the others were not even tried
        with pytest.raises(ScorerError, match="ConnectError"):
            ask(model, 2)


def test_one_prompt_that_the_server_breaks_on_is_that_prompts_error_alone(serve: Serve) -> None:
    server = serve(lambda asked: Reply(b"", 500) if asked.text == "1" else echo(asked))
    with remote(server, concurrency=1, attempts=2) as model:
        got = ask(model, 3)
    assert [isinstance(each, ScorerError) for each in got] == [False, True, False]


# What is not tried again


def test_a_server_that_refuses_the_request_says_why(serve: Serve) -> None:
    error = {"error": {"message": "This model's context\nis 4096 tokens", "code": 400}}
    server = serve(lambda asked: Reply(error, 400) if asked.text == "1" else echo(asked))
    with remote(server) as model:
        first, second, third = ask(model, 3)
    assert isinstance(first, Completion)
    assert isinstance(third, Completion)
    assert "400 Bad Request (This model's context is 4096 tokens)" in str(second)
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_is_asked_once(serve: Serve, status: int) -> None:
    server = serve(in_turn(Reply({"error": {"message": "who are you?"}}, status)))
    with (
        remote(server, concurrency=1) as model,
        pytest.raises(ScorerError, match=rf"{status} .*who are you.*variable {KEY_VARIABLE}"),
    ):
        ask(model, 5)
    assert len(server.asked) == 1


def test_a_model_that_the_server_has_not_is_in_its_words(serve: Serve) -> None:
    server = serve(in_turn(Reply({"message": "The model `m` does not exist"}, 404)))
    with remote(server) as model:
        message = failure_of(model)
    assert "404 Not Found (The model `m` does not exist)" in message


def test_a_server_that_has_moved_is_not_followed(serve: Serve) -> None:
    server = serve(in_turn(Reply(b"", 308, headers={"Location": "https://elsewhere/v1"})))
    with remote(server) as model:
        assert "moved to https://elsewhere/v1" in failure_of(model)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(b"<html>\n<h1>Sign in</h1></html>", kind="text/html"), "text/html .*Sign in"),
        (Reply({"status": "ok"}), "application/json .*status"),
        (Reply({"choices": []}), "application/json"),
        (Reply({"choices": [{"message": None}]}), "application/json"),
        (Reply({"choices": [{"message": {"content": [1]}}]}), "application/json"),
        (Reply([]), "application/json"),
        (Reply(b"\xff\xfe", kind="application/json"), "application/json"),
        (Reply(b""), "application/json"),
    ],
)
def test_what_is_no_chat_completion_is_named(serve: Serve, reply: Reply, words: str) -> None:
    server = serve(in_turn(reply))
    with remote(server) as model:
        message = failure_of(model)
    assert re.search(words, message)
    assert "a chat completion was expected" in message
    assert len(server.asked) == 1


# The key and the pictures stay between the two


def test_the_key_is_the_one_of_the_environment_variable(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(echo)
    monkeypatch.setenv("OPENAI_API_KEY", "not for you")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with remote(server, key=None) as model:
        answer_of(model)
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\n")
    with remote(server, key=None) as model:
        answer_of(model)
    assert [asked.headers.get("Authorization") for asked in server.asked] == [
        None,
        f"Bearer {KEY}",
    ]


def test_no_message_and_no_log_has_the_key_or_the_picture(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Even from servers that say all that they were told."""
    caplog.set_level(logging.DEBUG)

    def tell(asked: Asked) -> Reply:
        told = asked.headers["Authorization"] + asked.body.decode()
        kinds = (
            Reply({"error": {"message": told}}, 400),
            Reply(told.encode(), 500, "text/plain"),
            Reply({"detail": [{"input": told}]}, 422),
            Reply({"echo": told}),
            Reply({"error": told[told.index("base64,") + 9 :]}, 401),
        )
        return kinds[asked.number]

    server = serve(tell)
    image = picture()
    with remote(server, key=KEY, attempts=1) as model:
        assert KEY not in repr(model) + repr(vars(model))
        messages = []
        for _ in range(5):
            try:
                (answer,) = model.complete([prompt("a", image)], [GREEDY])
            except ScorerError as error:
                answer = error
            messages.append(str(answer))
    sent = server.asked[0].json["messages"][1]["content"][1]["image_url"]["url"].partition(",")[2]
    for text in (*messages, caplog.text):
        assert KEY not in text
        assert not any(sent[i : i + 24] in text for i in range(0, len(sent) - 24))
    assert "400 Bad Request (Bearer [key]" in messages[0]
    assert "401 Unauthorized ([data]" in messages[4]


@pytest.mark.parametrize("key", ["two\nlines", "schl\u00fcssel"])
def test_a_key_that_cannot_be_sent_is_not_shown_either(key: str) -> None:
    with pytest.raises(ConfigError, match=KEY_VARIABLE) as caught:
        RemoteModel("http://127.0.0.1:1/v1", "m", key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@host/v1",
        "http://host/v1?key=secret",
        "http://host/v1#secret",
        "http://[secret",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"address") as caught:
        RemoteModel(url, "m")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "host:8000", "ftp://host/v1", "/v1", "http:///v1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{url!r} is no server's address")):
        RemoteModel(url, "m")


@pytest.mark.parametrize(
    "setting", [{"concurrency": 0}, {"attempts": 0}, {"timeout": 0}, {"deadline": float("nan")}]
)
def test_settings_out_of_range_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        RemoteModel("http://127.0.0.1:1/v1", "m", **setting)


# Threads


def test_so_many_are_asked_at_once_and_no_more(serve: Serve) -> None:
    """Three have to be there before any is answered; four threads would send more."""
    three = threading.Barrier(3)

    def together(asked: Asked) -> Reply:
        three.wait(20)
        return echo(asked)

    server = serve(together)
    with remote(server, concurrency=3) as model, ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: ask(model, 3), range(4)))
    expected = [Completion(f"re {i}", 30, 7) for i in range(3)]
    assert answers == [expected] * 4
    assert server.most_at_once == 3


def test_a_thread_with_an_event_loop_of_its_own_can_ask(serve: Serve) -> None:
    async def main(model: RemoteModel) -> Completion:
        return answer_of(model)

    with remote(serve(echo)) as model:
        assert asyncio.run(main(model)).text == "re 0"


Threads = Callable[[], list[threading.Thread]]


@pytest.fixture
def begun() -> Threads:
    """The models' threads that have begun since: other tests in this process may have left some."""

    def threads_of_ours() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "qinsight-remote"]

    others = threads_of_ours()
    return lambda: [each for each in threads_of_ours() if each not in others]


def test_closing_ends_what_is_being_asked(serve: Serve, begun: Threads) -> None:
    arrived = threading.Event()

    def hang(asked: Asked) -> Reply:
        arrived.set()
        return Reply(drop=server.over.wait(30))

    server = serve(hang)
    model = remote(server, concurrency=1)
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(ask, model, 3)
        assert arrived.wait(20)
        model.close()
        model.close()
        with pytest.raises(ScorerError, match="closed"):
            answers.result(20)
    with pytest.raises(ScorerError, match="closed"):
        ask(model)
    assert begun() == []


def test_a_model_that_nobody_holds_is_closed(serve: Serve, begun: Threads) -> None:
    model = remote(serve(echo))
    answer_of(model)
    assert len(begun()) == 1
    del model
    gc.collect()
    assert begun() == []


def test_a_process_may_end_without_closing(serve: Serve) -> None:
    """In silence; by a host's name, for to look it up takes threads, which have to end too."""
    code = """if True:
        import sys
        from qinsight_plugin.reasoning.model import Prompt, Sampling
        from qinsight_plugin.reasoning.wire import RemoteModel
        model = RemoteModel(sys.argv[1], "m")
        print(model.complete([Prompt("", ("0",))], [Sampling()])[0].text)
    """
    url = serve(echo).url.replace("127.0.0.1", "localhost")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, url], capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"re 0", b"")


def test_a_model_that_cannot_be_opened_leaves_nothing(serve: Serve, begun: Threads) -> None:
    with pytest.raises(ScorerError):
        remote(serve(in_turn(Reply(b"", 401))), model=None)
    assert begun() == []


# The waits


@given(st.integers(1, 10**6), st.floats(0, 10**6), st.floats(0.01, 5), st.floats(0.01, 100))
def test_a_wait_is_under_its_ceiling_and_not_under_what_was_asked(
    failures: int, asked: float, first: float, longest: float
) -> None:
    wait = Backoff(first, longest, longest_asked=20).delay(failures, asked)
    wished = min(asked, 20)
    assert wished <= wait <= max(wished, longest, 0)
    assert failures > 1 or wait <= max(wished, first)


def test_waits_double_and_are_spread_over_all_of_their_range() -> None:
    backoff = Backoff(first=1, longest=8)
    for failures, ceiling in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (5000, 8)]:
        waits = np.array([backoff.delay(failures) for _ in range(2000)]) / ceiling
        # Uniform: mean 1/2 with a standard error of 1 / sqrt(12 * 2000) = 0.0065.
        assert waits.mean() == pytest.approx(0.5, abs=0.04)
        assert waits.max() <= 1
        assert waits.max() > 0.97 > 0.03 > waits.min()


def test_a_server_says_in_either_way_when_to_come_back() -> None:
    assert retry_after("120") == 120
    soon = datetime.now(timezone.utc) + timedelta(seconds=90)
    assert retry_after(format_datetime(soon, usegmt=True)) == pytest.approx(90, abs=5)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 -0000") == 0


@given(st.none() | st.text() | st.sampled_from(["", "soon", "-3", "1.5", "\u0664", "9" * 999]))
def test_whatever_a_server_says_instead_is_a_wait(header: str | None) -> None:
    assert retry_after(header) >= 0
