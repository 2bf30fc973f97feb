"""Report <-> JSON-safe dict, and the row that a report and its verdict make together."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Distortion, Report, Score, Verdict

VERDICT_KEYS = ("accepted", "reasons")
"""What a verdict adds to a row."""

Row: TypeAlias = dict[str, Any]


def to_dict(report: Report) -> Row:
    """The report as a flat dict of JSON values; `from_dict` is the inverse.

    `score` and `reference_score` are numbers, `distortions` and `reference_distortions` lists of
    {"name", "severity"}; each is None where it is not known. Text may hold lone surrogates, as
    Python's names of undecodable files do: JSON keeps them as long as it is written in ASCII.

    Raises:
        ConfigError: the report holds something that JSON cannot, such as NaN.
    """
    row = {
        "source": report.source,
        "score": _value(report.score),
        "error": report.error,
        "error_type": report.error_type,
        "scorer": report.scorer,
        "scorer_version": report.scorer_version,
        "reference_score": _value(report.reference_score),
        "width": report.width,
        "height": report.height,
        "format": report.format,
        "distortions": _distortions(report.score),
        "reference_distortions": _distortions(report.reference_score),
        "notes": list(report.notes),
        "blocks": dict(report.blocks),
    }
    return _through_json(row, f"the report of {report.source!r}")


def to_row(report: Report, verdict: Verdict | None = None) -> Row:
    """`to_dict`, and with a verdict also `accepted` (bool) and `reasons` (list of text)."""
    row = to_dict(report)
    if verdict is not None:
        row["accepted"] = verdict.accepted
        row["reasons"] = list(verdict.reasons)
    return row


def from_dict(row: Mapping[str, Any]) -> Report:
    """The report that `to_dict` or `to_row` wrote; a verdict in the row is left aside.

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
        score=_score(full, "score", "distortions"),
        reference_score=_score(full, "reference_score", "reference_distortions"),
        width=full["width"],
        height=full["height"],
        format=full["format"],
        notes=tuple(full["notes"]),
        error=full["error"],
        error_type=full["error_type"],
        blocks=_through_json(dict(full["blocks"]), "'blocks' of a report"),
    )


def _value(score: Score | None) -> float | None:
    return None if score is None else float(score.value)


def _distortions(score: Score | None) -> list[dict[str, str]] | None:
    if score is None or score.distortions is None:
        return None
    return [{"name": d.name, "severity": d.severity} for d in score.distortions]


def _score(row: Row, value_key: str, distortions_key: str) -> Score | None:
    value, distortions = row[value_key], row[distortions_key]
    if value is None:
        if distortions is not None:
            raise ConfigError(f"a report with {distortions_key!r} needs {value_key!r} too")
        return None
    if distortions is None:
        return Score(float(value))
    return Score(float(value), tuple(Distortion(d["name"], d["severity"]) for d in distortions))


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


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


def _or_null(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


_SHAPES: dict[str, tuple[Callable[[object], bool], str]] = {
    "source": (_is_text, "text"),
    "score": (_or_null(_is_number), "a finite number or null"),
    "error": (_or_null(_is_text), "text or null"),
    "error_type": (_or_null(_is_text), "text or null"),
    "scorer": (_is_text, "text"),
    "scorer_version": (_is_text, "text"),
    "reference_score": (_or_null(_is_number), "a finite number or null"),
    "width": (_is_size, "a whole number from 0 up"),
    "height": (_is_size, "a whole number from 0 up"),
    "format": (_is_text, "text"),
    "distortions": (_or_null(_is_distortions), 'a list of {"name", "severity"} or null'),
    "reference_distortions": (_or_null(_is_distortions), 'a list of {"name", "severity"} or null'),
    "notes": (_is_texts, "a list of texts"),
    "blocks": (_is_object, "an object"),
}
_DEFAULTS = to_dict(Report(source="", scorer=""))

REPORT_KEYS = tuple(_SHAPES)
"""The keys of `to_dict`, in order."""
