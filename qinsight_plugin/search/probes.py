"""A memory of probes, on disk if asked: the same bytes give the same value, so why make them twice.

A probe's key says all that its value depends on: the content, the encoder, its version and its
arguments, the setting, and who measured. The value and the size are kept; the bytes are not.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ConfigError


def probe_key(**parts: Any) -> str:
    """A name for all that a value depends on; JSON values, bytes as their hashes."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class ProbeCache:
    """key -> value. Safe for several threads and several processes.

    Args:
        path: an SQLite file, made if need be; None: memory only.

    Raises:
        ConfigError: it cannot be opened, or is something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._path = path
        try:
            self._database = sqlite3.connect(
                ":memory:" if path is None else path, timeout=60, check_same_thread=False
            )
            with self._database:
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS probes (key TEXT PRIMARY KEY, value REAL NOT NULL)"
                )
        except sqlite3.Error as error:
            raise ConfigError(f"cannot use {path} as a cache of probes: {error}") from error

    def get(self, key: str) -> float | None:
        with self._lock:
            row = self._run("SELECT value FROM probes WHERE key = ?", key)
        return None if row is None else float(row[0])

    def put(self, key: str, value: float) -> None:
        with self._lock:
            self._run("INSERT OR REPLACE INTO probes VALUES (?, ?)", key, value)

    def _run(self, statement: str, *arguments: Any) -> Any:
        try:
            with self._database:
                return self._database.execute(statement, arguments).fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"the cache of probes {self._path} failed: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._database.close()
