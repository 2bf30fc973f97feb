"""`MODEL?samples=5&mode=direct`: what stands after a scorer's name, taken apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from qinsight_plugin.errors import ConfigError

T = TypeVar("T")


def split_argument(argument: str) -> tuple[str, dict[str, str]]:
    """What stands before the first `?`, and the settings behind it, as text.

    Raises:
        ConfigError: a setting is given twice, or is none.
    """
    target, _, query = argument.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ConfigError(f"{argument!r}: settings are written ?name=value&name=value") from error
    settings = dict(pairs)
    if len(settings) < len(pairs):
        raise ConfigError(f"{argument!r} gives a setting twice")
    return target, settings


def take_settings(kind: type[T], settings: dict[str, str], scorer: str) -> T:
    """An instance of a dataclass from those settings that bear its fields' names; they are removed.

    Raises:
        ConfigError: a value cannot be read as its field's type.
    """
    taken = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in settings:
            text = settings.pop(field.name)
            taken[field.name] = _read(str(field.type), text, f"{scorer}: {field.name}")
    return kind(**taken)


def require_none_left(settings: dict[str, str], scorer: str, *kinds: type[Any]) -> None:
    """Raises ConfigError for a setting that none of the dataclasses has."""
    if settings:
        known = ", ".join(
            sorted(field.name for kind in kinds for field in dataclasses.fields(kind))
        )
        raise ConfigError(f"{scorer} has no setting {min(settings)!r}; it has {known}")


def _read(kind: str, text: str, what: str) -> Any:
    wanted, read = next(
        (known, read) for known, read in _READERS.items() if kind.startswith(known) or known == ""
    )
    try:
        return read(text)
    except (ValueError, KeyError) as error:
        article = {"int": "a whole number", "float": "a number", "bool": "yes or no"}[wanted]
        raise ConfigError(f"{what} must be {article}, not {text!r}") from error


_READERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": {
        "yes": True,
        "true": True,
        "1": True,
        "no": False,
        "false": False,
        "0": False,
    }.__getitem__,
    "Path": Path,
    "": str,
}
"""By how a field's type begins."""
