"""Parameters that make pictures better: tuning any pipeline `params, scene -> image`, a reference
ISP to tune, and small edits to suggest.

    from qinsight_plugin.tune import tune

An optimiser left alone hacks a score that needs no reference. So what it may do to the look of a
picture is bounded (`bounds`), and what it found must hold on scenes that it never saw.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qinsight_plugin.tune.bounds import Bounds
    from qinsight_plugin.tune.space import Choice, Number, Space
    from qinsight_plugin.tune.study import Tuned, tune
    from qinsight_plugin.tune.suggestions import suggest

_HOMES = {
    "Bounds": "bounds",
    "Choice": "space",
    "Number": "space",
    "Space": "space",
    "Tuned": "study",
    "suggest": "suggestions",
    "tune": "study",
}

__all__ = ["Bounds", "Choice", "Number", "Space", "Tuned", "suggest", "tune"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
