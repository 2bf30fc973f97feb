"""Pictures from addresses: from named hosts only, and never from inside the network.

What decides is the address that is connected to, after names were resolved, and anew at each
redirect: a name that turns to a private address between a check and its use finds none.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from qinsight_plugin.errors import FetchError

IPAddress: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
MOST_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_private(address: IPAddress) -> bool:
    """Whether an address is anything but a public one; what IPv6 merely wraps decides for it."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_private(wrapped)
    return not address.is_global or address.is_multicast or address.is_reserved


class Fetcher:
    """Fetches from named hosts.

    Args:
        hosts: `host`, for the usual ports, or `host:port`.
        seconds: in which a fetch must be done, redirects included.
        refuse: which addresses are not connected to.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        seconds: float,
        refuse: Callable[[IPAddress], bool] = is_private,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._seconds = seconds
        self._backend = _GuardedBackend(refuse)

    async def fetch(self, url: str, limit: int) -> bytes:
        """What is at an address.

        Raises:
            FetchError: the host is not named or not public, it did not answer in time or with a
                file, or that has more than `limit` bytes. Says nothing of what was found inside.
        """
        try:
            return await asyncio.wait_for(self._follow(url, limit), self._seconds)
        except asyncio.TimeoutError as error:
            raise FetchError(f"fetching took longer than {self._seconds:g} s") from error

    async def _follow(self, url: str, limit: int) -> bytes:
        # A pool for each fetch: no connection outlives the check of its address.
        async with httpcore.AsyncConnectionPool(network_backend=self._backend) as pool:
            for _ in range(1 + MOST_REDIRECTS):
                self.require_allowed(url)
                found = await _get(pool, url, limit)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found.location)
        raise FetchError(f"more than {MOST_REDIRECTS} redirects")

    def require_allowed(self, url: str) -> None:
        """
        Raises:
            FetchError: the address is not one of a named host.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError as error:
            raise FetchError("that is not an address") from error
        if parts.scheme not in _PORTS or not parts.hostname or not _is_plain(parts, url):
            raise FetchError("only plain http and https addresses are fetched")
        usual = port == _PORTS[parts.scheme]
        if f"{parts.hostname}:{port}" not in self._hosts and not (
            usual and parts.hostname in self._hosts
        ):
            raise FetchError(
                f"this server does not fetch from {parts.hostname}; it does from "
                + ", ".join(sorted(self._hosts))
            )


def _is_plain(parts: SplitResult, url: str) -> bool:
    """No name and password, and no character that parsers disagree about."""
    printable = url.isascii() and url.isprintable() and not set(url) & set(" \\")
    return printable and "@" not in parts.netloc


class _Elsewhere:
    def __init__(self, location: str) -> None:
        self.location = location


async def _get(pool: httpcore.AsyncConnectionPool, url: str, limit: int) -> bytes | _Elsewhere:
    headers = [("User-Agent", "qinsight"), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
    try:
        async with pool.stream("GET", url, headers=headers) as response:
            if response.status in _REDIRECTS:
                found = {name.lower(): value for name, value in response.headers}
                location = found.get(b"location", b"")
                return _Elsewhere(location.decode("ascii", "replace"))
            if response.status != 200:
                raise FetchError(f"the host answered {response.status}")
            data = bytearray()
            async for chunk in response.aiter_stream():
                data += chunk
                if len(data) > limit:
                    raise FetchError(f"what is there has more than {limit} bytes")
            return bytes(data)
    except FetchError:
        raise
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise FetchError(f"the host did not answer ({type(error).__name__})") from error
    except (OSError, UnicodeError, ValueError) as error:
        raise FetchError("the host cannot be reached") from error


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the very address that it has checked."""

    def __init__(self, refuse: Callable[[IPAddress], bool]) -> None:
        self._refuse = refuse
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as error:
            raise FetchError(f"{host} has no address") from error
        addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
        if not addresses or any(self._refuse(ipaddress.ip_address(a)) for a in addresses):
            raise FetchError(f"{host} is not a public host")
        return await self._inner.connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.AsyncNetworkStream:
        raise FetchError("sockets of this machine are not fetched from")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
