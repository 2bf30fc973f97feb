"""A source -> the names of its pictures, each once; or an error, never half of them.

A listing that fails half-way is an error: what it left out would look as if it were not there.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qinsight_plugin.batch.remote import filesystem, is_url, reaching
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.report.columns import pyarrow
from qinsight_plugin.suffixes import SUFFIXES, wanted
from qinsight_plugin.tables import Layout, read_table

NAMES = Layout(
    names={"file": ("path", "filename", "image", "name", "url", "source")},
    needed=("file",),
    pictures=("file",),
)
_TABLES = (".parquet", ".csv", ".jsonl")


def names_in(source: str) -> Iterator[str]:
    """The pictures of a source, in the order in which they are found.

    Args:
        source: a folder, searched with its sub-folders but for hidden files; a table (.csv, .jsonl,
            or .parquet, also a folder of Parquet files) that names pictures in a column `path`,
            `filename`, `image`, `name`, `url` or `source`, relative names from where it lies; a
            picture; or the URL of any of these, for fsspec.

    Raises:
        ConfigError: there is nothing, or not all of it can be listed.
        LabelsError: the table names no pictures.
    """
    found = _names(source)
    first = next(found, None)
    if first is None:
        endings = " ".join(sorted(SUFFIXES))
        raise ConfigError(f"no pictures in {source}; looked for names that end in {endings}")
    yield first
    yield from found


def _names(source: str) -> Iterator[str]:
    is_table = source.rstrip("/").lower().endswith(_TABLES)
    if is_url(source):
        yield from _remote_table(source) if is_table else _remote_folder(source)
    elif not Path(source).exists():
        raise ConfigError(f"there is no folder or file {source}; check the path")
    elif is_table:
        yield from _once(_in_folder(name, source) for name in _cells(source, source))
    elif Path(source).is_dir():
        yield from _folder(source)
    else:
        yield source


def _folder(source: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise ConfigError(
            f"cannot list {error.filename}: {error.strerror}; nothing was begun, since pictures "
            "would be missing: mend it and try again"
        ) from error

    for parent, folders, files in os.walk(source, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (str(Path(parent, name)) for name in sorted(files) if wanted(name))


def _remote_folder(source: str) -> Iterator[str]:
    system, top = filesystem(source)
    with reaching("list", source):
        system.invalidate_cache()
        if not system.isdir(top):
            if not system.exists(top):
                raise ConfigError(f"there is nothing at {source}; check the address")
            yield system.unstrip_protocol(top)
            return
    yield from map(system.unstrip_protocol, _tree(system, top))


def _tree(system: Any, folder: str) -> Iterator[str]:
    """The pictures in a folder and below it. fsspec's own `walk` and `find` pass over folders that
    they cannot list, those below the first even when told not to."""
    with reaching("list all pictures, so nothing was begun:", folder):
        entries = system.ls(folder, detail=True)
        system.invalidate_cache(folder)  # a hundred million names are not kept
    below = []
    for entry in sorted(entries, key=lambda entry: str(entry["name"])):
        path = entry["name"].rstrip("/")
        name = posixpath.basename(path)
        if path == folder.rstrip("/") or name.startswith("."):
            continue  # object stores may list the folder itself
        if entry["type"] == "directory":
            below.append(entry["name"])
        elif wanted(name):
            yield entry["name"]
    for path in below:
        yield from _tree(system, path)


def _remote_table(source: str) -> Iterator[str]:
    system, path = filesystem(source)
    with tempfile.TemporaryDirectory(prefix="qinsight-") as folder:
        local = Path(folder, posixpath.basename(path.rstrip("/")))
        with reaching("read", source):
            system.get(path, str(local), recursive=system.isdir(path))
        yield from _once(_at_url(name, source) for name in _cells(str(local), source))


def _cells(table: str, called: str) -> Iterator[str]:
    """The names as they stand in a table on this machine."""
    if not table.lower().endswith(".parquet"):
        yield from read_table(Path(table), NAMES).cells("file")
        return
    dataset = _dataset(table, called)
    columns = [name for name in dataset.schema.names if name.lower() in NAMES.names["file"]]
    if len(columns) != 1:
        raise ConfigError(
            f"{called} has {len(columns)} columns that could name pictures; have one, called "
            + " or ".join(NAMES.names["file"])
        )
    for batch in dataset.to_batches(columns=columns):
        for name in batch.column(0).to_pylist():
            if not name:
                raise ConfigError(f"{called} has a row without a picture's name: drop it")
            yield str(name)


def _dataset(table: str, called: str) -> Any:
    try:
        return pyarrow("pyarrow.dataset").dataset(table, format="parquet")
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{called} cannot be read as Parquet ({reason})") from error


def _in_folder(name: str, table: str) -> str:
    return name if is_url(name) else str(Path(table).parent / name)


def _at_url(name: str, table: str) -> str:
    if is_url(name):
        return name
    return posixpath.join(posixpath.dirname(table.rstrip("/")), name)


def _once(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name not in seen:
            seen.add(name)
            yield name
