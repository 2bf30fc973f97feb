"""Decoding in processes that can be killed: by a clock here, by the kernel, by anyone."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from qinsight_plugin import errors
from qinsight_plugin.errors import (
    ImageError,
    ImageTooCostlyError,
    PluginError,
    QInsightError,
    ServingError,
)
from qinsight_plugin.records import Image, ScorerSpec
from qinsight_plugin.serving.events import Events
from qinsight_plugin.serving.frames import receive, send
from qinsight_plugin.serving.limits import Limits

_MODULE = "qinsight_plugin.serving.decoding_process"
_START_SECONDS = 60.0
_STARTS = 5  # that are tried in a row
_PIPE = 1 << 20

# A pool of threads in each process would only take memory.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class DecoderPool:
    """So many decoding processes, each replaced when it ends. Thread-safe.

    Args:
        processes: how many.
        limits: what a picture may cost.
        events: is told of each picture's time, and of each process that ended.
    """

    def __init__(self, processes: int, limits: Limits, events: Events) -> None:
        self._limits = limits
        self._events = events
        self._idle: queue.LifoQueue[_Decoder] = queue.LifoQueue()
        self._count = processes
        for _ in range(processes):
            self._idle.put(_Decoder(limits))

    def decode(self, data: bytes, name: str, spec: ScorerSpec) -> Image:
        """The picture, no larger than a scorer of that spec looks at.

        A process that ends while it decodes is replaced, and the picture given to another one: it
        may not have been to blame. If that ends, too, it was.

        Raises:
            ImageError: see `qinsight_plugin.errors`; `ImageTooCostlyError` over the limits.
            PluginError: a decoding plugin failed.
            ServingError: no process starts.
        """
        request = {
            "max_pixels": spec.max_pixels,
            "min_side": spec.min_side,
            "limit": self._limits.pixels,
        }
        for _ in range(2):
            with suppress(_Ended):
                return self._ask(request, data, name)
        raise ImageTooCostlyError(
            f"{name} ended the decoder twice: it is broken in a way that decoders do not survive"
        )

    def _ask(self, request: dict[str, Any], data: bytes, name: str) -> Image:
        decoder = self._idle.get()
        try:
            self._await_start(decoder)
            answer, pixels = decoder.ask(request, data)
        except _TookTooLong as error:
            self._events.decoder_ended("time")
            raise ImageTooCostlyError(
                f"{name} was not decoded within {self._limits.seconds:g} s: send a smaller one"
            ) from error
        except _Ended:
            self._events.decoder_ended("died")
            raise
        finally:
            if not decoder.alive:
                decoder.restart()
            self._idle.put(decoder)
        if answer.get("spent"):
            self._events.decoder_ended("memory")
        if "error" in answer:
            raise _error_of(answer, name)
        return _image_of(answer, pixels, name)

    def _await_start(self, decoder: _Decoder) -> None:
        """That it has ended since its last picture is not to be blamed on the next one."""
        for _ in range(_STARTS):
            if decoder.start():
                return
            self._events.decoder_ended("died")
            decoder.restart()
        raise ServingError(
            f"decoding processes do not start; `{sys.executable} -m {_MODULE} 1024 10` tells why"
        )

    def close(self) -> None:
        """End the processes, each as soon as it is idle."""
        for _ in range(self._count):
            self._idle.get().close()


class _Ended(Exception):
    """The process ended while it was asked."""


class _TookTooLong(Exception):
    """It was killed for its slowness."""


class _Decoder:
    """One process at a time, and in it one picture at a time.

    Attributes:
        alive: False once the process has ended or is about to.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self.restart()

    def restart(self) -> None:
        """End the process, if there is one, and begin to start another."""
        self.close()
        self._process, self._ready, self.alive = None, False, True
        with suppress(OSError):  # no memory, no process to be had: it is tried again when needed
            self._launch()

    def _launch(self) -> None:
        limits = self._limits
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(limits.memory), str(limits.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a library's chatter about strangers' pictures
            bufsize=0,
            env={**os.environ, **_ONE_THREAD},
        )
        widen(self._process.stdin)
        widen(self._process.stdout)

    def start(self) -> bool:
        """Wait until the process is ready; whether it is."""
        try:
            if self._process is None:
                self._launch()
            if self._process is None or self._process.poll() is not None:
                raise EOFError
            if not self._ready:
                self._within(_START_SECONDS)
                self._ready = True
        except (OSError, EOFError, ValueError, _TookTooLong):
            self.alive = False
        return self.alive

    def ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
        """
        Raises:
            _TookTooLong, _Ended: it is dead now.
        """
        try:
            answer, pixels = self._within(self._limits.seconds, request, data)
        except (OSError, EOFError, ValueError) as error:
            self.alive = False
            raise _Ended from error
        self.alive = not answer.get("spent", False)
        return answer, pixels

    def _within(
        self, seconds: float, request: dict[str, Any] | None = None, data: bytes = b""
    ) -> tuple[dict[str, Any], bytearray]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(seconds, end)
        clock.daemon = True
        clock.start()
        try:
            if request is not None:
                send(process.stdin, request, data)  # type: ignore[arg-type]
            return receive(process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError) as error:
            if late.is_set():
                self.alive = False
                raise _TookTooLong from error
            raise
        finally:
            clock.cancel()

    def close(self) -> None:
        self.alive = False
        if self._process is not None:
            with self._process:  # closes the pipes and waits
                self._process.kill()


def widen(pipe: Any) -> None:
    """Let a pipe hold more, where that can be had. Linux grants a user who is not root 64 MiB of it
    in all, which 32 decoders take; and `Popen(pipesize=)` would fail beyond."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _error_of(answer: dict[str, Any], name: str) -> QInsightError:
    message = str(answer["error"]).replace("<bytes>", name)
    if answer.get("plugin"):
        plugin = str(answer["plugin"])
        return PluginError(plugin, message.removeprefix(f"plugin {plugin}: "))
    kind = getattr(errors, str(answer["error_type"]), None)
    if isinstance(kind, type) and issubclass(kind, ImageError):
        return kind(message)
    return ServingError(message)


def _image_of(answer: dict[str, Any], pixels: bytearray, name: str) -> Image:
    import numpy as np

    return Image(
        np.frombuffer(pixels, np.uint8).reshape(answer["shape"]),
        name,
        answer["width"],
        answer["height"],
        answer["reduction"],
        answer["format"],
        tuple(answer["notes"]),
    )
