"""Slips in calls of the Python API are told for what they are, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import qinsight_plugin as qi
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Report


@pytest.mark.parametrize(
    ("name", "arguments", "options", "complaint"),
    [
        ("score_many", ("a.jpg",), {}, "a list of pictures, not a str: put it into a list, or"),
        ("score_many", (Path("a.jpg"),), {}, "a list of pictures, not a "),
        ("score_many", ([],), {"workers": -1}, "workers must be a whole number from 1 up, not -1"),
        ("score_many", ([],), {"workers": "2"}, "must be a whole number from 1 up, not '2'"),
        ("score", ("a.jpg",), {"scorer": None}, "called by its name, as 'student', not None"),
        ("compare", ("a", "b"), {"margin": "x"}, "margin x is not a number from 0 up"),
        ("judge", (None, qi.Gate()), {}, "a Report and a Gate, .*, not NoneType and Gate"),
        ("judge", (Report("a", "student"), 3.0), {}, "not Report and float"),
    ],
)
def test_a_slip_is_told_and_no_plugin_is_blamed(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        getattr(qi, name)(*arguments, **options)
