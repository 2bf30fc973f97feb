"""The process in which strangers' pictures are decoded: `python -m` this, over standard input.

It may not write files, and the kernel limits what it may take. Its parent kills it when it takes
too long.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ImageTooCostlyError, PluginError, QInsightError
from qinsight_plugin.serving.frames import receive, send

GRACE = 5
"""Seconds after which a process ends itself that its parent, being dead, did not kill in time."""


def main() -> None:
    memory, seconds = int(sys.argv[1]), float(sys.argv[2])
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)  # what a library prints is not an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the parent who decides
    host = load_everything()
    confine(memory)
    send(answers, {"ready": os.getpid()})
    with suppress(EOFError, BrokenPipeError):
        while True:
            request, data = receive(requests)
            alarm(seconds + GRACE)
            answer, pixels = decoded(host, bytes(data), request)
            del data
            send(answers, answer, pixels)
            alarm(0)
            if answer.get("spent"):
                return  # memory that was short once may be in pieces


def load_everything() -> Any:
    """The plugins, and what decoding would else import at the first picture."""
    from qinsight_plugin.containers import quiet_pillow
    from qinsight_plugin.plugins import default_host

    for module in ("numpy", "PIL.ImageCms", "qinsight_plugin.pixels", "qinsight_plugin.decode"):
        import_module(module)
    with quiet_pillow():
        return default_host()


def confine(memory: int) -> None:
    """Limit this process to `memory` MiB beyond what it has, and to no files."""
    if sys.platform == "win32":
        return
    import resource

    with suppress(OSError, ValueError):  # a lower limit may be set already
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        taken = int(statistics.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        most = taken + memory * 2**20
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


def alarm(seconds: float) -> None:
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)  # whose signal ends a process


def decoded(host: Any, data: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The answer, and the pixels if there are any."""
    from qinsight_plugin.pipeline import decode_within

    try:
        image = decode_within(
            host, data, request["max_pixels"], request["min_side"], request["limit"]
        )
    except QInsightError as error:
        if ran_out_of_memory(error):
            return {**failure(out_of_memory()), "spent": True}, b""
        return failure(error), b""
    except MemoryError:
        return {**failure(out_of_memory()), "spent": True}, b""
    about = {name: getattr(image, name) for name in ("width", "height", "reduction", "format")}
    return {**about, "notes": image.notes, "shape": image.pixels.shape}, image.pixels


def ran_out_of_memory(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def out_of_memory() -> ImageTooCostlyError:
    return ImageTooCostlyError(
        "the picture takes more memory to decode than this server allows: send a smaller one"
    )


def failure(error: QInsightError) -> dict[str, Any]:
    plugin = error.plugin if isinstance(error, PluginError) else None
    return {"error": str(error), "error_type": type(error).__name__, "plugin": plugin}


if __name__ == "__main__":
    main()
