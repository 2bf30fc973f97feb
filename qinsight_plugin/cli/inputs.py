"""PATH arguments -> sources: files as given, folders walked, `-` for standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qinsight_plugin.errors import ImageNotFoundError, ImageUnreadableError
from qinsight_plugin.suffixes import SUFFIXES, is_pipe, wanted


@dataclass(frozen=True, slots=True)
class Input:
    """One picture to look at.

    Attributes:
        path: its name in the output; "-" is standard input.
        root: the folder argument in which it was found, if it was.
        error: why it cannot be looked at, known before opening it.
    """

    path: str
    root: Path | None = None
    error: ImageNotFoundError | ImageUnreadableError | None = None

    @property
    def source(self) -> str | BinaryIO:
        return sys.stdin.buffer if self.path == "-" else self.path


def expand(paths: Iterable[str], skip: Sequence[Path] = ()) -> list[Input]:
    """The pictures that the arguments name, folders in sorted order.

    Inside folders, hidden files and whatever lies in a folder of `skip` are left out.
    """
    skipped = frozenset(folder.resolve() for folder in skip)
    inputs: list[Input] = []
    for path in paths:
        # Unlike Path's, it is no error that a name is too long, or lies where we may not look.
        if path != "-" and os.path.isdir(path):  # noqa: PTH112
            inputs += walk(Path(path), skipped)
        else:
            inputs.append(Input(path))
    return inputs


def walk(folder: Path, skipped: frozenset[Path]) -> list[Input]:
    """The pictures in a folder and below it; what cannot be listed is an error of its own."""
    failures: list[OSError] = []
    found: list[Input] = []
    for parent, folders, files in os.walk(folder, onerror=failures.append):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and Path(parent, name).resolve() not in skipped
        )
        names = sorted(name for name in files if wanted(name))
        found += [found_file(str(Path(parent, name)), folder) for name in names]
    for failure in failures:
        message = f"cannot list {failure.filename}: {failure.strerror}; check its permissions"
        found.append(Input(str(failure.filename), folder, ImageUnreadableError(message)))
    if not found:
        endings = " ".join(sorted(SUFFIXES))
        message = f"no pictures in {folder}; looked for names that end in {endings}"
        found.append(Input(str(folder), folder, ImageNotFoundError(message)))
    return found


def found_file(path: str, folder: Path) -> Input:
    """A file of a folder. Only a pipe that was named outright is meant to be read."""
    message = f"{path} is a pipe: only files are looked for in folders"
    return Input(path, folder, ImageUnreadableError(message) if is_pipe(path) else None)
