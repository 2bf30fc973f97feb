"""Reports as the columns of a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from qinsight_plugin._imports import require
from qinsight_plugin.report.serialize import Row


def schema() -> Any:
    """The columns of a batch: those of `to_row`, without what only a reference brings.

    `distortion` and `severity` are the worst of `distortions`: "" where none was found, null where
    none was looked for. `blocks` and `cost` are JSON. `accepted`, `reasons` and `sentence` are null
    where nothing was judged.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    arrow = pyarrow()
    text, number, size = arrow.string(), arrow.float64(), arrow.int32()
    texts = arrow.list_(text)
    found = arrow.list_(arrow.struct([("name", text), ("severity", text)]))
    kinds = {
        "source": text,
        "score": number,
        "uncertainty": number,
        "levels": arrow.list_(number),
        "distortion": text,
        "severity": text,
        "distortions": found,
        "explanation": text,
        "reasoning": text,
        "error": text,
        "error_type": text,
        "scorer": text,
        "scorer_version": text,
        "width": size,
        "height": size,
        "format": text,
        "notes": texts,
        "cost": text,
        "blocks": text,
        "accepted": arrow.bool_(),
        "reasons": texts,
        "sentence": text,
    }
    return arrow.schema(list(kinds.items()))


def to_table(rows: Sequence[Row]) -> Any:
    """Rows as `to_row` makes them -> a pyarrow.Table of `schema`, in order."""
    return pyarrow().Table.from_pylist([_flat(row) for row in rows], schema())


def pyarrow(module: str = "pyarrow") -> ModuleType:
    return require(module, package="pyarrow", extra="batch", purpose="reading and writing Parquet")


def _flat(row: Row) -> Row:
    found = row["distortions"]
    unnamed = None if found is None else ""
    flat = row | {
        "distortion": found[0]["name"] if found else unnamed,
        "severity": found[0]["severity"] if found else unnamed,
        "cost": None if row["cost"] is None else json.dumps(row["cost"]),
        "blocks": json.dumps(row["blocks"]),
    }
    return {key: _utf8(value) for key, value in flat.items()}


def _utf8(value: Any) -> Any:
    """Names of files may hold bytes that no text does: they are shown escaped."""
    if isinstance(value, list):
        return [_utf8(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value
