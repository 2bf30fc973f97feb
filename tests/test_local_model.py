"""The model in this process: what it answers does not depend on who else asks."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image as PILImage

from qinsight_plugin.errors import ConfigError, ScorerError
from qinsight_plugin.reasoning import local
from qinsight_plugin.reasoning.loading import Checkpoint, Loading, load_checkpoint
from qinsight_plugin.reasoning.local import LocalModel
from qinsight_plugin.reasoning.model import Completion, LanguageModel, NextToken, Prompt, Sampling
from qinsight_plugin.records import Image
from qinsight_plugin.testing import ARCHITECTURES, tiny_checkpoint

pytest.importorskip("transformers")
try:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
except ModuleNotFoundError:  # transformers 4
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

SYSTEM = "You judge pictures."
PREFIX = "<answer>\n"
DRAWN = Sampling(temperature=1.0, max_tokens=8)


def crop(name: str, height: int, width: int) -> Image:
    pixels = getattr(skimage.data, name)()[:height, :width].copy()
    return Image(pixels, source=f"{name}.png", width=width, height=height)


PROMPTS = (
    Prompt(SYSTEM, ("How good is this picture?", crop("astronaut", 56, 84))),
    Prompt(SYSTEM, (crop("chelsea", 100, 60), "Rate it from 1 to 5.")),
    Prompt("", ("What is wrong with this one, if anything is wrong?", crop("coffee", 28, 28))),
    Prompt(SYSTEM, ("Score:", crop("coffee", 300, 100))),
    Prompt(
        SYSTEM,
        (
            "Reference:",
            crop("astronaut", 60, 60),
            "A:",
            crop("chelsea", 90, 56),
            "B:",
            crop("coffee", 40, 112),
            "Which is better?",
        ),
    ),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {name: tiny_checkpoint(root / name, architecture=name) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def checkpoint(folders: dict[str, Path]) -> Checkpoint:
    return load_checkpoint(str(folders["qwen2_5_vl"]))


@pytest.fixture
def model(checkpoint: Checkpoint) -> LocalModel:
    return LocalModel(checkpoint, "tiny", batch=5)


def completions(answers: Sequence[Completion | ScorerError]) -> list[Completion]:
    for answer in answers:
        assert isinstance(answer, Completion), answer
    return [answer for answer in answers if isinstance(answer, Completion)]


def chances(answers: Sequence[NextToken | ScorerError]) -> np.ndarray:
    for answer in answers:
        assert isinstance(answer, NextToken), answer
    return np.array([a.probabilities for a in answers if isinstance(a, NextToken)])


def by_hand(checkpoint: Checkpoint, prompt: Prompt, reply: str = "") -> dict[str, torch.Tensor]:
    """One prompt as the model's inputs, from Qwen's template written out here."""
    tokenizer, images = checkpoint.encoder.tokenizer, checkpoint.encoder.images
    pictures = [PILImage.fromarray(p.pixels) for p in prompt.parts if isinstance(p, Image)]
    seen = images(images=pictures, return_tensors="pt")
    counts = iter((seen["image_grid_thw"].prod(-1) // images.merge_size**2).tolist())
    text = f"<|im_start|>system\n{prompt.system}<|im_end|>\n<|im_start|>user\n"
    for part in prompt.parts:
        placeholders = "" if isinstance(part, str) else "<|image_pad|>" * next(counts)
        text += part if isinstance(part, str) else f"<|vision_start|>{placeholders}<|vision_end|>"
    text += f"<|im_end|>\n<|im_start|>assistant\n{reply}"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **seen}
    if "mm_token_type_ids" in inspect.signature(checkpoint.model.forward).parameters:
        placeholder = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        inputs["mm_token_type_ids"] = (ids == placeholder).long()
    return inputs


def test_the_encoder_gives_what_the_template_says(checkpoint: Checkpoint) -> None:
    for prompt in PROMPTS:
        expected = by_hand(checkpoint, prompt)
        encoded = checkpoint.encoder.encode(prompt)
        assert encoded.tokens == expected["input_ids"][0].tolist()
        assert torch.equal(encoded.pictures["pixel_values"], expected["pixel_values"])
        assert torch.equal(encoded.pictures["image_grid_thw"], expected["image_grid_thw"])


def test_greedy_replies_are_the_likeliest_tokens_one_after_the_other(
    checkpoint: Checkpoint, model: LocalModel
) -> None:
    """Computed anew for each token: no cache, no padding, no generate()."""
    replies = completions(model.complete(PROMPTS, [Sampling(max_tokens=5)] * 5))
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        inputs = by_hand(checkpoint, prompt)
        read = inputs["input_ids"].shape[1]
        for _ in range(5):
            with torch.no_grad():
                taken = checkpoint.model(**inputs, use_cache=False).logits[0, -1].argmax()
            for name, value in (("input_ids", taken), ("attention_mask", 1)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], -1)
            if "mm_token_type_ids" in inputs:
                inputs["mm_token_type_ids"] = torch.nn.functional.pad(
                    inputs["mm_token_type_ids"], (0, 1)
                )
        expected = checkpoint.encoder.tokenizer.decode(inputs["input_ids"][0, read:])
        assert reply.text == expected
        assert (reply.prompt_tokens, reply.completion_tokens, reply.cut) == (read, 5, True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_is_the_same_alone_and_in_every_batch(
    folders: dict[str, Path], architecture: str, temperature: float
) -> None:
    model = LocalModel.load(str(folders[architecture]), batch=5)
    samplings = [
        Sampling(temperature=temperature, seed=k, max_tokens=4 + k) for k in range(len(PROMPTS))
    ]
    together = completions(model.complete(PROMPTS, samplings))
    for k, prompt in enumerate(PROMPTS):
        assert model.complete([prompt], [samplings[k]]) == [together[k]]
    pair = [3, 0]
    assert model.complete([PROMPTS[k] for k in pair], [samplings[k] for k in pair]) == [
        together[k] for k in pair
    ]
    for k, reply in enumerate(together):
        assert reply.completion_tokens == 4 + k or not reply.cut


def test_greedy_and_drawn_replies_share_a_batch(model: LocalModel) -> None:
    prompts = [PROMPTS[0]] * 4
    samplings = [Sampling(max_tokens=8), DRAWN, dataclasses.replace(DRAWN, seed=1), DRAWN]
    replies = completions(model.complete(prompts, samplings))
    assert replies[1] == replies[3]
    assert len({reply.text for reply in replies}) == 3
    assert model.complete(prompts[:1], samplings[:1]) == replies[:1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_next_token_has_the_models_own_probabilities(
    folders: dict[str, Path], architecture: str
) -> None:
    checkpoint = load_checkpoint(str(folders[architecture]))
    model = LocalModel(checkpoint, "tiny", batch=3)
    digits = ["1", "2", "3", "4", "5"]
    answers = model.next_token(PROMPTS, PREFIX, digits)
    ids = checkpoint.encoder.tokenizer.convert_tokens_to_ids(digits)
    for prompt, answer, found in zip(PROMPTS, answers, chances(answers), strict=True):
        inputs = by_hand(checkpoint, prompt, PREFIX)
        with torch.no_grad():
            expected = checkpoint.model(**inputs).logits[0, -1].double().softmax(-1)[ids]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)
        assert isinstance(answer, NextToken)
        assert answer.prompt_tokens == inputs["input_ids"].shape[1]


def test_threads_are_answered_in_one_batch(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is so long that only a full batch can end it."""
    monkeypatch.setattr(local, "_LINGER", 100.0)
    model = LocalModel(checkpoint, "tiny", batch=len(PROMPTS))
    rows = spy(monkeypatch, checkpoint)
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(lambda p: model.complete([p], [DRAWN])[0], PROMPTS))
    assert rows == [len(PROMPTS)]
    monkeypatch.setattr(local, "_LINGER", 0.0)
    assert LocalModel(checkpoint, "tiny").complete(PROMPTS, [DRAWN] * 5) == answers


def test_threads_that_ask_for_different_things_do_not_disturb_each_other(
    model: LocalModel,
) -> None:
    replies = model.complete(PROMPTS, [DRAWN] * 5)
    digits = chances(model.next_token(PROMPTS, PREFIX, ["1", "5"]))

    def ask(k: int) -> None:
        which = k % len(PROMPTS)
        if k % 3:
            assert model.complete([PROMPTS[which]], [DRAWN]) == [replies[which]]
        else:
            found = chances(model.next_token([PROMPTS[which]], PREFIX, ["1", "5"]))
            np.testing.assert_allclose(found[0], digits[which], rtol=1e-4)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(24)))


def test_one_thread_at_a_time_runs_the_model(
    checkpoint: Checkpoint, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It remembers the positions of its last batch."""
    inside: list[int] = []
    together: list[int] = []

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)  # generate() looks at forward()'s arguments
        def run(**inputs: Any) -> Any:
            inside.append(threading.get_ident())
            time.sleep(0.05)
            together.append(len(set(inside)))
            made = work(**inputs)
            inside.remove(threading.get_ident())
            return made

        return run

    monkeypatch.setattr(checkpoint.model, "generate", watched(checkpoint.model.generate))
    monkeypatch.setattr(checkpoint.model, "forward", watched(checkpoint.model.forward))
    start = threading.Barrier(2)

    def write() -> None:
        start.wait()
        for _ in range(3):
            completions(model.complete(PROMPTS[:1], [Sampling(max_tokens=1)]))

    def read() -> None:
        start.wait()
        for _ in range(3):
            chances(model.next_token(PROMPTS[:1], PREFIX, ["1"]))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write), pool.submit(read)]:
            done.result()
    assert len(together) == 9  # three of generate(), each with a forward(), and three of these
    assert set(together) == {1}


def spy(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> list[int]:
    """The rows of each batch that is generated from now on."""
    rows: list[int] = []
    generate = checkpoint.model.generate

    def counted(**inputs: Any) -> torch.Tensor:
        rows.append(len(inputs["input_ids"]))
        made: torch.Tensor = generate(**inputs)
        return made

    monkeypatch.setattr(checkpoint.model, "generate", counted)
    return rows


def ending(checkpoint: Checkpoint, prompt: Prompt, after: int) -> tuple[Any, int]:
    """A generation config under which the greedy reply to a prompt ends early, and where."""
    with torch.no_grad():
        inputs = by_hand(checkpoint, prompt)
        made = checkpoint.model.generate(**inputs, max_new_tokens=after, do_sample=False)
    tokens = made[0, inputs["input_ids"].shape[1] :].tolist()
    config = type(checkpoint.model.generation_config)(eos_token_id=[tokens[-1], 1])
    return config, tokens.index(tokens[-1]) + 1


def test_a_reply_that_ends_by_itself_is_not_cut(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, count = ending(checkpoint, PROMPTS[1], 6)
    free = completions(
        LocalModel(checkpoint, "tiny").complete(PROMPTS, [Sampling(max_tokens=9)] * 5)
    )
    monkeypatch.setattr(checkpoint.model, "generation_config", config)
    model = LocalModel(checkpoint, "tiny")
    (reply,) = completions(model.complete([PROMPTS[1]], [Sampling(max_tokens=9)]))
    assert (reply.completion_tokens, reply.cut) == (count, False)
    assert free[1].text.startswith(reply.text)
    # Its end at the limit is still an end; one token earlier it is cut.
    for limit, cut in ((count, False), (count - 1, True)):
        (reply,) = completions(model.complete([PROMPTS[1]], [Sampling(max_tokens=limit)]))
        assert (reply.completion_tokens, reply.cut) == (limit, cut)
    # Rows that go on for longer change nothing.
    together = completions(model.complete(PROMPTS, [Sampling(max_tokens=9)] * 5))
    assert (together[1].completion_tokens, together[1].cut) == (count, False)


def test_special_tokens_are_not_in_the_text(
    checkpoint: Checkpoint, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = checkpoint.encoder.tokenizer
    said = tokenizer("fine<|im_end|><|endoftext|><|endoftext|>")["input_ids"]

    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([input_ids, torch.tensor([said] * len(input_ids))], -1)

    monkeypatch.setattr(checkpoint.model, "generate", generate)
    (reply,) = completions(model.complete(PROMPTS[:1], [Sampling()]))
    assert (reply.text, reply.completion_tokens) == ("fine", len(said) - 2)
    assert not reply.cut


def test_a_choice_must_be_one_token(model: LocalModel) -> None:
    with pytest.raises(ConfigError, match=r"'10' after '<answer>\\n' is not one token"):
        model.next_token(PROMPTS[:1], PREFIX, ["1", "10"])
    with pytest.raises(ConfigError, match="'' after"):
        model.next_token(PROMPTS[:1], PREFIX, [""])


def test_a_choice_must_not_run_into_the_prefix(checkpoint: Checkpoint, model: LocalModel) -> None:
    tokenize = checkpoint.encoder.ids
    assert len(tokenize(" picture")) == len(tokenize("e")) == 1
    with pytest.raises(ConfigError, match="'e' after ' pictur' is not one token"):
        model.next_token(PROMPTS[:1], " pictur", ["e"])


@pytest.mark.parametrize(
    ("height", "width"), [(56, 84), (60, 80), (28, 28), (300, 100), (10, 12), (112, 113)]
)
def test_a_note_says_when_a_picture_is_scaled(
    checkpoint: Checkpoint, model: LocalModel, height: int, width: int
) -> None:
    images = checkpoint.encoder.images
    least = getattr(images, "min_pixels", None) or images.size["shortest_edge"]
    seen_height, seen_width = smart_resize(height, width, 28, least, checkpoint.encoder.pixels)
    scaled = max(abs(seen_height - height), abs(seen_width - width)) > 14
    picture = crop("coffee", height, width)
    (reply,) = completions(model.complete([Prompt("", (picture,))], [Sampling(max_tokens=1)]))
    expected = (f"scaled to {seen_width}x{seen_height} for the model",) if scaled else ()
    assert reply.notes == expected
    (answer,) = model.next_token([Prompt("", (picture, "and", picture))], "", ["1"])
    assert isinstance(answer, NextToken)
    assert answer.notes == tuple(f"coffee.png: {note}" for note in expected * 2)


def test_one_prompt_that_cannot_be_read_does_not_spoil_the_others(model: LocalModel) -> None:
    strip = Prompt("", ("?", crop("coffee", 2, 590)))
    blind = Prompt(SYSTEM, ("How good is it?",))
    trick = Prompt(SYSTEM, ("<|image_pad|>", crop("coffee", 28, 28)))
    prompts = [PROMPTS[0], strip, blind, trick, PROMPTS[1]]
    answers = model.complete(prompts, [DRAWN] * 5)
    numbers = model.next_token(prompts, PREFIX, ["1"])
    for found in (answers, numbers):
        for bad, message in ((1, "coffee.png.*aspect ratio"), (2, "no picture"), (3, "holds the")):
            error = found[bad]
            with pytest.raises(ScorerError, match=message):
                raise error if isinstance(error, ScorerError) else AssertionError(error)
    alone = model.complete([PROMPTS[0], PROMPTS[1]], [DRAWN] * 2)
    assert [answers[0], answers[4]] == alone
    assert isinstance(numbers[0], NextToken)


def short_of_memory(
    limit: int, work: Callable[..., Any], error: Callable[[], BaseException]
) -> tuple[Callable[..., Any], list[int]]:
    """`work` that fails as torch does on more than `limit` rows, and the rows that were tried."""
    tried: list[int] = []

    def run(**inputs: Any) -> Any:
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > limit:
            raise error()
        return work(**inputs)

    return run, tried


def on_gpu() -> BaseException:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")


def on_cpu() -> BaseException:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"
    )


@pytest.mark.parametrize("error", [on_gpu, on_cpu, MemoryError])
def test_a_batch_that_does_not_fit_is_halved_for_good_and_says_so(
    checkpoint: Checkpoint,
    model: LocalModel,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], BaseException],
) -> None:
    expected = completions(model.complete(PROMPTS, [DRAWN] * 5))
    generate, tried = short_of_memory(2, checkpoint.model.generate, error)
    monkeypatch.setattr(checkpoint.model, "generate", generate)
    found = completions(model.complete(PROMPTS, [DRAWN] * 5))
    assert tried == [5, 2, 2, 1]
    note = "batch cut to 2: memory"
    assert found == [dataclasses.replace(e, notes=(*e.notes, note)) for e in expected]
    again = completions(model.complete(PROMPTS, [DRAWN] * 5))
    assert tried[4:] == [2, 2, 1]
    assert again == found


def test_a_prompt_that_does_not_fit_alone_is_an_error_of_its_own(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = checkpoint.model.generate
    lengths = [len(checkpoint.encoder.encode(prompt).tokens) for prompt in PROMPTS]
    longest = max(lengths)
    assert lengths.count(longest) == 1

    def run(**inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] >= longest:
            raise on_gpu()
        return generate(**inputs)

    monkeypatch.setattr(checkpoint.model, "generate", run)
    answers = LocalModel(checkpoint, "tiny", batch=5).complete(PROMPTS, [DRAWN] * 5)
    error = answers.pop(lengths.index(longest))
    assert len(completions(answers)) == 4
    with pytest.raises(ScorerError, match=f"tiny ran out of memory on one prompt of {longest} "):
        raise error if isinstance(error, ScorerError) else AssertionError(error)


def test_the_next_token_too_is_computed_in_parts_that_fit(
    checkpoint: Checkpoint, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = chances(model.next_token(PROMPTS, PREFIX, ["1", "2"]))
    forward, tried = short_of_memory(3, checkpoint.model.forward, on_gpu)
    monkeypatch.setattr(checkpoint.model, "forward", forward)
    found = model.next_token(PROMPTS, PREFIX, ["1", "2"])
    assert tried == [5, 2, 2, 1]
    np.testing.assert_allclose(chances(found), expected, rtol=1e-4)
    assert all("batch cut to 2: memory" in a.notes for a in found if isinstance(a, NextToken))


def test_another_failure_of_the_model_is_raised_with_its_cause(
    checkpoint: Checkpoint, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with")

    monkeypatch.setattr(checkpoint.model, "generate", broken)
    with pytest.raises(ScorerError, match="tiny failed on a batch of 1: CUDA error") as caught:
        model.complete(PROMPTS[:1], [DRAWN])
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert completions(model.complete(PROMPTS[:1], [DRAWN]))  # it works on


def test_numbers_that_are_none_are_an_error_and_no_probability(
    checkpoint: Checkpoint, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = checkpoint.model.forward

    def overflown(**inputs: Any) -> Any:
        made = forward(**inputs)
        made.logits[0] = torch.nan
        return made

    monkeypatch.setattr(checkpoint.model, "forward", overflown)
    first, second = model.next_token(PROMPTS[:2], PREFIX, ["1"])
    assert isinstance(first, ScorerError)
    assert "NaN" in str(first)
    assert isinstance(second, NextToken)


def test_the_checkpoints_own_way_of_sampling_has_no_say(
    tmp_path: Path, folders: dict[str, Path], model: LocalModel
) -> None:
    """Qwen's files ask for a repetition penalty, which would count the padding too."""
    from transformers import GenerationConfig

    folder = tiny_checkpoint(tmp_path / "penalty")
    config = GenerationConfig.from_pretrained(folder)
    config.update(do_sample=True, temperature=0.5, top_k=2, repetition_penalty=3.0)
    config.save_pretrained(folder)
    samplings = [Sampling(max_tokens=12), dataclasses.replace(DRAWN, max_tokens=12)]
    penalised = LocalModel.load(str(folder)).complete(PROMPTS[:2], samplings)
    assert penalised == model.complete(PROMPTS[:2], samplings)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_holds_at_least_one(checkpoint: Checkpoint, batch: int) -> None:
    with pytest.raises(ConfigError, match="batch must be 1 or more"):
        LocalModel(checkpoint, "tiny", batch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_computes_what_the_cpu_does(folders: dict[str, Path], model: LocalModel) -> None:
    pytest.importorskip("accelerate")
    target = str(folders["qwen2_5_vl"])
    there = LocalModel.load(target, loading=Loading("cuda", "float32", "sdpa"))
    found = chances(there.next_token(PROMPTS, PREFIX, ["1", "2"]))
    expected = chances(model.next_token(PROMPTS, PREFIX, ["1", "2"]))
    np.testing.assert_allclose(found, expected, rtol=1e-2)
    replies = completions(there.complete(PROMPTS, [DRAWN] * 5))
    assert [there.complete([prompt], [DRAWN])[0] for prompt in PROMPTS] == replies


def test_nothing_asked_is_nothing_answered(model: LocalModel) -> None:
    assert model.complete([], []) == []
    assert model.next_token([], PREFIX, ["1"]) == []


def test_the_name_and_version_are_the_checkpoints(
    folders: dict[str, Path], checkpoint: Checkpoint
) -> None:
    target = str(folders["qwen2_5_vl"])
    model: LanguageModel = LocalModel.load(target, loading=Loading(device="cpu"))
    assert (model.name, model.version) == (target, checkpoint.version)


def test_pictures_are_encoded_alike_by_many_threads(checkpoint: Checkpoint) -> None:
    expected = [checkpoint.encoder.encode(prompt) for prompt in PROMPTS]
    start = threading.Barrier(8)

    def encode(_: int) -> None:
        start.wait()
        for prompt, known in zip(PROMPTS, expected, strict=True):
            found = checkpoint.encoder.encode(prompt)
            assert found.tokens == known.tokens
            assert torch.equal(found.pictures["pixel_values"], known.pictures["pixel_values"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(encode, range(8)))
