"""A file of labels -> `Table`: its columns by role, its rows, and errors that list them.

It may be CSV, JSON lines (.jsonl) or Parquet (.parquet).
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, LabelsError

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one kind of label file.

    Attributes:
        names: by a column's role, the headers that it goes by, in lower case.
        needed: the roles without which there is nothing to read.
        pictures: the roles whose cells name a picture.
    """

    names: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...]
    pictures: tuple[str, ...]

    def fits(self, header: Iterable[str]) -> bool:
        """Whether the header has every needed column."""
        present = {name.lower() for name in header}
        return all(present.intersection(self.names[role]) for role in self.needed)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a label file: the line on which it starts, from 1, and its cells by role."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A label file of at least one row."""

    source: Path
    layout: Layout
    rows: tuple[Row, ...]

    def cells(self, role: str) -> tuple[str, ...]:
        """The cells of a column that is there."""
        return tuple(row.cells[role] for row in self.rows)

    def column(self, role: str) -> tuple[str, ...] | None:
        """The cells of a column, or None if there is none of that role."""
        return self.cells(role) if role in self.rows[0].cells else None

    def error(
        self, rows: Sequence[Row], problem: str, advice: str, show: Sequence[str] = ()
    ) -> LabelsError:
        """An error that lists the first three of the rows: line, and cells of the roles `show`.

        No roles stand for those that name pictures.
        """
        listed = []
        for row in rows:
            cells = [row.cells.get(role, "") for role in show or self.layout.pictures]
            listed.append(
                f"line {row.line} ({', '.join(shown(cell) or 'empty' for cell in cells)})"
            )
        return LabelsError(f"labels {self.source}: {problem}: {first_few(listed)}: {advice}")

    def refuse(
        self, wrong: Iterable[bool], problem: str, advice: str, show: Sequence[str] = ()
    ) -> None:
        """Raise `error` if any row is wrong; `wrong` says of every row whether it is.

        Raises:
            LabelsError: a row is wrong.
        """
        rows = [row for row, is_wrong in zip(self.rows, wrong, strict=True) if is_wrong]
        if rows:
            raise self.error(rows, problem, advice, show)


def read_split(table: Table) -> tuple[str, ...] | None:
    """The split of every row, in lower case, or None without such a column.

    Raises:
        LabelsError: a split is none of train, val and test.
    """
    column = table.column("split")
    if column is None:
        return None
    split = tuple(value.lower() for value in column)
    table.refuse(
        [value not in _SPLITS for value in split],
        "the split is unknown",
        "write train, val or test",
        show=(*table.layout.pictures, "split"),
    )
    return split


def picture_folder(source: Path, images: str | os.PathLike[str] | None) -> Path:
    """The folder that relative picture paths start from.

    Raises:
        ConfigError: `images` is not a folder.
    """
    folder = source.parent if images is None else Path(images)
    if images is not None and not folder.is_dir():
        raise ConfigError(f"images {folder}: not a folder: name the one that holds the pictures")
    return folder


def find_pictures(table: Table, role: str, folder: Path) -> tuple[Path, ...]:
    """The picture files that the cells of a role name.

    Raises:
        LabelsError: one is missing.
    """
    cells = table.cells(role)
    paths = tuple(folder / cell for cell in cells)
    # A label file that came from Windows.
    slashes = os.sep == "/" and any("\\" in cell for cell in cells)
    table.refuse(
        [not _is_file(path) for path in paths],
        f"there is no such picture in {folder}",
        "correct the name or folder" + (", and write / for \\" if slashes else ""),
        show=(role,),
    )
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the system, or a folder closed to us
        return False


def read_table(source: Path, layout: Layout) -> Table:
    """Read a label file, each row's cells under their roles.

    Raises:
        LabelsError: the file cannot be read, is not CSV in UTF-8, has no rows, lacks a needed
            column or has two for one role, or has rows of another width than its header.
    """
    (_, header), *body = read_records(source)
    columns = _find_columns(source, header, layout)
    rows = tuple(
        Row(line, {role: cells[at] for role, at in columns.items() if at < len(cells)})
        for line, cells in body
    )
    table = Table(source, layout, rows)
    table.refuse(
        [len(cells) != len(header) for _, cells in body],
        f"the number of cells is not the header's {len(header)}",
        "write decimals with a point, and put names that hold a comma in double quotes",
    )
    return table


def read_records(source: Path) -> list[tuple[int, list[str]]]:
    """The header and the rows of a file: (line on which it starts, cells), none blank.

    The name says what it is: .jsonl has an object a line, .parquet a column a key and is numbered
    from its first row; anything else is CSV. A JSON null, or Parquet's, is the word "null".

    Raises:
        LabelsError: the file cannot be read, is not CSV or JSON in UTF-8 or Parquet, or has no
            rows.
        MissingExtraError: Parquet, and pyarrow is not installed.
    """
    if source.suffix.lower() == ".parquet":
        records = _records(_read_parquet(source))
    elif source.suffix.lower() == ".jsonl":
        records = _records(_read_lines(source, _read_text(source)))
    else:
        records = _parse(source, _read_text(source))
    if len(records) < 2:
        raise LabelsError(f"labels {source}: no rows: give a header and a line for each judgement")
    return records


def _read_text(source: Path) -> str:
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LabelsError(
            f"labels {source}: cannot be read ({error.strerror}): check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise LabelsError(
            f"labels {source}: not UTF-8 text (byte {error.start}): save it as UTF-8 CSV"
        ) from error
    if "\0" in text:
        raise LabelsError(f"labels {source}: binary data, not CSV: save it as UTF-8 CSV")
    return text


def _parse(source: Path, text: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    records = []
    line = 1
    try:
        for cells in reader:
            records.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelsError(
            f"labels {source}: line {line} is not CSV ({error}): check its quotes"
        ) from error
    return [(line, cells) for line, cells in records if any(cells)]


def _read_lines(source: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise LabelsError(f"labels {source}: line {number} is not JSON ({error})") from error
        if not isinstance(told, dict):
            raise LabelsError(f"labels {source}: line {number} is no JSON object: write one a line")
        found.append((number, told))
    return found


def _read_parquet(source: Path) -> list[tuple[int, dict[str, Any]]]:
    parquet = require(
        "pyarrow.parquet", package="pyarrow", extra="distill", purpose="reading Parquet"
    )
    try:
        rows = parquet.ParquetFile(source).read().to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        reason = str(error).partition("\n")[0]
        raise LabelsError(f"labels {source}: cannot be read as Parquet ({reason})") from error
    return list(enumerate(rows, 1))


def _records(told: Sequence[tuple[int, Mapping[str, Any]]]) -> list[tuple[int, list[str]]]:
    """Objects as a header and rows; one that lacks a key has "" there."""
    header = list(dict.fromkeys(key for _, fields in told for key in fields))
    rows = [(line, [_cell(fields.get(key, "")) for key in header]) for line, fields in told]
    return [(1, header), *rows]


def _cell(value: object) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value, default=str)


def _find_columns(source: Path, header: Sequence[str], layout: Layout) -> dict[str, int]:
    found = {}
    for role, names in layout.names.items():
        hits = [index for index, name in enumerate(header) if name.lower() in names]
        if len(hits) > 1:
            raise LabelsError(
                f"labels {source}: {len(hits)} columns could be the {role} "
                f"({', '.join(header[index] for index in hits)}): keep one"
            )
        if hits:
            found[role] = hits[0]
        elif role in layout.needed:
            raise LabelsError(
                f"labels {source}: no column for the {role} (found: {shown_header(header)}): "
                f"call one {' or '.join(names)}, and separate them by commas"
            )
    return found


def shown_header(header: Sequence[str]) -> str:
    """The first columns' names, fit for a one-line message."""
    return ", ".join(shown(name) for name in header[:12]) + (", ..." if len(header) > 12 else "")


def short_name(path: Path) -> str:
    """A picture's name and its folder's, fit for a one-line message."""
    return shown(str(Path(*path.parts[-2:])))


def first_few(items: Sequence[str]) -> str:
    """Three at most, and how many more there are."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(items[:3])}{more}"


def shown(text: str) -> str:
    """Fit for a one-line message: no line breaks or control characters, 60 characters at most."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 60 else f"{text[:57]}..."
