"""`qinsight serve`: the application behind uvicorn."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading

import uvicorn

from qinsight_plugin.errors import ConfigError, ServingError

from .app import create_app
from .logs import say, write_logs
from .protocol import guarded
from .service import Service
from .settings import Settings

CONNECTIONS = 512
"""Most connections at once; above it a client is answered 503."""

KEEP_ALIVE_SECONDS = 15
BACKLOG = 1024


def run(
    settings: Settings, host: str, port: int, drain_seconds: float, *, open_to_all: bool = False
) -> None:
    """Serve until SIGTERM or Ctrl+C, then finish what was accepted, for `drain_seconds` at most.
    On SIGHUP the policy and the scorer are loaded anew.

    Args:
        port: 0 takes a free one; the log tells which.
        open_to_all: take requests from other machines without a key.

    Raises:
        ConfigError: it would be open to other machines and nobody said so.
        ServingError: the address is taken, or not this machine's.
        QInsightError: as `Service`.
    """
    if not (open_to_all or settings.key_file or is_loopback(host)):
        raise ConfigError(
            f"{host} can be reached from other machines: give --key-file FILE, or --no-key if "
            "everyone there may ask"
        )
    listening = listen(host, port)
    service = Service(settings)
    write_logs(service.metrics.lost_lines.inc)
    config = uvicorn.Config(
        create_app(service=service),
        http=guarded(settings.max_request),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(drain_seconds),
    )
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=service.reload).start())
    # uvicorn raises the signal again when all is done, which would end a finished job badly.
    signal.signal(signal.SIGTERM, lambda *_: None)
    address, taken = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    say(
        "listening",
        url=f"http://{shown}:{taken}",
        scorer=settings.scorer,
        scorer_version=service.engine.pipeline.scorer.spec.version,
        key="wanted" if service.keys else "not wanted",
    )
    uvicorn.Server(config).run(sockets=[listening])
    say("ended")


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """
    Raises:
        ServingError: the address is taken, or not this machine's.
    """
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # It listens before the log says so.
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServingError(
            f"cannot listen on {host}:{port}: {reason}; choose another --port or --host"
        ) from error
