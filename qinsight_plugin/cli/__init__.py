"""The `qinsight` command line: one module a command, each light to import."""
