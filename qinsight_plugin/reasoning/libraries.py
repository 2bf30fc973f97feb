"""torch, transformers and the packages around them: importing them, silencing them, and reading
their errors."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

from qinsight_plugin._imports import require

_LOUD: Final = ("accelerate", "datasets", "huggingface_hub", "peft", "transformers", "trl")
_quieting = threading.RLock()


def need(module: str, extra: str = "reason") -> ModuleType:
    """Import a package of which the reasoning model cannot do without.

    Raises:
        MissingExtraError, BrokenExtraError: see `require`.
    """
    package = module.partition(".")[0]
    return require(module, package=package, extra=extra, purpose="the reasoning model")


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines and progress bars of the libraries' meanwhile, in any thread. What the
    host had set is put back afterwards; one thread at a time can be inside."""
    hub, bars = need("huggingface_hub.utils"), need("transformers.utils.logging")
    loggers = [logging.getLogger(name) for name in _LOUD]
    with _quieting, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = [logger.level for logger in loggers]
        bars_on, hub_off = bars.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        bars.disable_progress_bar()  # the hub's too
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars_on:
                bars.enable_progress_bar()
            if hub_off:
                hub.disable_progress_bars()
            else:
                hub.enable_progress_bars()


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch says that memory is not enough, on a GPU or on the CPU."""
    if isinstance(error, (need("torch").OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in said or "not enough memory" in said
    )


def reason_of(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
