"""What a server of scores is made of, without a word of HTTP: bounded, killable, countable."""

from __future__ import annotations

from qinsight_plugin.serving.engine import Engine, Picture
from qinsight_plugin.serving.events import Events
from qinsight_plugin.serving.limits import Limits
from qinsight_plugin.serving.shared import shared_engine

__all__ = ["Engine", "Events", "Limits", "Picture", "shared_engine"]
