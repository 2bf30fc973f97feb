"""Files behind URLs, through fsspec; whatever goes wrong there becomes one of our errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import (
    ConfigError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUnreadableError,
    QInsightError,
    one_line,
)

MOST_BYTES = 256 << 20
"""Of a picture file that is fetched."""

_ATTEMPTS = 3


def is_url(name: str) -> bool:
    return "://" in name


def filesystem(url: str) -> tuple[Any, str]:
    """The file system that a URL lies on, and the path there.

    Keys, endpoints and the like come from the environment, as each file system documents.

    Raises:
        ConfigError: the protocol is unknown, or the package that speaks it is missing.
        MissingExtraError: fsspec is not installed.
    """
    fsspec = require("fsspec", package="fsspec", extra="batch", purpose=f"reading {url}")
    with reaching("open", url):
        system, path = fsspec.core.url_to_fs(url)
    return system, path


@contextmanager
def reaching(what: str, url: str) -> Iterator[None]:
    """Turn whatever a file system raises into a ConfigError of one line."""
    try:
        yield
    except QInsightError:
        raise
    except Exception as error:  # botocore, aiohttp and others have no common base
        raise ConfigError(f"cannot {what} {url}: {reason(error)}") from error


def fetch(url: str) -> bytes | ImageError:
    """A picture's file, or why it cannot be had; what may pass is tried again."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            system, path = filesystem(url)
            data: bytes = system.cat_file(path, start=0, end=MOST_BYTES + 1)
        except FileNotFoundError:
            return ImageNotFoundError(f"{url} does not exist: check the address")
        except Exception as error:
            if attempt == _ATTEMPTS or isinstance(error, PermissionError | ConfigError):
                return ImageUnreadableError(f"cannot read {url}: {reason(error)}")
            time.sleep(0.25 * 4**attempt)
        else:
            if len(data) > MOST_BYTES:
                return ImageTooLargeError(f"{url} is larger than {MOST_BYTES >> 20} MiB")
            return data
    raise AssertionError("unreachable")


def reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__
