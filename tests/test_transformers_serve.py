"""The client and a real server: `transformers serve`, with a tiny taught model, on the loopback."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("httpx")
pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("openai")

import httpx

from qinsight_plugin.errors import ScorerError
from qinsight_plugin.reasoning.backoff import Backoff
from qinsight_plugin.reasoning.loading import Loading
from qinsight_plugin.reasoning.local import LocalModel
from qinsight_plugin.reasoning.model import Completion, Prompt, Sampling
from qinsight_plugin.reasoning.prompts import ANSWER_PREFIX, ask_rating
from qinsight_plugin.reasoning.wire import RemoteModel
from qinsight_plugin.testing.lessons import picture_of

pytestmark = [pytest.mark.slow, pytest.mark.real]

COMMAND = Path(sys.executable).with_name("transformers")
PROMPTS = [ask_rating(picture_of(brightness / 11, brightness)) for brightness in range(12)]
GREEDY = Sampling(max_tokens=64)
START_SECONDS = 300

NO_VIDEOS = """
import transformers
from transformers.video_processing_utils import VideoProcessorMixin

transformers.VideoProcessorMixin = VideoProcessorMixin

class NoVideos(VideoProcessorMixin):
    merge_size = 2
"""
"""Stands for the part of the processor that is for videos, which alone needs torchvision: no CPU
build of that goes with every CPU build of torch."""


@dataclass
class Served:
    """A server's process, its address, and what it has written."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def answered(self) -> int:
        return self.log.read_text("utf-8").count('"POST /v1/chat/completions HTTP/1.1" 200')

    def wait_until(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while not happened():
            assert self.process.poll() is None, self.log.read_text("utf-8")[-2000:]
            assert time.monotonic() < end, self.log.read_text("utf-8")[-2000:]
            time.sleep(0.005)

    def is_well(self) -> bool:
        try:
            return bool(httpx.get(self.url.replace("/v1", "/health")).is_success)
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


Start = Callable[[int], Served]


@pytest.fixture(scope="module")
def checkpoint(reasoner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(reasoner, tmp_path_factory.mktemp("served") / "tiny")
    if importlib.util.find_spec("torchvision") is None:
        (folder / "no_videos.py").write_text(NO_VIDEOS, "utf-8")
        auto_map = {"auto_map": {"AutoVideoProcessor": "no_videos.NoVideos"}}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(auto_map), "utf-8")
        processor = {"processor_class": "Qwen2_5_VLProcessor"}
        (folder / "processor_config.json").write_text(json.dumps(processor), "utf-8")
    return folder


@pytest.fixture(scope="module")
def start(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a server on a port; it need not be up yet when this returns."""
    home = tmp_path_factory.mktemp("home")
    started: list[Served] = []

    def start_one(port: int) -> Served:
        log = home / f"{len(started)}.log"
        flags = ("--trust-remote-code", "--device", "cpu", "--host", "127.0.0.1")
        variables = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [COMMAND, "serve", checkpoint, *flags, "--port", str(port)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables},
            )
        started.append(Served(process, f"http://127.0.0.1:{port}/v1", log))
        return started[-1]

    yield start_one
    for served in started:
        served.kill()


@pytest.fixture(scope="module")
def server(start: Start) -> Served:
    """One that stays."""
    served = start(free_port())
    served.wait_until(served.is_well)
    return served


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def remote(url: str, checkpoint: Path | None) -> RemoteModel:
    return RemoteModel(
        url,
        str(checkpoint) if checkpoint else None,
        concurrency=4,
        attempts=2,
        backoff=Backoff(first=0.1, longest=0.5),
        key="",
    )


def completions(model: RemoteModel | LocalModel, prompts: list[Prompt]) -> list[Completion]:
    answers = model.complete(prompts, [GREEDY] * len(prompts))
    assert all(isinstance(answer, Completion) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Completion)]


@pytest.fixture(scope="module")
def undisturbed(server: Served, checkpoint: Path) -> list[Completion]:
    with remote(server.url, checkpoint) as model:
        return completions(model, PROMPTS)


def test_a_server_says_what_the_same_model_says_in_this_process(
    undisturbed: list[Completion], checkpoint: Path
) -> None:
    """But for the line ends around the thoughts, which it takes out."""
    local = LocalModel.load(str(checkpoint), loading=Loading(device="cpu"))

    def essence(answer: Completion) -> tuple[str, int, int, bool]:
        text = re.sub(r"\s+", "", answer.text)
        return text, answer.prompt_tokens, answer.completion_tokens, answer.cut

    expected = [essence(answer) for answer in completions(local, PROMPTS)]
    assert [essence(answer) for answer in undisturbed] == expected
    assert len(set(expected)) > 4
    assert all(text.startswith("<think>Thepictureis") for text, *_ in expected)


def test_a_server_killed_in_the_middle_and_started_again_loses_nothing(
    undisturbed: list[Completion], start: Start, checkpoint: Path
) -> None:
    port = free_port()
    first = start(port)
    first.wait_until(first.is_well)
    with remote(first.url, checkpoint) as model, ThreadPoolExecutor(1) as thread:
        answers = thread.submit(completions, model, PROMPTS)
        first.wait_until(lambda: first.answered >= 2)
        first.kill()
        assert first.answered < len(PROMPTS)
        assert not answers.done()
        second = start(port)
        got = answers.result(START_SECONDS)
    assert got == undisturbed
    # Answers that were on their way when the first was killed are asked for once more.
    assert 0 <= first.answered + second.answered - len(PROMPTS) <= 4


def test_a_server_draws_as_it_is_told(
    undisturbed: list[Completion], server: Served, checkpoint: Path
) -> None:
    """The likeliest token of one is the likeliest, however hot; of fifty, it is any."""
    with remote(server.url, checkpoint) as model:
        (cold,) = model.complete(PROMPTS[:1], [Sampling(5.0, 1, 1.0, 0, 64)])
        (hot,) = model.complete(PROMPTS[:1], [Sampling(5.0, 50, 1.0, 0, 64)])
    assert cold == undisturbed[0]
    assert isinstance(hot, Completion)
    assert hot.text != undisturbed[0].text


def test_a_server_cuts_a_reply_at_the_limit(server: Served, checkpoint: Path) -> None:
    with remote(server.url, checkpoint) as model:
        (answer,) = model.complete(PROMPTS[:1], [Sampling(max_tokens=5)])
    assert isinstance(answer, Completion)
    assert (answer.cut, answer.completion_tokens) == (True, 5)
    assert "</think>" not in answer.text


def test_a_server_without_logprobs_cannot_do_the_direct_mode(
    server: Served, checkpoint: Path
) -> None:
    with remote(server.url, checkpoint) as model:
        (answer,) = model.next_token(PROMPTS[:1], ANSWER_PREFIX, ["1", "2"])
    assert isinstance(answer, ScorerError)
    assert "mode=direct needs a server that gives logprobs" in str(answer)


def test_without_a_name_the_only_model_is_taken_or_one_is_wanted(server: Served) -> None:
    """Up to transformers 5.23 a server that has one model fails to list it."""
    listed = httpx.get(f"{server.url}/models")
    if listed.is_success:
        (only,) = listed.json()["data"]
        with remote(server.url, None) as model:
            assert model.version == only["id"]
            completions(model, PROMPTS[:1])
    else:
        with pytest.raises(ScorerError, match="name the model"):
            remote(server.url, None)


def test_an_address_without_v1_is_completed_in_the_message(
    server: Served, checkpoint: Path
) -> None:
    url = server.url.removesuffix("/v1")
    with (
        remote(url, checkpoint) as model,
        pytest.raises(ScorerError, match=f"404 .*: take {url}/v1"),
    ):
        model.complete(PROMPTS[:1], [GREEDY])
