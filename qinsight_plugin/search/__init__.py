"""The smallest setting that still passes, in few probes. Knows no codec and no picture."""

from __future__ import annotations

from qinsight_plugin.search.bracket import Certificate, Found, Probe, even_settings, search
from qinsight_plugin.search.curve import Curve, Link

__all__ = ["Certificate", "Curve", "Found", "Link", "Probe", "even_settings", "search"]
