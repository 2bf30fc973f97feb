"""Rules -> verdict, and the policy file that holds the rules.

A rule is either met, broken, or cannot be applied; `Gate.unscorable` decides about the last.
Larger scores are taken to be better: a report does not say which way its scorer's scale runs.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from decimal import Context, Decimal
from itertools import count
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, get_args

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.explain import for_uploader
from qinsight_plugin.records import (
    DISTORTIONS,
    SEVERITIES,
    Gate,
    OnUnscorable,
    Report,
    Score,
    Verdict,
)

POLICY_KEYS = tuple(field.name for field in fields(Gate))
"""The keys that a policy file may have: the rules of a `Gate`."""

SHADOW = "would be rejected: "
"""How reasons begin where a gate in shadow mode accepts what it would have rejected."""

# Enough digits to hold the difference of any two floats exactly.
_EXACT = Context(prec=700)


class _Objection(NamedTuple):
    reason: str
    applied: bool = True  # False: the rule could not be applied


def judge_report(report: Report, gate: Gate) -> Verdict:
    """Apply every rule of a gate to a report.

    Args:
        report: of any scorer whose larger scores are better.
        gate: the rules.

    Returns:
        A verdict with one reason for each rule that is broken or cannot be applied. Numbers in a
        reason have two decimals, or as many as it takes to show that the rule is broken. In shadow
        mode each reason of a would-be rejection begins with `SHADOW`.

    Raises:
        ConfigError: the gate's rules are impossible; see `check_gate`.
    """
    check_gate(gate)
    objections = [*_score_objections(report, gate), *_size_objections(report, gate)]
    refused = any(o.applied or gate.unscorable == "reject" for o in objections)
    reasons = tuple(o.reason for o in objections)
    if refused and gate.shadow:
        would_be = tuple(f"{SHADOW}{reason}" for reason in reasons)
        return Verdict(source=report.source, accepted=True, reasons=would_be)
    sentence = for_uploader(report, gate) if refused else ""
    return Verdict(report.source, accepted=not refused, reasons=reasons, sentence=sentence)


def check_gate(gate: Gate) -> Gate:
    """Return the gate, provided that its rules are possible. A gate without rules is.

    Raises:
        ConfigError: a number is of the wrong type, not finite, negative (`max_drop`) or not
            positive (sizes), or a word is none of those that the rule knows.
    """
    _check_number("min_score", gate.min_score)
    _check_number("max_drop", gate.max_drop)
    if gate.max_drop is not None and gate.max_drop < 0:
        raise ConfigError(f"max_drop must be 0 or more, not {gate.max_drop}")
    _check_size("min_width", gate.min_width)
    _check_size("min_height", gate.min_height)
    if not isinstance(gate.forbid, Mapping):
        raise ConfigError('forbid must be a table of distortions, such as blur = "obvious"')
    for distortion, severity in gate.forbid.items():
        _check_word("forbid", distortion, DISTORTIONS)
        _check_word(f"forbid.{distortion}", severity, SEVERITIES)
    _check_word("unscorable", gate.unscorable, get_args(OnUnscorable))
    if not isinstance(gate.shadow, bool):
        raise ConfigError(f"shadow must be true or false, not {gate.shadow!r}")
    return gate


def load_policy(path: str | os.PathLike[str]) -> Gate:
    """Read a gate from a policy file.

    The file is TOML with the attributes of `Gate` as its keys, each of them optional::

        min_score = 3.5
        unscorable = "reject"

        [forbid]
        blur = "obvious"

    Raises:
        ConfigError: the file cannot be read, is not TOML in UTF-8, has no rule or a key that is
            none, or holds an impossible rule.
    """
    name = f"policy {os.fspath(path)!r}"
    rules = _parse_toml(_read_text(path, name), name)
    if not rules:  # as a full disk may have left it
        raise ConfigError(f"{name} has no rule, and would accept everything; write one into it")
    for key in rules:
        if key not in POLICY_KEYS:
            raise ConfigError(f"{name}: unknown key {key!r}; {_suggestion(key)}")
    try:
        return check_gate(Gate(**rules))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _score_objections(report: Report, gate: Gate) -> Iterator[_Objection]:
    score = report.score
    if report.error is not None or score is None:
        why = report.error or "the report holds no score"
        yield _Objection(f"cannot be scored: {why}", applied=False)
        return
    if math.isfinite(score.value):
        if gate.min_score is not None and score.value < gate.min_score:
            shown = _shown_below(score.value, gate.min_score)
            yield _Objection(f"score {shown} is below the minimum of {gate.min_score}")
        if gate.max_drop is not None:
            yield from _drop_objections(score.value, report.reference_score, gate.max_drop)
    else:
        yield _Objection(f"cannot be scored: the score is {score.value}", applied=False)
    if gate.forbid:
        yield from _distortion_objections(report.scorer, score, gate.forbid)


def _drop_objections(score: float, reference: Score | None, limit: float) -> Iterator[_Objection]:
    unchecked = "max_drop cannot be checked: "
    if reference is None:
        yield _Objection(f"{unchecked}no reference was given and scored", applied=False)
    elif not math.isfinite(reference.value):
        reason = f"{unchecked}the reference's score is {reference.value}"
        yield _Objection(reason, applied=False)
    elif _drop(reference.value, score) > _as_written(limit):
        yield _Objection(_drop_reason(reference.value, score, limit))


def _distortion_objections(
    scorer: str, score: Score, forbid: Mapping[str, str]
) -> Iterator[_Objection]:
    if score.distortions is None:
        reason = f"forbid cannot be checked: scorer {scorer} does not look for distortions"
        yield _Objection(reason, applied=False)
        return
    for name, severity in ((d.name, d.severity) for d in score.distortions if d.name in forbid):
        if severity not in SEVERITIES:
            reason = f"forbid.{name} cannot be checked: {severity!r} is not a known severity"
            yield _Objection(reason, applied=False)
        elif SEVERITIES.index(severity) >= SEVERITIES.index(forbid[name]):
            yield _Objection(f"{severity} {name}; refused from {forbid[name]} up")


def _size_objections(report: Report, gate: Gate) -> Iterator[_Objection]:
    sides = (("width", report.width, gate.min_width), ("height", report.height, gate.min_height))
    for side, pixels, minimum in sides:
        if minimum is None or pixels >= minimum:
            continue
        if pixels > 0:
            yield _Objection(f"{side} {pixels} px is under the minimum of {minimum} px")
        elif report.error is None:  # an error has already been objected to, and explains the 0
            reason = f"min_{side} cannot be checked: the picture's {side} is not known"
            yield _Objection(reason, applied=False)


def _as_written(value: float) -> Decimal:
    """The number that people see, so that 4.0 - 3.9 is a drop of 0.1 and not of 0.1 and a bit."""
    return Decimal(repr(float(value)))


def _drop(reference: float, score: float) -> Decimal:
    return _EXACT.subtract(_as_written(reference), _as_written(score))


def _rounded(value: float, decimals: int) -> float:
    # Python's own float returns itself once `decimals` are enough; NumPy's overflows to NaN.
    return round(float(value), decimals)


def _shown_below(value: float, limit: float) -> float:
    return next(shown for n in count(2) if (shown := _rounded(value, n)) < limit)


def _drop_reason(reference: float, score: float, limit: float) -> str:
    pairs = ((_rounded(reference, n), _rounded(score, n)) for n in count(2))
    reference, score = next(pair for pair in pairs if _drop(*pair) > _as_written(limit))
    return (
        f"score {score} is {_drop(reference, score)} below the reference's {reference}; "
        f"at most {limit} is allowed"
    )


def _check_number(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's numbers among them
        raise ConfigError(f"{name} must be a number, not {value!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        finite = False
    if not finite:
        raise ConfigError(f"{name} must be a finite number")


def _check_size(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{name} must be a whole number of pixels, not {value!r}")
    if value <= 0:
        raise ConfigError(f"{name} must be 1 pixel or more, not {value}")


def _check_word(name: str, word: object, known: tuple[str, ...]) -> None:
    if word not in known:
        raise ConfigError(f"{name}: {word!r} is not one of {', '.join(known)}")


def _read_text(path: str | os.PathLike[str], name: str) -> str:
    try:
        # Some editors begin UTF-8 with a byte order mark, which TOML's parser would stumble over.
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name} is not text in UTF-8 (byte {error.start}); save it in that encoding"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name} cannot be read: {reason}") from error


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    from qinsight_plugin.toml import loads

    try:
        rules = loads(text)
    except (ValueError, RecursionError) as error:
        end = f"at line {len(text.splitlines())}, the end of the file"
        reason = str(error).replace("at end of document", end)
        raise ConfigError(f"{name} is not valid TOML: {reason}") from error
    _refuse_misplaced(rules.get("forbid"), name)
    return rules


def _refuse_misplaced(forbid: object, name: str) -> None:
    """In TOML whatever follows [forbid] belongs to it: name the likeliest slip for what it is."""
    for key in forbid if isinstance(forbid, dict) else ():
        if key in POLICY_KEYS:
            raise ConfigError(f"{name}: {key} stands under [forbid]; move it above that line")


def _suggestion(key: str) -> str:
    near = difflib.get_close_matches(key, POLICY_KEYS, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(POLICY_KEYS)}"
