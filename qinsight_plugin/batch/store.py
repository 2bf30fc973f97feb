"""The folder of a run, here or behind a URL: files that appear whole or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO

from qinsight_plugin.batch.remote import filesystem, is_url, reaching
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.sorting import copy_into, publish, write_into


class Store(ABC):
    """Attributes: location: its path or URL."""

    location: str

    @abstractmethod
    def names(self) -> set[str]:
        """Of the files in it; empty where it does not exist."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """A file to read from; seekable."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all, over what bears that name.

        Raises:
            ConfigError: it cannot be written; a full disk, for one.
        """

    @abstractmethod
    def put(self, file: Path, name: str) -> None:
        """`write`, for what is too large to be held in memory."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


def open_store(location: str) -> Store:
    """Raises:
    ConfigError: the location is a file, or cannot be reached.
    """
    return Bucket(location) if is_url(location) else Folder(location)


class Folder(Store):
    def __init__(self, location: str) -> None:
        self.location = location
        self._path = Path(location)
        if self._path.exists() and not self._path.is_dir():
            raise ConfigError(f"{location} is a file; the output becomes a folder: name another")

    def names(self) -> set[str]:
        try:
            return {path.name for path in self._path.iterdir()}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise ConfigError(f"cannot list {self.location}: {error.strerror}") from error

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._path / name).open("rb")
        except OSError as error:
            raise ConfigError(f"cannot read {self._path / name}: {error.strerror}") from error

    def write(self, name: str, data: bytes) -> None:
        write_into(data, self._path / name, overwrite=True)

    def put(self, file: Path, name: str) -> None:
        copied = copy_into(file, self._path)
        publish(copied, self._path / name, overwrite=True)

    def remove(self, name: str) -> None:
        try:
            (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot remove {self._path / name}: {error.strerror}") from error


class Bucket(Store):
    """Behind a URL. Object stores show an object when all of it is there, as S3 promises; what is
    only a folder elsewhere, as behind SFTP, may show half a file after a crash."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._system, self._top = filesystem(self.location)

    def _at(self, name: str) -> str:
        return f"{self._top}/{name}"

    def names(self) -> set[str]:
        with reaching("list", self.location):
            self._system.invalidate_cache()
            if not self._system.exists(self._top):
                return set()
            return {name.rpartition("/")[2] for name in self._system.ls(self._top, detail=False)}

    def open(self, name: str) -> IO[bytes]:
        with reaching("read", f"{self.location}/{name}"):
            file: IO[bytes] = self._system.open(self._at(name), "rb")
            return file

    def write(self, name: str, data: bytes) -> None:
        with reaching("write", f"{self.location}/{name}"):
            self._system.makedirs(self._top, exist_ok=True)
            self._system.pipe_file(self._at(name), data)

    def put(self, file: Path, name: str) -> None:
        with reaching("write", f"{self.location}/{name}"):
            self._system.makedirs(self._top, exist_ok=True)
            self._system.put_file(str(file), self._at(name))

    def remove(self, name: str) -> None:
        with reaching("remove", f"{self.location}/{name}"):
            if self._system.exists(self._at(name)):
                self._system.rm_file(self._at(name))
