"""Messages between a server and its decoding processes: JSON and bytes, over unbuffered pipes.

Never pickles: a decoder looks at what strangers sent, and its answers are not trusted to be more
than numbers and text.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Protocol

_LENGTHS = struct.Struct(">IQ")  # of the JSON, of the bytes


class Raw(Protocol):
    """An unbuffered binary file."""

    def write(self, data: Any, /) -> int | None: ...

    def readinto(self, buffer: Any, /) -> int | None: ...


def send(pipe: Raw, message: dict[str, Any], payload: Any = b"") -> None:
    """
    Raises:
        OSError: the other end is gone.
    """
    text = json.dumps(message).encode()
    body = memoryview(payload).cast("B")
    _write(pipe, memoryview(_LENGTHS.pack(len(text), len(body)) + text))
    _write(pipe, body)


def receive(pipe: Raw) -> tuple[dict[str, Any], bytearray]:
    """
    Raises:
        EOFError: the other end is gone.
    """
    text_length, body_length = _LENGTHS.unpack(_read(pipe, _LENGTHS.size))
    message: dict[str, Any] = json.loads(_read(pipe, text_length))
    return message, _read(pipe, body_length)


def _write(pipe: Raw, data: memoryview) -> None:
    while data:
        data = data[pipe.write(data) :]


def _read(pipe: Raw, size: int) -> bytearray:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        count = pipe.readinto(left)
        if not count:
            raise EOFError("the other end of the pipe is gone")
        left = left[count:]
    return data
