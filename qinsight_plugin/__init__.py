"""A perceptual quality gate for image workflows.

    >>> import qinsight_plugin
    >>> sorted(qinsight_plugin.__all__)
    ['Gate', 'Report', 'Verdict', 'compare', 'compress', 'hookimpl', 'judge', 'score', 'score_many']

Importing the package loads nothing heavy; a name loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qinsight_plugin.comparing import compare
    from qinsight_plugin.compression.picture import compress
    from qinsight_plugin.hookspecs import hookimpl
    from qinsight_plugin.pipeline import judge, score, score_many
    from qinsight_plugin.records import Gate, Report, Verdict

__version__ = "0.1.0"

_HOMES = {
    "score": "pipeline",
    "score_many": "pipeline",
    "compare": "comparing",
    "compress": "compression.picture",
    "judge": "pipeline",
    "Gate": "records",
    "Report": "records",
    "Verdict": "records",
    "hookimpl": "hookspecs",
}

__all__ = [
    "Gate",
    "Report",
    "Verdict",
    "compare",
    "compress",
    "hookimpl",
    "judge",
    "score",
    "score_many",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
