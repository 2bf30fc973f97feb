"""Calling a pipeline that may raise, return rubbish, hang or crash.

It runs in a process of its own, which is ended when a picture takes too long, with all that it
started, and then started anew. What goes wrong is a `RenderError`: the trial fails, not the study.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from qinsight_plugin.errors import ConfigError, ImageError, RenderError, described
from qinsight_plugin.records import Image

Render: TypeAlias = Callable[[Mapping[str, Any], Any], Any]
"""Parameters and a scene -> a picture: a path, bytes, an RGB array, a PIL image."""

START_SECONDS = 120.0
"""What the process may take to import the pipeline."""


class Renderer(Protocol):
    def render(self, params: Mapping[str, Any], scene: int) -> tuple[Image, float]:
        """The picture of the scene with that index, and the seconds that it took.

        Raises:
            RenderError: there is none.
        """
        ...

    def close(self) -> None: ...


class Here:
    """Renders in this process: nothing guards against a hang or a crash."""

    def __init__(self, render: Render, scenes: Sequence[Any]) -> None:
        self._render, self._scenes = render, scenes

    def render(self, params: Mapping[str, Any], scene: int) -> tuple[Image, float]:
        started = time.perf_counter()
        try:
            answer = self._render(dict(params), self._scenes[scene])
        except Exception as error:
            raise RenderError(f"rendering scene {scene + 1} raised {described(error)}") from error
        seconds = time.perf_counter() - started
        return picture(answer, scene), seconds

    def close(self) -> None:
        pass


class Guarded:
    """Renders in a process of its own.

    Args:
        render, scenes: must be picklable; sent once to each process.
        time_limit: seconds for one picture.
    """

    def __init__(self, render: Render, scenes: Sequence[Any], time_limit: float) -> None:
        try:
            pickle.dumps((render, scenes))
        except Exception as error:
            raise ConfigError(
                f"the pipeline or a scene cannot be sent to another process ({described(error)}): "
                "define it at the top of a module, or do without a time limit"
            ) from error
        self._work = (render, scenes)
        self._limit = time_limit
        self._process: Any = None
        self._pipe: Any = None

    def render(self, params: Mapping[str, Any], scene: int) -> tuple[Image, float]:
        try:
            if self._process is None:
                self._start()
            self._pipe.send((dict(params), scene))
            answer, seconds, problem = self._receive(self._limit)
        except (EOFError, OSError) as error:
            code = self._end()
            raise RenderError(
                f"rendering scene {scene + 1} ended its process (exit code {code})"
            ) from error
        if problem:
            raise RenderError(f"rendering scene {scene + 1} raised {problem}")
        return picture(answer, scene), seconds

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.send(self._work)
        _, _, problem = self._receive(START_SECONDS)
        if problem:
            self._end()
            raise ConfigError(f"the pipeline cannot be loaded: {problem}")

    def _receive(self, limit: float) -> tuple[Any, float, str]:
        if not self._pipe.poll(limit):
            self._end()
            raise RenderError(f"rendering took longer than {limit:g} s and was ended")
        answer: tuple[Any, float, str] = self._pipe.recv()
        return answer

    def _end(self) -> int | None:
        """End the process and what it started; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.join(0.5)
        code: int | None = process.exitcode
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        process.close()
        self._pipe.close()
        return code

    def close(self) -> None:
        self._end()


def serve(pipe: Any) -> None:
    """The other process: renders what it is asked for, until the pipe closes."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # so that what the pipeline starts is ended with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the study's to handle
    threading.Thread(target=end_with_the_study, daemon=True).start()
    try:
        render, scenes = pipe.recv()
    except Exception as error:
        pipe.send((None, 0.0, described(error)))
        return
    pipe.send((None, 0.0, ""))
    while True:
        try:
            params, scene = pipe.recv()
        except EOFError:
            return
        started = time.perf_counter()
        try:
            answer, problem = render(params, scenes[scene]), ""
        except Exception as error:
            answer, problem = None, described(error)
        seconds = time.perf_counter() - started
        try:
            pipe.send((answer, seconds, problem))
        except Exception as error:  # what cannot be pickled
            pipe.send((None, seconds, described(error)))


def end_with_the_study() -> None:
    """End this process, and what it started, once the study's is no more: it may have been killed
    while the pipeline hangs."""
    study = multiprocessing.parent_process()
    if study is None:
        return
    multiprocessing.connection.wait([study.sentinel])
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def picture(answer: Any, scene: int) -> Image:
    """What a pipeline returned, decoded at full size."""
    from qinsight_plugin.decode import decode

    if answer is None:
        raise RenderError(f"rendering scene {scene + 1} returned nothing: return a picture")
    try:
        return decode(answer)
    except ImageError as error:
        raise RenderError(f"rendering scene {scene + 1} returned no picture: {error}") from error
