"""Quality nodes for ComfyUI (V3 schema).

ComfyUI loads this folder from `custom_nodes/`, or through a line there that imports the installed
package; see the README beside this file. Inside: relative imports and the installed package only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = str(Path(__file__).parent / "web")
"""Absolute, so that it is found from wherever the package is imported."""


async def comfy_entrypoint() -> Any:
    """What ComfyUI asks for the nodes."""
    from .extension import QInsightExtension

    return QInsightExtension()
