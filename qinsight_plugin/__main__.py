"""`python -m qinsight_plugin` is `qinsight`."""

from __future__ import annotations

from qinsight_plugin.cli.main import main

main()
