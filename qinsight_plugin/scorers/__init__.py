"""Scorers that ship with the package. A module has a spec, and loads nothing until asked."""
