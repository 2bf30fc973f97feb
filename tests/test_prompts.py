"""The questions are those that the weights were trained on."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from qinsight_plugin.reasoning import prompts
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Image

# From bytedance/Q-Insight, commit 08308fdb21c104f5ce09a99569391e1488f421be: each published file
# parsed with `ast`, the string constant taken from it, and SHA-256 of its UTF-8 bytes.
PUBLISHED = {
    # src/eval/demo_score.py, SYSTEM_PROMPT; demo_dist.py and demo_comparison.py have the same
    "SYSTEM": "89e8be09d8ba0f3759eb79471ef87c2cf6797879a6d4e8e4772ec877a263e593",
    # src/eval/demo_score.py, SCORE_QUESTION_PROMPT
    "RATING_QUESTION": "989feae90619746e3617646ee40c00ceed55b10784ccf3e1b914b760bbac3ad5",
    # src/eval/demo_dist.py, DIST_QUESTION_PROMPT
    "DISTORTION_QUESTION": "bc483d78de24d90a9aa9af26831db77f8c5fa57b3682dc162f445f37872461c2",
    # src/eval/demo_comparison.py, custom_question, and the texts of its message
    "PREFERENCE_QUESTION": "9cf6b4670f8bcffb7f904ed1720542ddc8b2c9e48004cf7b1e7a6927d2c48958",
    "REFERENCE_LEAD": "fd7aba41d1938d4c4448ce195c4d2e8017ab1e084e565ecfe49e645c8334ee90",
    "A_LEAD": "a6e5d02284d85c997a8c9b337b88f53ca35dd8c0222787841a279136816f3000",
    "B_LEAD": "f483ddca450590e90927ea51fa1d7b5484d7a35ee57fa455841f0b8896215901",
}

# `format_reward` of qinsight_multi_task.py in the same repository.
PUBLISHED_FORMAT = (
    r"^<think>\s*\n.*?\n\s*</think>\s*\n<answer>\s*\n\{[^\{\}]*\}\s*\n\s*</answer>\s*$"
)

# How Qwen2 and Qwen2.5 cut a text before they look up tokens (PRETOKENIZE_REGEX in transformers'
# tokenization_qwen2.py), the classes of letters and digits in the words of Python's `re`.
QWEN_PIECES = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:(?![\r\n])[\W_])?[^\W\d_]+|\d"
    r"| ?(?:(?!\s)[\W_])+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def picture(name: str) -> Image:
    return Image(np.zeros((4, 6, 3), np.uint8), name, 6, 4)


A, B, REFERENCE = picture("a"), picture("b"), picture("reference")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_text_is_the_published_one_to_the_letter(name: str) -> None:
    assert hashlib.sha256(getattr(prompts, name).encode()).hexdigest() == PUBLISHED[name]


def test_a_picture_is_shown_after_the_question_about_it() -> None:
    assert prompts.ask_rating(A).parts == (prompts.RATING_QUESTION, A)
    assert prompts.ask_distortion(A).parts == (prompts.DISTORTION_QUESTION, A)


def test_a_choice_is_asked_for_in_the_order_of_the_demo() -> None:
    asked = prompts.ask_preference(A, B, REFERENCE)
    assert asked.parts == (
        prompts.REFERENCE_LEAD,
        REFERENCE,
        "Image A:",
        A,
        "Image B:",
        B,
        prompts.PREFERENCE_QUESTION,
    )


def test_a_choice_without_a_reference_is_asked_for_without_a_word_of_it() -> None:
    asked = prompts.ask_preference(A, B)
    assert asked.parts == ("Image A:", A, "Image B:", B, prompts.PREFERENCE_QUESTION_ALONE)
    assert prompts.PREFERENCE_QUESTION_ALONE == (
        "Decide which enhanced image is superior or if they are comparable. Evaluate based on: "
        "overall perceptual quality. Return **exactly one** of: Image A, Image B, or Similar."
    )


def test_every_question_comes_after_the_same_system_message() -> None:
    asked = (
        prompts.ask_rating(A),
        prompts.ask_distortion(A),
        prompts.ask_preference(A, B),
        prompts.ask_preference(A, B, REFERENCE),
    )
    assert {prompt.system for prompt in asked} == {prompts.SYSTEM}


def test_the_records_speak_the_words_of_the_question() -> None:
    quoted = re.findall(r'"(\w+)"', prompts.DISTORTION_QUESTION)
    assert quoted[: len(DISTORTIONS) + len(SEVERITIES)] == [*DISTORTIONS, *SEVERITIES]


def test_a_reply_that_begins_with_the_prefix_has_the_format_that_was_rewarded() -> None:
    reply = prompts.ANSWER_PREFIX + "3.45}\n</answer>"
    assert re.fullmatch(PUBLISHED_FORMAT, reply, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("digit", "12345")
def test_what_follows_the_prefix_is_a_digit_by_itself(digit: str) -> None:
    prefix = QWEN_PIECES.findall(prompts.ANSWER_PREFIX)
    whole = QWEN_PIECES.findall(f"{prompts.ANSWER_PREFIX}{digit}.07}}\n</answer>")
    assert "".join(prefix) == prompts.ANSWER_PREFIX
    assert whole[: len(prefix) + 1] == [*prefix, digit]
