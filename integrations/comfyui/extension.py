"""The list of nodes; empty, and why in one line of the log, where the package is missing."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

from comfy_api.latest import ComfyExtension

log = logging.getLogger(__name__)


class QInsightExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[Any]]:
        if find_spec("qinsight_plugin") is None:
            log.warning(
                "QInsight: the package qinsight-plugin is not installed, so its nodes are left "
                "out: run pip install 'qinsight-plugin[cpu]' in ComfyUI's Python"
            )
            return []
        if find_spec("onnxruntime") is None:
            log.warning(
                "QInsight: onnxruntime is not installed, which the student model needs: run pip "
                "install 'qinsight-plugin[cpu]' in ComfyUI's Python"
            )
        from . import models
        from .choosing import Compare, PickBest, QualityGate
        from .telling import Explain, QualityScore, SaveWithScore

        models.add_folder()
        return [QualityScore, QualityGate, PickBest, Compare, Explain, SaveWithScore]
