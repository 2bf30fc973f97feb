"""The student as a metric of pyiqa: `register()`, then `pyiqa.create_metric("qinsight")`.

The other way, any pyiqa metric as a scorer here, is `qinsight score --scorer pyiqa:topiq_nr`.
"""

from __future__ import annotations

import importlib

from qinsight_plugin.errors import ConfigError, MissingExtraError

__all__ = ["register"]

ARCHITECTURE = "QInsightMetric"


def register(name: str = "qinsight", scorer: str = "student") -> None:
    """Make a no-reference scorer a metric of pyiqa: MOS from 1 (bad) to 5 (excellent), larger is
    better. Registering the same twice changes nothing.

    Args:
        name: for `pyiqa.create_metric`.
        scorer: as for `qinsight_plugin.score`, on that scale: `student`, `student:mine.onnx`.

    Raises:
        MissingExtraError: pyiqa is not installed.
        ConfigError: pyiqa has a metric of that name already.
    """
    try:
        importlib.import_module("pyiqa")
    except ModuleNotFoundError as error:
        if error.name != "pyiqa":
            raise
        raise MissingExtraError("pyiqa", "pyiqa", "the pyiqa metric") from error
    configs = importlib.import_module("pyiqa.default_model_configs").DEFAULT_CONFIGS
    registry = importlib.import_module("pyiqa.utils.registry").ARCH_REGISTRY
    from .metric import QInsightMetric

    config = {
        "metric_opts": {"type": ARCHITECTURE, "scorer": scorer},
        "metric_mode": "NR",
        "score_range": "1, 5",
    }
    if configs.get(name, config) != config:
        raise ConfigError(f"pyiqa has a metric {name!r} already: choose another name")
    # `create_metric` asks the one whether there is such a metric, and the other for its network.
    if ARCHITECTURE not in registry:
        registry.register(QInsightMetric)
    configs[name] = config
