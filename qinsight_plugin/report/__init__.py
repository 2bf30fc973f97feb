"""Reports in the forms that people and programs read."""

from __future__ import annotations

from qinsight_plugin.report.reasons import ReasonsWriter
from qinsight_plugin.report.serialize import from_dict, to_dict, to_row
from qinsight_plugin.report.table import TableWriter
from qinsight_plugin.report.writers import CsvWriter, JsonlWriter, JsonWriter, ReportWriter

__all__ = [
    "CsvWriter",
    "JsonWriter",
    "JsonlWriter",
    "ReasonsWriter",
    "ReportWriter",
    "TableWriter",
    "from_dict",
    "to_dict",
    "to_row",
]
