"""What a reply to one of the `prompts` says: one answer, or an error that tells why there is none.

A reply has thoughts, `<think>...</think>`, in which nothing is an answer, and what is said aloud:
one or more sections `<answer>...</answer>`, or without those tags an answer anywhere in it. All
that is put forward as the answer must be readable and agree: nothing is guessed, mended or clipped.

Taken, because no other reading is possible: any layout, fences, text around the answer and other
keys; a missing `<think>`, `<answer>` or `</answer>` (a prompt may end with the tag, a server may
stop at it); capitals; Chinese or typographic punctuation; JSON in Python's spelling; a number in
quotes. Refused, because one would have to choose: "3.5/5" (two numbers, and "7/10" would follow), a
key that is there twice, JSON that breaks off or does not parse beside JSON that does, a number
outside JSON, and anything in a `<think>` that is never closed.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

from qinsight_plugin.errors import ReplyCutError, ScoreParseError
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Better, Distortion

_Answer = TypeVar("_Answer")

_THINK_TAG = re.compile(r"</?think>", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>(.*?)(</think>|\Z)", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)
_FENCE = re.compile(r"```\w*")
_ANSWER_START = re.compile(r"<answer>|```|[{\uff5b]", re.IGNORECASE)

# A brace in prose is not JSON: an object's begins with a key.
_OBJECT = re.compile(r'\{\s*"')
# One character for one, so that a place in the plain text is the same place in the reply. Digits
# and points stay as they are: a number must stand in the reply as it is read.
_PLAIN = {
    **{ord(mark) + 0xFEE0: mark for mark in ':,"(){}[]'},  # full-width forms
    **dict.fromkeys((ord("'"), 0xFF07, *range(0x2018, 0x2020)), '"'),  # single, curly quotes
    **dict.fromkeys((0xA0, 0x3000), " "),
}
_WRAPPING = ' "`*.。(){}[]【】「」'

_CHOICES: dict[str, Better] = {"image a": "A", "image b": "B", "similar": "similar"}
_NO_DISTORTION = {"null", "none"}


@dataclass(frozen=True, slots=True)
class Rating:
    """How good a picture is.

    Attributes:
        value: 1 (bad) to 5 (excellent), a number that stands in the reply.
        reasoning: the thoughts, or where none are marked what is said before the answer.
    """

    value: float
    reasoning: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with a picture; None where nothing is. `reasoning`: see `Rating`."""

    distortion: Distortion | None
    reasoning: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of two pictures is better. `reasoning`: see `Rating`."""

    better: Better
    reasoning: str


def read_rating(reply: str, *, cut: bool = False) -> Rating:
    """The rating in a reply to `prompts.ask_rating`.

    Args:
        reply: all that the model wrote.
        cut: the reply ended because it reached the limit of tokens.

    Raises:
        ReplyCutError: it was cut before its answer was complete.
        ScoreParseError: it holds no answer, or several, or not a number from 1 to 5.
    """
    return Rating(*_read(reply, cut, _ratings))


def read_distortion(reply: str, *, cut: bool = False) -> Diagnosis:
    """The distortion in a reply to `prompts.ask_distortion`; for the arguments see `read_rating`.

    Raises:
        ReplyCutError: it was cut before its answer was complete.
        ScoreParseError: it holds no answer, or several, or not a class of `DISTORTIONS` with a
            level of `SEVERITIES`.
    """
    return Diagnosis(*_read(reply, cut, _distortions))


def read_preference(reply: str, *, cut: bool = False) -> Choice:
    """The choice in a reply to `prompts.ask_preference`; for the arguments see `read_rating`.

    Raises:
        ReplyCutError: it was cut before its answer was complete.
        ScoreParseError: it holds no answer, or several, or not exactly one of "Image A", "Image B"
            and "Similar".
    """
    return Choice(*_read(reply, cut, _preferences))


class _WrongError(Exception):
    """There is an answer, and it is not one that was asked for."""


class _MissingError(_WrongError):
    """There is no answer, or none that is complete."""


class _Section(NamedTuple):
    """Text in which an answer is to be found; not `whole` where it may have been going on."""

    text: str
    whole: bool


@dataclass(frozen=True, slots=True)
class _Literal:
    """A number as it is written, or NaN or Infinity, which JSON does not have but Python reads."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _read(
    reply: str, cut: bool, answers_in: Callable[[_Section], Sequence[_Answer]]
) -> tuple[_Answer, str]:
    """The one answer and the reasoning that led to it."""
    try:
        sections, reasoning = _sections(reply, cut)
        answers = [answer for section in sections for answer in answers_in(section)]
        if any(answer != answers[0] for answer in answers):
            raise _WrongError("it gives answers that differ")
    except RecursionError as error:
        raise ScoreParseError(_message("its JSON is nested too deeply", reply), reply) from error
    except _WrongError as error:
        if cut and isinstance(error, _MissingError):
            problem = "it reached the limit of tokens before its answer, raise max_tokens"
            raise ReplyCutError(_message(problem, reply), reply) from error
        raise ScoreParseError(_message(str(error), reply), reply) from error
    return answers[0], reasoning


def _message(problem: str, reply: str) -> str:
    words = repr(" ".join(reply.split()))
    # The answer, or what stands in its place, is mostly at the end.
    short = words if len(words) <= 120 else f"{words[:30]} ... {words[-85:]}"
    return f"the model's reply cannot be read: {problem}: {short}"


def _sections(reply: str, cut: bool) -> tuple[list[_Section], str]:
    """Where to look for answers, one place or more, and the reasoning."""
    tag = _THINK_TAG.search(reply)
    if tag and tag[0].startswith("</"):
        reply = f"<think>{reply}"  # the prompt may end with the tag
    thoughts = _THOUGHT.findall(reply)
    aloud = _THOUGHT.sub("\n", reply)
    before, *tagged = _ANSWER.split(aloud)
    if not tagged or _ANSWER_END.search(before):  # here too the prompt may end with the tag
        tagged.insert(0, before)
    parts = [_ANSWER_END.split(text, maxsplit=1) for text in tagged]
    # A blank section is a mention of the tags.
    sections = [_Section(text, bool(after) or not cut) for text, *after in parts if text.strip()]
    if not sections:
        endless = any(not end for _, end in thoughts)
        raise _MissingError("its thoughts never end" if endless else "it holds no answer")
    if thoughts:
        return sections, "\n".join(thought.strip() for thought, _ in thoughts)
    start = _ANSWER_START.search(aloud)
    return sections, aloud[: start.start()].strip() if start else ""


def _ratings(section: _Section) -> list[float]:
    found = _objects_with("rating", section)
    plain = section.text.translate(_PLAIN)
    return [_number(fields["rating"], plain) for fields in found]


def _number(value: object, plain: str) -> float:
    literal = _quoted(value, plain) if isinstance(value, str) else value
    if not isinstance(literal, _Literal):
        raise _WrongError(f"its rating {reprlib.repr(value)} is not one number")
    number = float(literal.text)
    if not 1.0 <= number <= 5.0:
        raise _WrongError(f"its rating {reprlib.repr(value)} is outside 1 to 5")
    return number


def _quoted(value: str, plain: str) -> object:
    """What JSON there is in a string; None where it is spelt with escapes, "\\u0034" for 4."""
    if f'"{value}"' not in plain:
        return None
    try:
        return cast(object, _DECODER.decode(value))
    except json.JSONDecodeError:
        return None


def _distortions(section: _Section) -> list[Distortion | None]:
    return [_distortion(fields) for fields in _objects_with("distortion_class", section)]


def _distortion(fields: dict[str, object]) -> Distortion | None:
    name = _word(fields["distortion_class"], DISTORTIONS)
    severity = _word(fields.get("severity"), SEVERITIES)
    if name and severity:
        return Distortion(name, severity)
    if name or severity:
        raise _WrongError("it names only one of a distortion and its severity")
    return None


def _word(value: object, allowed: Sequence[str]) -> str | None:
    word = value.strip().lower() if isinstance(value, str) else ""
    if value is None or word in _NO_DISTORTION:
        return None
    if word in allowed:
        return word
    raise _WrongError(f"{reprlib.repr(value)} is none of {', '.join(allowed)}")


def _preferences(section: _Section) -> list[Better]:
    better = _better(section.text)
    if better and section.whole:
        return [better]
    objects = list(_objects(section.text))
    if not objects:
        raise _MissingError("it is none of Image A, Image B, Similar")
    return [_preference(fields) for fields in objects]


def _preference(fields: dict[str, object]) -> Better:
    words = [value for value in fields.values() if isinstance(value, str)]
    better = _better(words[0]) if len(words) == 1 else None
    if better is None:
        raise _WrongError("its JSON is none of Image A, Image B, Similar")
    return better


def _better(text: str) -> Better | None:
    words = " ".join(_FENCE.sub(" ", text).translate(_PLAIN).split())
    return _CHOICES.get(words.strip(_WRAPPING).lower())


def _objects_with(key: str, section: _Section) -> list[dict[str, object]]:
    found = [fields for fields in _objects(section.text) if key in fields]
    if not found:
        raise _MissingError(f'it holds no JSON with the key "{key}"')
    return found


def _objects(text: str) -> Iterator[dict[str, object]]:
    """Every JSON object that is not inside another, its keys in lower case.

    Stops at the first that cannot be read, so that the work grows with the text's length alone.
    """
    plain = text.translate(_PLAIN).replace("None", "null")
    end = 0
    while start := _OBJECT.search(plain, end):
        fields, end = _object_at(start.start(), text, plain)
        yield fields


def _object_at(start: int, *spellings: str) -> tuple[dict[str, object], int]:
    """The object that begins at `start`, and where it ends, in the first spelling that is JSON."""
    for text in spellings:
        try:
            return _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            problem = error
    raise _MissingError(f"its JSON is broken ({problem.msg})") from problem


def _fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object's values; a key given twice has a list of them, which is never an answer."""
    values: dict[str, list[object]] = {}
    for key, value in pairs:
        values.setdefault(key.strip().lower(), []).append(value)
    return {key: found[0] if len(found) == 1 else found for key, found in values.items()}


_DECODER = json.JSONDecoder(
    object_pairs_hook=_fields,
    parse_float=_Literal,
    parse_int=_Literal,
    parse_constant=_Literal,
    strict=False,  # a reason given beside the answer may have several lines
)
