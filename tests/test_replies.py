"""A reply is read as the one answer that it gives, or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qinsight_plugin.errors import ReplyCutError, ScoreParseError
from qinsight_plugin.reasoning.prompts import ANSWER_PREFIX
from qinsight_plugin.reasoning.replies import (
    Choice,
    Diagnosis,
    Rating,
    read_distortion,
    read_preference,
    read_rating,
)
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Distortion

Reader = Callable[..., Rating | Diagnosis | Choice]
READERS: tuple[Reader, ...] = (read_rating, read_distortion, read_preference)

FULL_WIDTH = str.maketrans({mark: chr(ord(mark) + 0xFEE0) for mark in ':,"{}'})
THOUGHT = "Sharp, but {noisy}: it's 2.5 of 5"


def in_full_width(text: str) -> str:
    """Its punctuation as a Chinese keyboard has it."""
    return text.translate(FULL_WIDTH)


def in_curly_quotes(text: str) -> str:
    return re.sub(r'"([^"]*)"', "\u201c\\1\u201d", text)


LAYOUTS: dict[str, Callable[[str], str]] = {
    "one line": lambda json: f"<think>{THOUGHT}</think><answer>{json}</answer>",
    "several lines": lambda json: f"<think>\n{THOUGHT}\n</think>\n<answer>\n{json}\n</answer>\n",
    "fence in tags": lambda json: (
        f"<think>{THOUGHT}</think>\n<answer>```json\n{json}\n```</answer>"
    ),
    "fence": lambda json: f"```json\n{json}\n```",
    "fence without a name": lambda json: f"```\n{json}\n```",
    "JSON alone": lambda json: json,
    "JSON after text": lambda json: f"{THOUGHT}. {json}",
    "text after JSON": lambda json: f"{json} is how it looks in {{my}} opinion.",
    "text after the answer": lambda json: f"<answer>{json}</answer> That's all, 5 of 5.",
    "text in the answer": lambda json: f"<answer>Mine is {json}, rounded.</answer>",
    "no thoughts": lambda json: f"<answer>{json}</answer>",
    "thoughts begun in the prompt": lambda json: f"{THOUGHT}</think><answer>{json}</answer>",
    "answer begun in the prompt": lambda json: f"{json}</answer>",
    "stopped at the last tag": lambda json: f"<think>{THOUGHT}</think><answer>{json}",
    "no answer tags": lambda json: f"<think>{THOUGHT}</think>{json}",
    "thoughts without an end after the answer": lambda json: f"<answer>{json}</answer><think>Hm",
    "capital tags": lambda json: f"<THINK>{THOUGHT}</THINK><Answer>{json}</Answer>",
    "a draft in the thoughts": lambda json: (
        f'<think><answer>{{"rating": 1.5}}</answer> no</think><answer>{json}</answer>'
    ),
    "the tags mentioned": lambda json: f"In <answer> </answer> tags: <answer>{json}</answer>",
    "the same twice": lambda json: f"<answer>{json}</answer> so <answer>{json}</answer>",
    "in a list": lambda json: f"<answer>[{json}]</answer>",
    "full-width punctuation": lambda json: f"<answer>{in_full_width(json)}\u3002</answer>",
    "curly quotes": lambda json: f"<answer>{in_curly_quotes(json)}</answer>",
    "single quotes": lambda json: "<answer>" + json.replace('"', "'") + "</answer>",
    "broken over lines": lambda json: "<answer>" + json.replace(" ", "\n\t") + "</answer>",
}


def tagged(content: str) -> str:
    return f"<think>Well.</think><answer>{content}</answer>"


def refusal(read: Reader, reply: str, *, cut: bool = False) -> ScoreParseError:
    """The error; its message is one printable line and the reply is with it."""
    with pytest.raises(ScoreParseError) as caught:
        read(reply, cut=cut)
    assert caught.value.reply == reply
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return caught.value


@pytest.mark.parametrize("layout", LAYOUTS)
@given(hundredths=st.integers(100, 500))
def test_a_rating_reads_back_in_every_layout(layout: str, hundredths: int) -> None:
    text = f"{hundredths / 100:.2f}"
    for literal in (text, f'"{text}"'):
        reply = LAYOUTS[layout](f'{{"rating": {literal}}}')
        assert read_rating(reply).value == float(text)
        assert read_rating(reply, cut=True).value == float(text)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_distortion_reads_back_in_every_layout(layout: str, name: str, severity: str) -> None:
    reply = LAYOUTS[layout](f'{{"distortion_class": "{name}", "severity": "{severity}"}}')
    assert read_distortion(reply).distortion == Distortion(name, severity)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("none", ["null", '"null"', '"none"', '"None"', '"NULL"', "None"])
def test_no_distortion_reads_back_in_every_layout(layout: str, none: str) -> None:
    reply = LAYOUTS[layout](f'{{"distortion_class": {none}, "severity": {none}}}')
    assert read_distortion(reply).distortion is None


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"a draft in the thoughts"}))
@pytest.mark.parametrize(
    ("words", "better"), [("Image A", "A"), ("IMAGE B", "B"), ("similar", "similar")]
)
def test_a_choice_in_json_reads_back_in_every_layout(layout: str, words: str, better: str) -> None:
    assert read_preference(LAYOUTS[layout](f'{{"answer": "{words}"}}')).better == better


@pytest.mark.parametrize(
    ("json", "value"),
    [
        ('{"rating": 3}', 3.0),
        ('{"rating": 5.0e0}', 5.0),
        ('{"rating": 3.4567}', 3.4567),
        ('{"Rating ": "3.5 "}', 3.5),
        (
            '{"scale": [1, 5], "rating": 3.5, "why": "the \u201csharp\u201d look, it\'s {good}"}',
            3.5,
        ),
        ('{"rating": 3.5, "why": "two\nlines"}', 3.5),
        ('{"why": {"rating": 2}, "rating": 3.5}', 3.5),
        ('{"rating": 3.5} {"distortion_class": null}', 3.5),
        ('{"rating": 3.5} or {"rating": "3.50"}', 3.5),
        ("{'rating': \"3.5\"}", 3.5),
    ],
)
def test_a_rating_may_be_written_so(json: str, value: float) -> None:
    assert read_rating(tagged(json)).value == value


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " \n",
        "The picture is good.",
        "3.5",
        tagged("3.5"),
        tagged('"rating": 3.5'),
        tagged("{rating: 3.5}"),
        tagged('{"score": 3.5}'),
        tagged('{"answer": {"rating": 3.5}}'),
        tagged('{"distortion_class": null, "severity": null}'),
        "<answer></answer>",
        '<answer></answer>{"rating": 3.5}',
        "<think>Well.</think>",
    ],
)
def test_a_reply_without_a_rating_is_refused(reply: str) -> None:
    assert re.search(r"it holds no (answer|JSON with the key)", str(refusal(read_rating, reply)))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        *((value, "outside 1 to 5") for value in ("0.99", "5.01", "0", "-3", "35", "1e999")),
        *((value, "outside 1 to 5") for value in ('"7.5"', "NaN", "Infinity", "-Infinity")),
        *((value, "outside 1 to 5") for value in ('"NaN"', '"Infinity"')),
        *((value, "not one number") for value in ("true", "null", "[3]", "[3, 4]", "{}", '""')),
        *((value, "not one number") for value in ('"3.5/5"', '"4.2.2"', '"3 4"', '"3-4"')),
        *((value, "not one number") for value in ('"good"', '"3,5"', '"0x3"', '"3_0"', '"true"')),
        *((value, "not one number") for value in ('"\uff13"', '"\u0663"', '"\\u0033"', '"[3]"')),
        *((value, "JSON is broken") for value in ("4.2.2", "3,5", "3.5/5", "3 4", "3-4", "+3")),
        *((value, "JSON is broken") for value in (".5", "3.", "03", "The score.", "\uff13")),
        *((value, "JSON is broken") for value in ("3\u30025", "True", "nan", "inf", "3.5,")),
    ],
)
def test_what_is_not_a_rating_is_refused_and_never_clipped(value: str, problem: str) -> None:
    for reply in (tagged(f'{{"rating": {value}}}'), f'{{"rating": {value}}}'):
        assert problem in str(refusal(read_rating, reply))


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ('<answer>{"rating": 3}</answer><answer>{"rating": 4}</answer>', "differ"),
        ('<answer>{"rating": 3} <answer>{"rating": 4}</answer>', "differ"),
        ('<answer>{"rating": 3} {"rating": 4}</answer>', "differ"),
        ('{"rating": 3} or {"rating": 4}', "differ"),
        ('{"rating": 3}</answer><answer>{"rating": 4}</answer>', "differ"),
        ('<think>a</think>{"rating": 3}<think>b</think>{"rating": 4}', "differ"),
        ('{"rating": 3} ' + in_full_width('{"rating": 4}'), "differ"),
        ('{"rating": 3, "rating": 4}', "not one number"),
        ('{"rating": 3, "Rating": 4}', "not one number"),
        ('{"rating": 3} {"rating": 9}', "outside"),
        ('{"rating": 3} {"rating": 4.2.2}', "broken"),
        ('{"rating": 3.5 {"rating": 4}', "broken"),
        ('<answer>{"rating": 3}</answer><answer>4</answer>', "no JSON"),
    ],
)
def test_two_answers_are_refused(reply: str, problem: str) -> None:
    assert problem in str(refusal(read_rating, reply))


@pytest.mark.parametrize(
    "reply",
    [
        '<think>It is {"rating": 3.5}',
        '<think>I will say <answer>{"rating": 3.5}</answer>',
        '<think>a</think><think>b {"rating": 3.5}',
        '<think>a <think>b</think> <think> {"rating": 3.5}',
    ],
)
def test_thoughts_that_never_end_hold_no_answer(reply: str) -> None:
    error = refusal(read_rating, reply)
    assert "its thoughts never end" in str(error)
    assert not isinstance(error, ReplyCutError)
    assert isinstance(refusal(read_rating, reply, cut=True), ReplyCutError)


@pytest.mark.parametrize(
    ("words", "distortion"),
    [
        (("Noise", "SLIGHT"), Distortion("noise", "slight")),
        ((" blur ", "Catastrophic"), Distortion("blur", "catastrophic")),
        (("Null", "None"), None),
    ],
)
def test_capitals_do_not_matter(words: tuple[str, str], distortion: Distortion | None) -> None:
    reply = tagged('{"Distortion_Class": "%s", "Severity": "%s"}' % words)  # noqa: UP031
    assert read_distortion(reply).distortion == distortion


def test_no_distortion_needs_no_severity() -> None:
    assert read_distortion(tagged('{"distortion_class": null}')).distortion is None


@pytest.mark.parametrize(
    ("json", "problem"),
    [
        ('{"distortion_class": "fog", "severity": "slight"}', "'fog' is none of noise, compr"),
        ('{"distortion_class": "blur", "severity": "mild"}', "'mild' is none of slight, mod"),
        ('{"distortion_class": "", "severity": ""}', "'' is none of"),
        ('{"distortion_class": NaN, "severity": NaN}', "NaN is none of"),
        ('{"distortion_class": false, "severity": null}', "False is none of"),
        ('{"distortion_class": ["blur"], "severity": "slight"}', "['blur'] is none of"),
        ('{"distortion_class": "blur", "severity": 3}', "3 is none of"),
        ('{"distortion_class": "blur or noise", "severity": "slight"}', "is none of"),
        ('{"distortion_class": "blur"}', "only one of"),
        ('{"distortion_class": "blur", "severity": "null"}', "only one of"),
        ('{"distortion_class": null, "severity": "slight"}', "only one of"),
        ('{"severity": "slight"}', 'no JSON with the key "distortion_class"'),
        ('{"rating": 3.5}', 'no JSON with the key "distortion_class"'),
        ('{"distortion_class": "blur", "distortion_class": "noise"}', "is none of"),
        ('{"distortion_class": null} {"distortion_class": "blur", "severity": "slight"}', "differ"),
        ("blur, slight", "no JSON"),
    ],
)
def test_what_is_not_a_distortion_with_its_severity_is_refused(json: str, problem: str) -> None:
    assert problem in str(refusal(read_distortion, tagged(json)))


@pytest.mark.parametrize(
    "words",
    [
        "Image A",
        "image a",
        "IMAGE  A.",
        "\n Image\nA \n",
        '"Image A"',
        "'Image A'.",
        "\u201cImage A\u201d\u3002",
        "**Image A**",
        "[Image A]",
        "(Image A)",
        "\u3010Image A\u3011",
        "{Image A}",
        '{"Image A"}',
        '["Image A"]',
        "```\nImage A\n```",
        '```json\n"Image A"\n```',
        '```json\n{"answer": "Image A"}\n```',
        '{"better": "image a.", "confidence": 0.9}',
        '<answer>Image A</answer> <answer>{"answer": "Image A"}',
        "<ANSWER>Image A</Answer> since it is sharper",
    ],
)
def test_a_choice_may_be_written_so(words: str) -> None:
    for reply in (words, tagged(words), f"<think>Hm.</think>{words}", f"{words}</answer>"):
        assert read_preference(reply).better == "A"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "A",
        "ImageA",
        "Image C",
        "Image",
        "Both",
        "Image A or Image B",
        "Image A, Image B",
        "Image A is better",
        "not Image A",
        "dissimilar",
        "0.5",
        "{}",
        "null",
        '{"answer": "A"}',
        '{"answer": ["Image A"]}',
        '{"answer": "Image A", "worse": "Image B"}',
        '{"answer": "Image A", "answer": "Image B"}',
        '{"answer": "Image A"} {"answer": "Image B"}',
        '{"answer": "Image A"',
        '{"rating": 3.5}',
        "Image A</answer><answer>Image B",
        "Image A</answer><answer>Similar</answer>",
    ],
)
def test_what_is_not_exactly_one_choice_is_refused(words: str) -> None:
    refusal(read_preference, tagged(words))
    refusal(read_preference, words)


def test_a_choice_at_which_the_reply_was_cut_might_have_gone_on() -> None:
    for reply in ("<think>a</think><answer>Image A", "Image A", "<answer>Similar"):
        assert isinstance(refusal(read_preference, reply, cut=True), ReplyCutError)
        assert read_preference(reply)
    assert read_preference("<answer>Image A</answer> for", cut=True).better == "A"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "reply",
    [
        "",
        "<think>The picture",
        "<think>a</think>",
        "<think>a</think><answer>",
        '<think>a</think><answer>{"rat',
        '<think>a</think><answer>{"rating": 3',
        '<think>a</think><answer>{"rating": 3.5, "why',
        "<think>a</think><answer>Ima",
        '{"rating": 3',
    ],
)
def test_a_reply_cut_before_its_answer_asks_for_more_tokens(read: Reader, reply: str) -> None:
    error = refusal(read, reply, cut=True)
    assert isinstance(error, ReplyCutError)
    assert "max_tokens" in str(error)
    assert not isinstance(refusal(read, reply), ReplyCutError)


def test_more_tokens_do_not_help_an_answer_that_is_wrong() -> None:
    for reply in (tagged('{"rating": 9}'), '{"rating": 3} {"rating": 4}', '{"rating": true}'):
        assert not isinstance(refusal(read_rating, reply, cut=True), ReplyCutError)


@pytest.mark.parametrize(
    ("reply", "reasoning"),
    [
        ('<think>\nSharp.\nGood.\n</think>\n<answer>{"rating": 4}</answer>', "Sharp.\nGood."),
        ('<think>a</think>\n<think>b</think>{"rating": 4}', "a\nb"),
        ('Sharp.</think><answer>{"rating": 4}</answer>', "Sharp."),
        ('Sharp. <answer>{"rating": 4}</answer> Bye.', "Sharp."),
        ('Sharp:\n```json\n{"rating": 4}\n```\nBye.', "Sharp:"),
        ('Sharp. {"rating": 4}', "Sharp."),
        (in_full_width('Sharp. {"rating": 4}'), "Sharp."),
        ('{"rating": 4}', ""),
        (ANSWER_PREFIX + "4}\n</answer>", ""),
    ],
)
def test_the_reasoning_is_what_comes_before_the_answer(reply: str, reasoning: str) -> None:
    assert read_rating(reply) == Rating(4.0, reasoning)


def test_a_choice_without_thoughts_has_no_reasoning() -> None:
    assert read_preference("Image A") == Choice("A", "")
    assert read_preference("Sharper. <answer>Image A</answer>") == Choice("A", "Sharper.")


def test_a_refusal_shows_the_end_of_a_long_reply_on_one_line() -> None:
    reply = "begin \x1b[2J\u2028 " + "long\n" * 10_000 + tagged('{"rating":\n9}')
    message = str(refusal(read_rating, reply))
    assert message.startswith("the model's reply cannot be read: its rating 9 is outside 1 to 5: ")
    assert "begin" in message
    assert '{"rating": 9}</answer>' in message


def test_a_refusal_keeps_its_cause() -> None:
    assert refusal(read_rating, "{'rating': ").__cause__ is not None


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "unit",
    [
        *("{", '{"', '{"a":', '{"a":[', '{"a":{"b":1},', '{"{', "{'", "{ ", "{}", "[", "\uff5b"),
        *("<think>", "</think>", "<answer>", "</answer>", "<answer>x", "<think></think>"),
        *("<answer>{", '<answer>{"', "```", "```json", '"', "\\", '"\\', "1", "Image ", "None"),
        *("<", "</", "<think", "\n", "\0", "\ud800", "\U0001f600{", '{"rating": ', '{"a": "'),
    ],
)
def test_a_flood_of_one_thing_is_refused(read: Reader, unit: str) -> None:
    refusal(read, unit * 50_000)
    refusal(read, unit * 50_000, cut=True)


@pytest.mark.parametrize("read", READERS)
def test_a_flood_before_or_inside_the_answer_does_not_matter_to_the_reader(read: Reader) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert "nested too deeply" in str(refusal(read, f'{{"a": {deep}}}'))
    refusal(read, f'{{"rating": {"3" * 100_000}, "distortion_class": "{"x" * 100_000}"}}')
    refusal(read, '{"rating": "' + "[" * 100_000 + '", "distortion_class": {}}')


def test_an_answer_is_found_after_a_flood() -> None:
    thought = '{"rating": [{' * 20_000
    assert read_rating(f"<think>{thought}</think>" + '{"rating": 3.25}').value == 3.25
    assert read_rating("{ " * 50_000 + '{"rating": 3.25}').value == 3.25
    assert read_rating('{"rating": 3.25}' * 5_000).value == 3.25
    assert read_rating('{"rating": "3.25"}' * 5_000).value == 3.25


PIECES = st.sampled_from(
    [
        *("<think>", "</think>", "<answer>", "</answer>", "<ANSWER>", "```json\n", "```", "\n"),
        *("{", "}", "[", "]", '"', "'", ":", ",", ".", " ", "-", "/", "\\", "\\u0033", "e", "+"),
        *("\uff5b", "\uff5d", "\uff1a", "\u201c", "\u201d", "\u2019", "\u3002", "\uff13", "\u0663"),
        *(
            "rating",
            '"rating"',
            '{"rating": ',
            '"distortion_class": ',
            '"severity": ',
            "}</answer>",
        ),
        *("3", "4.25", "0.5", "1", "5", "5.01", "NaN", "Infinity", "null", "None", "true", "1e0"),
        *('"noise"', '"Blur"', '"slight"', '"serious"', '"none"', "Image A", "Image B", "Similar"),
        *('{"rating": 3.5}', '{"rating": "2.75"}', '{"answer": "Image B"}', "</think><answer>"),
        *(
            '{"distortion_class": "blur", "severity": "slight"}',
            "Good. ",
            "\ud800",
            "\0",
            "\U0001f600",
        ),
    ]
)
REPLIES = st.lists(PIECES | st.text(max_size=3), max_size=14).map("".join)


def outcome(read: Reader, reply: str, cut: bool) -> Any:
    try:
        return read(reply, cut=cut)
    except ScoreParseError as error:
        return error


def check(reply: str, cut: bool) -> None:
    """Each reader refuses with one error, or gives what is in the reply and in range."""
    words = " ".join(reply.split()).lower()
    for answer in (outcome(read, reply, cut) for read in READERS):
        if isinstance(answer, ScoreParseError):
            assert answer.reply == reply
            assert str(answer).isprintable()
            assert cut or not isinstance(answer, ReplyCutError)
        elif isinstance(answer, Rating):
            written = re.findall(r"[0-9.eE+-]+", reply)
            assert 1.0 <= answer.value <= 5.0
            assert answer.value in [float(text) for text in written if is_number(text)]
        elif isinstance(answer, Choice):
            said = "similar" if answer.better == "similar" else f"image {answer.better}".lower()
            assert said in words
        elif answer.distortion is not None:
            name, severity = astuple(answer.distortion)
            assert name in DISTORTIONS
            assert severity in SEVERITIES
            assert name in words
            assert severity in words


def is_number(text: str) -> bool:
    """Python's own judgement."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.slow
@settings(max_examples=10_000)
@given(reply=REPLIES, cut=st.booleans())
@example(reply='{"rating": "\\u0033"}', cut=False)
@example(reply='{"rating": 3\u30025}', cut=False)
def test_whatever_is_written_is_read_as_it_stands_or_refused(reply: str, cut: bool) -> None:
    check(reply, cut)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    fields=st.lists(
        st.tuples(
            st.sampled_from(['"rating"', '"distortion_class"', '"severity"', '"x"', "'rating'"]),
            st.floats(-1, 7).map(lambda value: f"{value:.2f}")
            | st.sampled_from(['"noise"', '"slight"', "null", '"3.5"', '"Image A"', "NaN", "[3]"]),
        ),
        max_size=3,
    ),
    place=st.integers(0, 200),
    stray=PIECES | st.just(""),
)
def test_an_answer_with_a_slip_is_read_as_it_stands_or_refused(
    layout: str, fields: list[tuple[str, str]], place: int, stray: str
) -> None:
    json = "{" + ", ".join(f"{key}: {value}" for key, value in fields) + "}"
    reply = LAYOUTS[layout](json)
    check(reply[:place] + stray + reply[place:], cut=False)
