"""Moving and copying judged pictures into folders: nothing is lost and nothing overwritten.

A final name only appears by a step that fails if the name is taken, and that makes the whole file
appear. So a crash leaves the source, the complete destination, or both, and at most a stray
`.qinsight-*.part`. Where the file system has no hard links (FAT, some network mounts) the name is
reserved by an empty file, which the complete one replaces at once; only there a crash between the
two steps leaves an empty file under a final name, and the source with it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from qinsight_plugin.errors import (
    ConfigError,
    ImageNotFoundError,
    ImageUnreadableError,
    QInsightError,
)

AnyPath: TypeAlias = "str | os.PathLike[str]"

_CHUNK_BYTES = 1 << 20


def move_into(path: AnyPath, directory: AnyPath, root: AnyPath | None = None) -> Path:
    """Move a picture into a directory, which is made if need be.

    A name that is taken gets a number: `name-1.ext`, `name-2.ext`, ... A picture that is in its
    place already stays. A symbolic link is moved as a link, made absolute so that it still leads
    to its picture, which stays where it is: other links may lead there too.

    Args:
        path: the file.
        directory: where to put it.
        root: a directory above `path`; the folders between the two are kept under `directory`.

    Returns:
        The file's new path.

    Raises:
        ConfigError: `path` is not under `root`, or the directory cannot be made or written to.
        ImageNotFoundError: there is no such file.
        ImageUnreadableError: it is not a file, cannot be read or removed, or was changed meanwhile.
    """
    source = Path(path)
    is_link = stat.S_ISLNK(_file_status(source, follow_links=False).st_mode)
    folder = _folder_for(source, directory, root)
    if _is_in(source, folder):
        return source
    target = _place_link(source, folder) if is_link else _place_file(source, folder)
    _remove_moved(source, target)
    return target


def copy_into(path: AnyPath, directory: AnyPath, root: AnyPath | None = None) -> Path:
    """Copy a picture into a directory, which is made if need be, with its times and permissions.

    Names, `root`, and a picture that is in its place already: as for `move_into`. Of a symbolic
    link the picture that it leads to is copied, under the link's name.

    Returns:
        The copy's path.

    Raises:
        ConfigError, ImageNotFoundError, ImageUnreadableError: as for `move_into`.
    """
    source = Path(path)
    _file_status(source)
    folder = _folder_for(source, directory, root)
    return source if _is_in(source, folder) else _place_copy(source, folder)


def write_into(data: bytes, path: AnyPath, *, overwrite: bool = False) -> None:
    """Write a file, whole or not at all; the folders to it are made if need be.

    Args:
        data: what it holds.
        path: its name.
        overwrite: replace what bears that name.

    Raises:
        FileExistsError: the name is taken, and `overwrite` is not set.
        ConfigError: it cannot be written; a full disk, for one.
    """
    target = Path(path)
    _make(target.parent)
    with _writing(target.parent):
        descriptor, name = tempfile.mkstemp(prefix=".qinsight-", suffix=".part", dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            publish(temporary, target, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, target: Path, *, overwrite: bool = False) -> None:
    """Give a finished file in the same folder its name.

    Raises:
        FileExistsError: the name is taken, and `overwrite` is not set.
        ConfigError: it cannot be done; or what bears the name is no file, as /dev/null is none,
            which root could replace.
    """
    if overwrite and target.exists() and not target.is_file():
        raise ConfigError(f"{str(target)!r} is not a file: name another")
    with _writing(target.parent):
        temporary.chmod(0o666 & ~_umask())
        if overwrite:
            temporary.replace(target)
        else:
            _publish(temporary, target)
            temporary.unlink(missing_ok=True)
        _sync(target.parent)


def _umask() -> int:
    """The process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _file_status(source: Path, *, follow_links: bool = True) -> os.stat_result:
    with _reading(source):
        status = source.stat(follow_symlinks=follow_links)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise ImageUnreadableError(f"{str(source)!r} is not a file; only files can be sorted")
    return status


def _folder_for(source: Path, directory: AnyPath, root: AnyPath | None) -> Path:
    folder = Path(directory)
    if root is not None:
        folder /= _folders_between(root, source)
    _make(folder)
    return folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot make the folder {str(folder)!r}: {_reason(error)}") from error


def _folders_between(root: AnyPath, source: Path) -> Path:
    # Path.resolve would follow links: one that leads out of the root still has its place under it.
    top, parent = os.path.abspath(root), os.path.abspath(source.parent)  # noqa: PTH100
    try:
        return Path(parent).relative_to(top)
    except ValueError as error:
        raise ConfigError(
            f"{str(source)!r} is not under the root {os.fspath(root)!r}; pass a folder above it"
        ) from error


def _is_in(source: Path, folder: Path) -> bool:
    with _reading(source):
        return source.parent.samefile(folder)


def _place_link(source: Path, folder: Path) -> Path:
    with _reading(source):
        leads_to = source.parent.resolve() / source.readlink()
    with _writing(folder):
        return _first_free(folder, source.name, lambda target: target.symlink_to(leads_to))


def _place_file(source: Path, folder: Path) -> Path:
    try:
        return _first_free(folder, source.name, lambda target: os.link(source, target))
    except OSError:
        # Another file system, or one without links. Any other cause stops the copy as well.
        return _place_copy(source, folder)


def _place_copy(source: Path, folder: Path) -> Path:
    with _writing(folder):
        descriptor, name = tempfile.mkstemp(prefix=".qinsight-", suffix=".part", dir=folder)
        temporary = Path(name)
        try:
            _copy(source, temporary, descriptor)
            target = _first_free(folder, source.name, lambda target: _publish(temporary, target))
        finally:
            temporary.unlink(missing_ok=True)
        _sync(folder)
    return target


def _copy(source: Path, temporary: Path, descriptor: int) -> None:
    with os.fdopen(descriptor, "wb") as file:
        before = _file_status(source)
        for chunk in _chunks(source):
            file.write(chunk)
        file.flush()
        os.fsync(descriptor)
    with suppress(OSError):  # the folder's file system may have no permissions or times
        shutil.copystat(source, temporary)
    if _version(_file_status(source)) != _version(before):
        raise ImageUnreadableError(f"{str(source)!r} was changed while it was copied; try again")


def _chunks(source: Path) -> Iterator[bytes]:
    with _reading(source), source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _first_free(folder: Path, name: str, claim: Callable[[Path], None]) -> Path:
    """The first of `name`, `name-1`, ... that `claim` takes without a FileExistsError."""
    target, number = folder / name, 0
    while True:
        try:
            claim(target)
        except FileExistsError:
            number += 1
            target = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
        else:
            return target


def _publish(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        _publish_without_links(temporary, target)


def _publish_without_links(temporary: Path, target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink()
        raise


def _sync(folder: Path) -> None:
    """Put the folder's new name on the disk, lest a power cut spare only the source's removal."""
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # how a file system says it never does
            raise
    finally:
        os.close(descriptor)


def _remove_moved(source: Path, target: Path) -> None:
    try:
        source.unlink(missing_ok=True)
    except OSError as error:
        if os.path.lexists(source):
            with suppress(OSError):
                target.unlink()
        raise ImageUnreadableError(
            f"cannot move {str(source)!r} out of its folder, so it stays there: {_reason(error)}"
        ) from error


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"there is no file {str(source)!r}") from error
    except (OSError, ValueError) as error:
        raise ImageUnreadableError(f"cannot read {str(source)!r}: {_reason(error)}") from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (QInsightError, FileExistsError):
        raise
    except OSError as error:
        raise ConfigError(
            f"cannot write to the folder {str(folder)!r}: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
