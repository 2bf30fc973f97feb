"""Report <-> JSON-safe dict, and the row that a report and its verdict make together."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.explain import explain
from qinsight_plugin.records import ACR_LEVELS, Cost, Distortion, Report, Score, Verdict

VERDICT_KEYS = ("accepted", "reasons", "sentence")
"""What a verdict adds to a row."""

Row: TypeAlias = dict[str, Any]


def to_dict(report: Report) -> Row:
    """The report as a flat dict of JSON values; `from_dict` is the inverse.

    Of the score, and with `reference_` before each key of the reference's: `score` and
    `uncertainty` are numbers, `levels` a list of five, `distortions` a list of {"name",
    "severity"}, `reasoning` is text, and `cost` has the fields of `Cost`; each is None where it is
    not known. The quality map is left out; what it tells in words is in `explanation`, which is
    derived from the score and may lose its place on the way through `from_dict`. Text may hold lone
    surrogates, as Python's names of undecodable files do: JSON keeps them as long as it is written
    in ASCII.

    Raises:
        ConfigError: the report holds something that JSON cannot, such as NaN.
    """
    row = {
        "source": report.source,
        **_told(report.score),
        "explanation": None if report.score is None else explain(report.score),
        "error": report.error,
        "error_type": report.error_type,
        "scorer": report.scorer,
        "scorer_version": report.scorer_version,
        **_told(report.reference_score, "reference_"),
        "width": report.width,
        "height": report.height,
        "format": report.format,
        "notes": list(report.notes),
        "blocks": dict(report.blocks),
    }
    return _through_json(row, f"the report of {report.source!r}")


def to_row(report: Report, verdict: Verdict | None = None) -> Row:
    """`to_dict`, and with a verdict also `accepted` (bool), `reasons` (list of text) and
    `sentence` (text, "" for none)."""
    row = to_dict(report)
    if verdict is not None:
        row["accepted"] = verdict.accepted
        row["reasons"] = list(verdict.reasons)
        row["sentence"] = verdict.sentence
    return row


def from_dict(row: Mapping[str, Any]) -> Report:
    """The report that `to_dict` or `to_row` wrote, equal to what it was, without quality maps.

    A verdict in the row is left aside, and so is the explanation, which follows from the rest.

    Args:
        row: must have `source` and `scorer`; other keys default as in `Report`.

    Raises:
        ConfigError: the row is not a report: a key is missing, unknown, or of the wrong kind, or
            keys contradict each other.
    """
    if not isinstance(row, Mapping):
        raise ConfigError(f"a report is a JSON object, not {type(row).__name__}")
    for key in ("source", "scorer"):
        if key not in row:
            raise ConfigError(f"a report needs the key {key!r}")
    full = _DEFAULTS | {key: value for key, value in row.items() if key not in VERDICT_KEYS}
    for key, value in full.items():
        if key not in _SHAPES:
            raise ConfigError(f"a report has no key {key!r}; it has {', '.join(_SHAPES)}")
        is_right, shape = _SHAPES[key]
        if not is_right(value):
            raise ConfigError(f"{key!r} of a report must be {shape}")
    if full["score"] is not None and full["error"] is not None:
        raise ConfigError("a report has a score or an error, not both")
    return Report(
        source=full["source"],
        scorer=full["scorer"],
        scorer_version=full["scorer_version"],
        score=_score(full),
        reference_score=_score(full, "reference_"),
        width=full["width"],
        height=full["height"],
        format=full["format"],
        notes=tuple(full["notes"]),
        error=full["error"],
        error_type=full["error_type"],
        blocks=_through_json(dict(full["blocks"]), "'blocks' of a report"),
    )


def _told(score: Score | None, prefix: str = "") -> Row:
    if score is None:
        return dict.fromkeys(prefix + key for key in _OF_A_SCORE)
    found, spread, levels = score.distortions, score.uncertainty, score.levels
    told = {
        "score": float(score.value),
        "uncertainty": None if spread is None else float(spread),
        "levels": None if levels is None else [float(level) for level in levels],
        "distortions": None
        if found is None
        else [{"name": d.name, "severity": d.severity} for d in found],
        "reasoning": score.reasoning,
        "cost": None if score.cost is None else dataclasses.asdict(score.cost),
    }
    return {prefix + key: value for key, value in told.items()}


def _score(row: Row, prefix: str = "") -> Score | None:
    told = {key: row[prefix + key] for key in _OF_A_SCORE}
    if told["score"] is None:
        for key, value in told.items():
            if value is not None:
                raise ConfigError(f"a report with '{prefix}{key}' needs '{prefix}score' too")
        return None
    found, spread, levels = told["distortions"], told["uncertainty"], told["levels"]
    return Score(
        value=float(told["score"]),
        uncertainty=None if spread is None else float(spread),
        levels=None if levels is None else tuple(map(float, levels)),
        distortions=None
        if found is None
        else tuple(Distortion(d["name"], d["severity"]) for d in found),
        reasoning=told["reasoning"],
        cost=None if told["cost"] is None else Cost(**told["cost"]),
    )


def _through_json(values: Row, where: str) -> Row:
    """A copy that is what a reader of the JSON would see, and shares nothing with the original."""
    try:
        copy: Row = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} cannot be written as JSON: {error}") from error
    return copy


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def _is_deviation(value: object) -> bool:
    return _is_number(value) and value >= 0  # type: ignore[operator]


def _is_levels(value: object) -> bool:
    return isinstance(value, list) and len(value) == len(ACR_LEVELS) and all(map(_is_number, value))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_distortions(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, Mapping)
        and item.keys() == {"name", "severity"}
        and all(map(_is_text, item.values()))
        for item in value
    )


def _is_cost(value: object) -> bool:
    names = {field.name for field in dataclasses.fields(Cost)}
    return (
        isinstance(value, Mapping)
        and value.keys() == names
        and all(map(_is_number, value.values()))
    )


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


def _or_null(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


_Shape: TypeAlias = tuple[Callable[[object], bool], str]

_OF_A_SCORE: dict[str, _Shape] = {
    "score": (_or_null(_is_number), "a finite number or null"),
    "uncertainty": (_or_null(_is_deviation), "a finite number from 0 up or null"),
    "levels": (_or_null(_is_levels), f"a list of {len(ACR_LEVELS)} finite numbers or null"),
    "distortions": (_or_null(_is_distortions), 'a list of {"name", "severity"} or null'),
    "reasoning": (_or_null(_is_text), "text or null"),
    "cost": (_or_null(_is_cost), "an object of numbers or null"),
}
_SHAPES: dict[str, _Shape] = {
    "source": (_is_text, "text"),
    **_OF_A_SCORE,
    "explanation": (_or_null(_is_text), "text or null"),
    "error": (_or_null(_is_text), "text or null"),
    "error_type": (_or_null(_is_text), "text or null"),
    "scorer": (_is_text, "text"),
    "scorer_version": (_is_text, "text"),
    **{f"reference_{key}": shape for key, shape in _OF_A_SCORE.items()},
    "width": (_is_size, "a whole number from 0 up"),
    "height": (_is_size, "a whole number from 0 up"),
    "format": (_is_text, "text"),
    "notes": (_is_texts, "a list of texts"),
    "blocks": (_is_object, "an object"),
}
_DEFAULTS = to_dict(Report(source="", scorer=""))

REPORT_KEYS = tuple(_SHAPES)
"""The keys of `to_dict`, in order."""
