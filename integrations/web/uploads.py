"""A request's body -> pictures, in memory, within limits. Nothing is written to a disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from qinsight_plugin.errors import BusyError, FetchError
from qinsight_plugin.serving import Picture

from .fetching import Fetcher
from .problems import Problem, too_large
from .settings import Settings

IMAGE, REFERENCE, A, B = "image", "reference", "a", "b"
_LONGEST_NAME = 100
_LONGEST_TEXT = 64 * 1024


@dataclass
class Bodies:
    """The bytes of all bodies that are held now.

    Attributes:
        limit: most of them.
        held: how many there are.
    """

    limit: int
    held: int = 0

    def add(self, count: int) -> None:
        """
        Raises:
            BusyError: they would be too many.
        """
        if self.held + count > self.limit:
            raise BusyError("too many uploads arrive at once: try again later", 1)
        self.held += count


@dataclass
class Upload:
    """What a request brought: pictures by the name of their field.

    Attributes:
        size: bytes of the body.
    """

    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    size: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.pictures.values()))

    def add(self, name: str, picture: Picture) -> None:
        self.pictures.setdefault(name, []).append(picture)

    def many(self, name: str) -> list[Picture]:
        """
        Raises:
            Problem: there is none.
        """
        if not self.pictures.get(name):
            raise Problem(400, f"the request holds no {name!r}: send one or more")
        return self.pictures[name]

    def one(self, name: str) -> Picture:
        """
        Raises:
            Problem: there is none, or more than one.
        """
        picture = self.maybe(name)
        if picture is None:
            raise Problem(400, f"the request holds no {name!r}: send one")
        return picture

    def maybe(self, name: str) -> Picture | None:
        """
        Raises:
            Problem: there is more than one.
        """
        found = self.pictures.get(name, [])
        if len(found) > 1:
            raise Problem(400, f"the request holds {len(found)} of {name!r}: send one")
        return found[0] if found else None


@asynccontextmanager
async def received(
    request: Request,
    fields: tuple[str, ...],
    bodies: Bodies,
    settings: Settings,
    fetcher: Fetcher | None,
) -> AsyncIterator[Upload]:
    """The pictures of a request; what they take of `bodies` is given back at the end.

    Args:
        fields: the names that they may have. A raw body is one `image`.

    Raises:
        Problem: the body is too large, too slow, or not what was asked for.
        BusyError: too much is being received already.
        FetchError: an address cannot be fetched.
    """
    upload = Upload()
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > settings.max_request:
        raise too_large(settings.max_request)
    try:
        chunks = _chunks(request, upload, bodies, settings.max_request)
        try:
            await asyncio.wait_for(
                _read(request, chunks, upload, fields, settings), settings.body_seconds
            )
        except asyncio.TimeoutError:
            raise Problem(
                408,
                f"the body did not arrive within {settings.body_seconds:g} s",
                {"Connection": "close"},
            ) from None
        try:
            await asyncio.wait_for(
                _fetch(upload, bodies, settings, fetcher), settings.fetch_seconds
            )
        except asyncio.TimeoutError as error:
            raise FetchError(f"fetching took longer than {settings.fetch_seconds:g} s") from error
        yield upload
    finally:
        bodies.held -= upload.size


async def _chunks(
    request: Request, upload: Upload, bodies: Bodies, limit: int
) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        if upload.size + len(chunk) > limit:
            raise too_large(limit)
        bodies.add(len(chunk))
        upload.size += len(chunk)
        yield chunk


async def _read(
    request: Request,
    chunks: AsyncGenerator[bytes, None],
    upload: Upload,
    fields: tuple[str, ...],
    settings: Settings,
) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        await _read_multipart(request, chunks, upload, fields, settings.most_pictures)
    elif kind == "application/json":
        _read_addresses(b"".join([c async for c in chunks]), upload, fields, settings)
    elif IMAGE not in fields:
        raise Problem(
            415, f"send multipart/form-data with the files {', '.join(map(repr, fields))}"
        )
    elif kind in ("", "application/octet-stream") or kind.startswith("image/"):
        data = b"".join([c async for c in chunks])
        if not data:
            raise Problem(400, "the request has no body: send a picture")
        upload.add(IMAGE, Picture(data, IMAGE))
    else:
        raise Problem(
            415,
            "send a picture as the body (image/* or application/octet-stream), or "
            "multipart/form-data",
        )


class _InMemoryParser(MultiPartParser):
    spool_max_size = 2**62  # the size of a request is limited; no disk can be full


async def _read_multipart(
    request: Request,
    chunks: AsyncGenerator[bytes, None],
    upload: Upload,
    fields: tuple[str, ...],
    most: int,
) -> None:
    # One part more than is allowed may come, so that it is this module that objects to it.
    parser = _InMemoryParser(
        request.headers,
        chunks,
        max_files=most + 1,
        max_fields=len(fields),
        max_part_size=_LONGEST_TEXT,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"the multipart body cannot be read: {_line(error.message)}") from error
    for name, part in form.multi_items():
        if name not in fields:
            expected = ", ".join(map(repr, fields))
            raise Problem(400, f"there is no field {_line(name)!r}; there are {expected}")
        if not isinstance(part, UploadFile):
            raise Problem(400, f"{name!r} must be a file: give it a file name")
        upload.add(name, Picture(part.file.read(), _name(part.filename, name)))
        part.file.close()
    if upload.count > most:
        raise Problem(400, f"the request holds more than {most} pictures: send fewer")


@dataclass(frozen=True)
class _Address:
    """Stands for a picture until that is fetched."""

    url: str


def _read_addresses(
    body: bytes, upload: Upload, fields: tuple[str, ...], settings: Settings
) -> None:
    if not settings.fetch_from:
        raise Problem(403, "this server fetches nothing: send the picture itself")
    try:
        asked = json.loads(body)
        if not isinstance(asked, dict):
            raise ValueError("an object is wanted")
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON that names addresses: {_line(error)}") from error
    for name, value in asked.items():
        urls = value if isinstance(value, list) else [value]
        if name not in fields or not all(isinstance(url, str) for url in urls):
            raise Problem(
                400, f"give addresses as text, under the names {', '.join(map(repr, fields))}"
            )
        for url in urls:
            upload.add(name, _Address(url))  # type: ignore[arg-type]
    if upload.count > settings.most_pictures:
        raise Problem(400, f"more than {settings.most_pictures} addresses: send fewer")


async def _fetch(
    upload: Upload, bodies: Bodies, settings: Settings, fetcher: Fetcher | None
) -> None:
    """Put pictures in the places of addresses; all together they are limited as a body is."""
    for found in upload.pictures.values():
        for position, address in enumerate(found):
            if isinstance(address, _Address):
                assert fetcher is not None
                data = await fetcher.fetch(address.url, settings.max_request - upload.size)
                bodies.add(len(data))
                upload.size += len(data)
                found[position] = Picture(data, _name(address.url.partition("?")[0], IMAGE))


def _name(name: str | None, otherwise: str) -> str:
    """The last part of a file's name, fit for a message."""
    last = (name or "").replace("\\", "/").rstrip("/").rpartition("/")[2]
    plain = "".join(c if c.isprintable() else "?" for c in last)
    return plain[-_LONGEST_NAME:] or otherwise


def _line(text: Any) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in str(text))
    return plain[:_LONGEST_NAME]
