"""Watching pictures go by: files, folders that are being filled, cameras, streams.

from qinsight_plugin.watch import Policy, watch

for sample in watch("rtsp://camera/1", policy=Policy(Gate(min_score=3))):
    ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qinsight_plugin.watch.watching import Policy, Sample, watch

__all__ = ["Policy", "Sample", "watch"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qinsight_plugin.watch import watching

    return getattr(watching, name)
