"""Integrations: thin, built on the public API only. Installed as `qinsight_plugin.integrations`."""
