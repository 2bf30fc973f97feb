"""The tiny stand-ins for the vision-language model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError, ScoreParseError
from qinsight_plugin.reasoning.loading import Loading, load_checkpoint
from qinsight_plugin.reasoning.local import LocalModel
from qinsight_plugin.reasoning.model import Completion, NextToken, Prompt, Sampling
from qinsight_plugin.reasoning.prompts import (
    ANSWER_PREFIX,
    RATING_QUESTION,
    SYSTEM,
    ask_distortion,
    ask_preference,
    ask_rating,
)
from qinsight_plugin.reasoning.replies import read_distortion, read_preference, read_rating
from qinsight_plugin.records import Distortion, Image
from qinsight_plugin.testing import (
    ARCHITECTURES,
    Lesson,
    brightness_lessons,
    brightness_of,
    picture_of,
    teach,
    tiny_checkpoint,
)
from qinsight_plugin.testing.lessons import (
    direct_lesson,
    distortion_lesson,
    preference_lesson,
    rating_lesson,
)

jinja2 = pytest.importorskip("jinja2")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

Answer = TypeVar("Answer")
ON_CPU = Loading(device="cpu")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / request.param
    return tiny_checkpoint(folder, architecture=request.param)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny)


def flat(grey: int, height: int = 56, width: int = 84) -> Image:
    pixels = np.full((height, width, 3), grey, np.uint8)
    return Image(pixels, f"<grey {grey}>", width, height)


def weights_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def logits(model: Any, folder: Path, prompt: Prompt) -> Any:
    encoder = load_checkpoint(str(folder), loading=ON_CPU).encoder
    with torch.inference_mode():
        return model.eval()(**encoder.batch([encoder.encode(prompt)], [()])).logits


def test_each_architecture_loads_as_the_published_classes_do(built: Path) -> None:
    model, found = transformers.AutoModelForImageTextToText.from_pretrained(
        built, output_loading_info=True
    )

    assert model.config.model_type == built.name
    assert type(model) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.values()
    assert not any(found.values())
    assert 300_000 < sum(weight.numel() for weight in model.parameters()) < 700_000


def test_what_is_loaded_computes_what_was_built(built: Path) -> None:
    prompt = ask_preference(flat(30), flat(200, 112, 56), flat(90))
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(built)
    as_built = transformers.AutoModelForImageTextToText.from_config(config)
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(built)

    assert torch.equal(logits(as_built, built, prompt), logits(loaded, built, prompt))


def test_saving_what_was_loaded_changes_no_bit(built: Path, tmp_path: Path) -> None:
    transformers.AutoModelForImageTextToText.from_pretrained(built).save_pretrained(tmp_path)

    assert weights_digest(tmp_path) == weights_digest(built)


def test_every_architecture_is_one_that_we_can_ask(built: Path) -> None:
    model = LocalModel(load_checkpoint(str(built), loading=ON_CPU), built.name)

    (reply,) = model.complete([ask_rating(flat(100))], [Sampling(max_tokens=5)])

    assert isinstance(reply, Completion)
    assert reply.completion_tokens == 5


def test_the_processor_loads_whole_where_torchvision_does(tiny: Path) -> None:
    pytest.importorskip("torchvision")
    processor = transformers.AutoProcessor.from_pretrained(tiny)
    encoder = load_checkpoint(str(tiny), loading=ON_CPU).encoder
    prompt = ask_rating(flat(100))
    text = processor.apply_chat_template(
        [
            {"role": "system", "content": SYSTEM},
            {
                "role": "user",
                "content": [{"type": "text", "text": RATING_QUESTION}, {"type": "image"}],
            },
        ],
        tokenize=False,
        add_generation_prompt=True,
    )

    theirs = processor(text=[text], images=[flat(100).pixels], return_tensors="pt")

    assert theirs["input_ids"].tolist() == [encoder.encode(prompt).tokens]


def test_one_seed_gives_the_same_bits_and_another_does_not(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    again = tiny_checkpoint(tmp_path / "again")
    other = tiny_checkpoint(tmp_path / "other", seed=1)

    assert weights_digest(again) == weights_digest(tiny) != weights_digest(other)
    assert all((again / file.name).read_bytes() == file.read_bytes() for file in tiny.iterdir())
    assert torch.equal(torch.get_rng_state(), before)


def test_an_architecture_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tiny 'llava' model: take one of qwen2_vl, qwen2_5"):
        tiny_checkpoint(tmp_path, architecture="llava")


def test_building_and_teaching_write_nothing_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    teach(tiny_checkpoint(tmp_path), brightness_lessons(2), steps=1)

    assert capfd.readouterr() == ("", "")


def test_the_module_is_light_to_import() -> None:
    code = "import sys, qinsight_plugin.testing; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


# One token for each 28 by 28 pixels, at least one and at most 16: transformers' own rule.
@pytest.mark.parametrize(
    ("height", "width", "tokens"), [(28, 28, 1), (56, 84, 6), (10, 10, 1), (224, 224, 16)]
)
def test_a_picture_takes_a_token_for_28_by_28_pixels(
    tiny: Path, height: int, width: int, tokens: int
) -> None:
    loaded = load_checkpoint(str(tiny), loading=ON_CPU)
    picture = loaded.model.config.image_token_id

    encoded = loaded.encoder.encode(ask_rating(flat(9, height, width)))

    assert encoded.tokens.count(picture) == tokens


def test_the_template_writes_a_conversation_as_qwens_does(tokenizer: Any) -> None:
    user = [
        {"type": "text", "text": "Reference Image:"},
        {"type": "image"},
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "Which?"},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": "Image A"}]},
    ]

    text = tokenizer.apply_chat_template(messages, tokenize=False)

    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nReference Image:<|vision_start|><|image_pad|><|vision_end|>"
        "<|vision_start|><|image_pad|><|vision_end|>Which?<|im_end|>\n"
        "<|im_start|>assistant\nImage A<|im_end|>\n"
    )


def test_the_template_adds_qwens_system_message_and_opens_the_models_turn(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )

    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_refuses_a_part_that_it_does_not_know(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": [{"type": "audio"}]}]

    with pytest.raises(jinja2.TemplateError, match="a text, an image or a video"):
        tokenizer.apply_chat_template(messages, tokenize=False)


@given(st.text())
def test_any_text_comes_back_from_its_tokens(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]

    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == unicodedata.normalize(
        "NFC", text
    )


@given(st.integers(0, 10**12))
def test_each_digit_is_a_token_of_its_own(tokenizer: Any, number: int) -> None:
    assert len(tokenizer(str(number))["input_ids"]) == len(str(number))


def test_the_prefix_of_a_direct_answer_ends_where_a_token_does(tokenizer: Any) -> None:
    whole = tokenizer(direct_lesson(flat(128)).reply)["input_ids"]
    prefix = tokenizer(ANSWER_PREFIX)["input_ids"]

    assert whole[: len(prefix)] == prefix
    assert tokenizer.decode(whole[len(prefix)]) == "3"


def test_either_end_of_a_turn_ends_a_reply(tiny: Path) -> None:
    vocabulary = json.loads((tiny / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in vocabulary}
    generation = json.loads((tiny / "generation_config.json").read_text())

    assert generation["eos_token_id"] == [ids["<|im_end|>"], ids["<|endoftext|>"]]


@given(st.floats(0, 1), st.integers(0, 2**32))
def test_a_picture_is_as_bright_as_was_asked(brightness: float, seed: int) -> None:
    picture = picture_of(brightness, seed)

    assert brightness_of(picture) == pytest.approx(brightness, abs=0.02)
    assert picture.pixels.shape == (picture.height, picture.width, 3)


def test_the_ends_and_the_middle_of_the_scale_are_taught_so() -> None:
    rated = [read_rating(rating_lesson(flat(grey)).reply).value for grey in (0, 128, 255)]
    direct = [read_rating(direct_lesson(flat(grey)).reply).value for grey in (0, 128, 255)]
    found = [read_distortion(distortion_lesson(flat(grey)).reply) for grey in (0, 110, 140)]

    assert rated == direct == [1.0, 3.0, 5.0]
    assert [each.distortion for each in found] == [
        Distortion("darken", "catastrophic"),
        Distortion("darken", "slight"),
        None,
    ]


@pytest.mark.parametrize(
    ("a", "b", "better"), [(20, 200, "B"), (200, 20, "A"), (20, 25, "similar")]
)
def test_the_brighter_of_two_is_taught_as_the_better(a: int, b: int, better: str) -> None:
    for reference in (None, flat(77)):
        lesson = preference_lesson(flat(a), flat(b), reference)

        assert read_preference(lesson.reply).better == better


def test_a_lesson_whose_reply_does_not_begin_as_given_is_refused() -> None:
    with pytest.raises(ConfigError, match="must begin with what is given, 'b'"):
        Lesson(ask_rating(flat(50)), "abc", given="b")


def test_what_is_given_is_not_learnt_and_the_rest_is(tmp_path: Path) -> None:
    question = ask_rating(flat(50))
    chances = []
    for given_part in ("", "7"):
        folder = tiny_checkpoint(tmp_path / f"given-{given_part}")
        teach(folder, [Lesson(question, "74", given=given_part)], steps=15)
        model = LocalModel(load_checkpoint(str(folder), loading=ON_CPU), "tiny")
        (first,) = model.next_token([question], "", ["7"])
        (second,) = model.next_token([question], "7", ["4"])
        assert isinstance(first, NextToken)
        assert isinstance(second, NextToken)
        chances.append((*first.probabilities, *second.probabilities))

    (learnt, after_learnt), (given_only, after_given) = chances
    assert min(learnt, after_learnt, after_given) > 0.1
    assert given_only < 0.01


def test_the_same_lessons_teach_the_same_bits(tmp_path: Path) -> None:
    folders = [tiny_checkpoint(tmp_path / name) for name in ("one", "two")]

    for folder in folders:
        teach(folder, brightness_lessons(6), steps=2, seed=3)

    assert weights_digest(folders[0]) == weights_digest(folders[1])


HELD_OUT = [picture_of(random.Random(k).random(), 10**6 + k) for k in range(40)]
PAIRS = list(zip(HELD_OUT[::2], HELD_OUT[1::2], strict=True))


@pytest.fixture(scope="module")
def taught(reasoner: Path) -> LocalModel:
    return LocalModel(load_checkpoint(str(reasoner), loading=ON_CPU), "taught")


def answers(
    model: LocalModel, prompts: Sequence[Prompt], read: Callable[[str], Answer]
) -> list[Answer]:
    """Those of the likeliest replies that can be read, of which nearly all must."""
    found = []
    for reply in model.complete(prompts, [Sampling(max_tokens=80)] * len(prompts)):
        assert isinstance(reply, Completion)
        with contextlib.suppress(ScoreParseError):
            found.append(read(reply.text))
    assert len(found) >= 0.95 * len(prompts)
    return found


def agreement(values: Sequence[float], pictures: Sequence[Image]) -> float:
    """Spearman's."""
    stats = pytest.importorskip("scipy.stats")
    return float(stats.spearmanr(values, [brightness_of(each) for each in pictures]).statistic)


@pytest.mark.slow
def test_the_taught_model_rates_pictures_by_brightness(taught: LocalModel) -> None:
    pictures = HELD_OUT
    ratings = answers(taught, [ask_rating(each) for each in pictures], read_rating)

    assert all(rating.reasoning for rating in ratings)
    assert len(ratings) == len(pictures)
    assert agreement([rating.value for rating in ratings], pictures) > 0.6


@pytest.mark.slow
def test_the_taught_model_rates_without_a_thought(taught: LocalModel) -> None:
    prompts = [ask_rating(each) for each in HELD_OUT]
    means = []
    for told in taught.next_token(prompts, ANSWER_PREFIX, ["1", "2", "3", "4", "5"]):
        assert isinstance(told, NextToken)
        assert sum(told.probabilities) > 0.7
        means.append(sum(k * chance for k, chance in enumerate(told.probabilities, 1)))

    assert agreement(means, HELD_OUT) > 0.6


@pytest.mark.slow
def test_the_taught_model_calls_dark_pictures_darkened(taught: LocalModel) -> None:
    clear = [each for each in HELD_OUT if not 0.35 < brightness_of(each) < 0.65]
    found = answers(taught, [ask_distortion(each) for each in clear], read_distortion)

    said = [each.distortion is not None for each in found]
    assert len(found) == len(clear)
    assert np.mean([a == (brightness_of(b) < 0.5) for a, b in zip(said, clear, strict=True)]) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("with_reference", [False, True])
def test_the_taught_model_compares_readably(taught: LocalModel, with_reference: bool) -> None:
    prompts = [ask_preference(a, b, a if with_reference else None) for a, b in PAIRS]

    chosen = {choice.better for choice in answers(taught, prompts, read_preference)}

    assert {"A", "B"} <= chosen
