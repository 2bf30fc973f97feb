"""Which files of a folder are taken for pictures, by their names."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm"}
    | {".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""What is picked up inside folders; a file named outright may be called anything."""


def is_pipe(path: str) -> bool:
    """Whether reading it would wait for somebody to write to it, perhaps for ever."""
    try:
        return stat.S_ISFIFO(Path(path).stat().st_mode)
    except OSError:  # whoever opens it will say why
        return False


def wanted(name: str) -> bool:
    """Whether a file of that name, found in a folder, is looked at: no hidden ones."""
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in SUFFIXES
