"""A plugin that does its worst when imported."""

import sys

sys.exit("no licence found\nbye")
