"""Pictures from addresses: named hosts only, nothing private, whatever names and redirects say."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from qinsight_plugin.integrations.web.fetching import Fetcher, is_private

from qinsight_plugin.errors import FetchError

LIMIT = 100_000


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1"),
        *("2001:db8::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "::ffff:169.254.169.254"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert is_private(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert not is_private(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://good.example/a", "gopher://good.example/", "data:,a"),
        *("good.example/a", "//good.example/a", "http:///a", "http://", "", "http://[::1"),
        *("http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://[::1]/"),
        *("http://localhost/", "http://169.254.169.254/latest/meta-data/", "http://bad.example/"),
        *("http://good.example.bad.example/", "http://bad.example/good.example"),
        *("http://good.example@127.0.0.1/", "http://127.0.0.1#@good.example/"),
        *("http://good.example:pass@127.0.0.1/", "http://good.example\\@127.0.0.1/"),
        *("http://good.example:22/", "https://good.example:80/", "http://good.example:99999/"),
        *("http://good.example./", "http://g\u043e\u043ed.example/", "http://good.example%00/"),
        *("http://good.example /a", "http://good.example/a\r\nHost: b", "http://x:80/"),
    ],
)
def test_addresses_that_are_refused_before_anything_is_asked(url: str) -> None:
    fetcher = Fetcher(["good.example", "x:81"], 5)
    with pytest.raises(FetchError):
        asyncio.run(fetcher.fetch(url, LIMIT))


def test_what_named_hosts_may_be_called() -> None:
    fetcher = Fetcher(["Good.example", "x:81"], 5)
    for url in ("http://good.example/a", "https://GOOD.example:443/a?b#c", "http://x:81/"):
        fetcher.require_allowed(url)


class Host(BaseHTTPRequestHandler):
    """Answers as the path says."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
            return
        if kind == "slow":
            time.sleep(1)
        body = b"x" * int(rest or 0)
        self.send_response(404 if kind == "missing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that leave
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(host: str, path: str, **settings: Any) -> bytes:
    """Fetch from a host of this machine, which must be allowed on purpose."""
    fetcher = Fetcher([host, "localhost:1"], settings.pop("seconds", 10), **settings)
    fetched: bytes = asyncio.run(fetcher.fetch(f"http://{host}/{path}", LIMIT))
    return fetched


def nothing_refused(address: Any) -> bool:
    return False


def test_a_named_host_is_fetched_from_and_redirects_are_followed(host: str) -> None:
    assert get(host, "ok/5", refuse=nothing_refused) == b"xxxxx"
    assert get(host, "to//ok/7", refuse=nothing_refused) == b"x" * 7
    assert get(host, f"to/http://{host}/ok/1", refuse=nothing_refused) == b"x"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("to/http://127.0.0.1/", "does not fetch from 127"),
        ("to/file:///etc/passwd", "only plain http"),
        ("to/http://localhost:1/", "did not answer"),
        ("to//to//to//to//ok/1", "more than 3 redirects"),
        (f"ok/{LIMIT + 1}", "more than 100000 bytes"),
        ("missing/5", "answered 404"),
    ],
)
def test_what_is_not_fetched(host: str, path: str, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        get(host, path, refuse=nothing_refused)


def test_a_slow_host_is_not_waited_for(host: str) -> None:
    with pytest.raises(FetchError, match="longer than"):
        get(host, "slow/1", seconds=0.2, refuse=nothing_refused)


def test_a_private_address_is_refused_though_its_host_is_named(host: str) -> None:
    Host.asked.clear()
    with pytest.raises(FetchError, match="not a public host"):
        get(host, "ok/5")
    assert Host.asked == []


@pytest.mark.parametrize(
    "resolved", [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["fe80::1%eth0"], ["::ffff:10.0.0.1"]]
)
def test_a_name_that_leads_inside_is_refused(
    monkeypatch: pytest.MonkeyPatch, resolved: list[str]
) -> None:
    def resolve(*arguments: Any, **more: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in resolved]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(FetchError, match=r"good\.example is not a public host"):
        asyncio.run(Fetcher(["good.example"], 5).fetch("http://good.example/", LIMIT))


def test_what_is_connected_to_is_what_was_checked(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to another address the second time is resolved once only."""
    answers = iter(["127.0.0.1", "10.0.0.1"])
    original, port = socket.getaddrinfo, int(host.rpartition(":")[2])

    def resolve(name: Any, *arguments: Any, **more: Any) -> Any:
        if name == "moving.example":
            address = (next(answers), port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]
        return original(name, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    fetcher = Fetcher([f"moving.example:{port}"], 5, refuse=nothing_refused)
    assert asyncio.run(fetcher.fetch(f"http://moving.example:{port}/ok/3", LIMIT)) == b"xxx"
    assert next(answers) == "10.0.0.1"
