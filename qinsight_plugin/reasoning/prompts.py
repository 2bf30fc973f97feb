"""The questions that Q-Insight was trained on, to the letter: its weights know these words.

Quoted from github.com/bytedance/Q-Insight, commit 08308fdb21c104f5ce09a99569391e1488f421be,
Copyright (c) 2025 Bytedance Ltd. and/or its affiliates, licence Apache-2.0: from
`src/eval/demo_score.py`, `demo_dist.py` and `demo_comparison.py`. The training code,
`src/open-r1-multimodal/src/open_r1/qinsight_multi_task.py` and `qinsight_comparison.py`, has the
same words, but shows the picture before the question where the demos show it after.
"""

from __future__ import annotations

from qinsight_plugin.reasoning.model import Prompt
from qinsight_plugin.records import Image

SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves "
    "it. The assistant first thinks about the reasoning process in the mind and then provides the "
    "user with the answer. The reasoning process and answer are enclosed within <think> </think> "
    "and <answer> </answer> tags, respectively, i.e., <think> reasoning process here "
    "</think><answer> answer here </answer>"
)

RATING_QUESTION = (
    "What is your overall rating on the quality of this picture? The rating should be a float "
    "between 1 and 5, rounded to two decimal places, with 1 representing very poor quality and 5 "
    "representing excellent quality. Return the final answer in JSON format with the following "
    'keys: "rating": The score.'
)

DISTORTION_QUESTION = (
    "Analyze the given image and determine if it contains any of the following distortions: "
    '"noise", "compression", "blur", or "darken". If a distortion is present, classify its '
    'severity as "slight", "moderate", "obvious", "serious", or "catastrophic". Return the result '
    'in JSON format with the following keys: "distortion_class": The detected distortion (or '
    '"null" if none). and "severity": The severity level (or "null" if none).'
)

REFERENCE_LEAD = "Given a low-quality reference image and two enhanced outputs. Reference Image:"
A_LEAD = "Image A:"
B_LEAD = "Image B:"

PREFERENCE_QUESTION = (
    "Decide which enhanced image is superior or if they are comparable. Evaluate based on: "
    "1) fidelity and consistency with the reference image; 2) overall perceptual quality. "
    "Return **exactly one** of: Image A, Image B, or Similar."
)

# Ours: no question without a reference is published. This is the published one less the criterion
# that speaks of the reference, and so less the count of the criteria.
PREFERENCE_QUESTION_ALONE = PREFERENCE_QUESTION.replace(
    "1) fidelity and consistency with the reference image; 2) ", ""
)

# The line breaks are those of the reward for the format that Q-Insight was trained with
# (`format_reward`). The last space is in, because Qwen2.5's tokenizer takes a space before a digit
# as a token of its own: so the prefix has the tokens that it has inside a whole reply, and what
# comes next is the first digit, which always is one token.
ANSWER_PREFIX = '<think>\n\n</think>\n<answer>\n{"rating": '
"""How a rating's reply begins where the model is not to think aloud, up to the first digit."""


def ask_rating(image: Image) -> Prompt:
    """How good is this picture? The reply is for `replies.read_rating`."""
    return Prompt(SYSTEM, (RATING_QUESTION, image))


def ask_distortion(image: Image) -> Prompt:
    """What is wrong with this picture? The reply is for `replies.read_distortion`."""
    return Prompt(SYSTEM, (DISTORTION_QUESTION, image))


def ask_preference(a: Image, b: Image, reference: Image | None = None) -> Prompt:
    """Which of two pictures is better? The reply is for `replies.read_preference`.

    Args:
        a, b: the pictures to choose from.
        reference: what both were made from; the question then asks for fidelity to it too.
    """
    pair = (A_LEAD, a, B_LEAD, b)
    if reference is None:
        return Prompt(SYSTEM, (*pair, PREFERENCE_QUESTION_ALONE))
    return Prompt(SYSTEM, (REFERENCE_LEAD, reference, *pair, PREFERENCE_QUESTION))
