"""The rows of a run, read back: a folder of Parquet files, or one, here or behind a URL."""

from __future__ import annotations

from typing import Any

from qinsight_plugin.batch.remote import filesystem, is_url, reaching
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.report.columns import pyarrow, schema


def open_table(location: str) -> Any:
    """A pyarrow Dataset that has the columns of `schema`.

    Raises:
        ConfigError: it cannot be read, has no rows, or lacks a column.
    """
    system, path = filesystem(location) if is_url(location) else (None, location)
    with reaching("read the table", location):
        try:
            dataset = pyarrow("pyarrow.dataset").dataset(path, format="parquet", filesystem=system)
        except FileNotFoundError as error:  # which tells no more than the path
            raise ConfigError(f"there is no table {location}: check the path") from error
        rows = dataset.count_rows()
    if not rows:  # and no columns either, before the first part is done
        raise ConfigError(f"{location} has no rows yet: let qinsight batch go on")
    if missing := [name for name in schema().names if name not in dataset.schema.names]:
        raise ConfigError(
            f"{location} has no column {missing[0]!r}: it is no table of qinsight batch"
        )
    return dataset
