"""One engine a process, for those who are called and have no place of their own to keep one."""

from __future__ import annotations

import atexit
import os
import threading

from qinsight_plugin.pipeline import DEFAULT_SCORER
from qinsight_plugin.serving.engine import Engine

_engines: dict[tuple[int, str], Engine] = {}
_lock = threading.Lock()


def shared_engine(scorer: str = DEFAULT_SCORER) -> Engine:
    """The engine of this process with that scorer; made when first asked for, ended at exit.

    A process that was forked off gets its own: threads and pipes do not survive a fork.

    Raises:
        QInsightError: the scorer cannot be loaded, or cannot be gated by.
    """
    key = (os.getpid(), scorer)
    with _lock:
        if key not in _engines:
            engine = Engine(scorer)
            atexit.register(engine.close)
            _engines[key] = engine
        return _engines[key]
