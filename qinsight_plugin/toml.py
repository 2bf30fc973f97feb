"""TOML, by the standard library or, before Python 3.11, by what became its reader."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ConfigError, one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

loads: Callable[[str], dict[str, Any]] = tomllib.loads


def read_toml(path: Path, what: str = "") -> dict[str, Any]:
    """What a file of settings holds.

    Args:
        what: how a message calls the file; its path if empty.

    Raises:
        ConfigError: it cannot be read, or is no TOML in UTF-8.
    """
    try:
        return loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error)
        raise ConfigError(f"cannot read {what or path}: {reason}") from error
