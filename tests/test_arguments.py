"""What stands after a scorer's name, taken apart."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.reasoning.arguments import require_none_left, split_argument, take_settings
from qinsight_plugin.reasoning.asking import Asking
from qinsight_plugin.reasoning.loading import Loading
from qinsight_plugin.scorers import local, remote

WORDS = st.text("abcxyz_019 &=?%+/é", max_size=12)


@given(st.text("abc/:.-", max_size=20), st.dictionaries(WORDS.filter(bool), WORDS, min_size=1))
def test_settings_come_back_as_urllib_wrote_them(target: str, settings: dict[str, str]) -> None:
    assert split_argument(f"{target}?{urlencode(settings)}") == (target, settings)


@given(st.text("abc/:.-é ", max_size=20))
def test_without_settings_all_of_it_is_the_target(target: str) -> None:
    assert split_argument(target) == (target, {})


@pytest.mark.parametrize("argument", ["m?samples", "m?samples=1&&", "m?samples=1&samples=2"])
def test_what_is_no_list_of_settings_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError):
        split_argument(argument)


def test_values_are_read_as_their_fields_types() -> None:
    settings = {"samples": "3", "temperature": "0.5", "distortions": "no", "mode": "thinking"}
    settings |= {"adapter": "lora", "dtype": "float32", "other": "1"}
    assert take_settings(Asking, settings, "s") == Asking(
        samples=3, temperature=0.5, distortions=False
    )
    assert take_settings(Loading, settings, "s") == Loading(adapter=Path("lora"), dtype="float32")
    assert settings == {"other": "1"}
    with pytest.raises(ConfigError, match="s has no setting 'other'; it has adapter, attention"):
        require_none_left(settings, "s", Asking, Loading)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("m?samples=many", "reasoning: samples must be a whole number, not 'many'"),
        ("m?temperature=hot", "reasoning: temperature must be a number"),
        ("m?distortions=perhaps", "reasoning: distortions must be yes or no"),
        ("m?colour=red", "reasoning has no setting 'colour'"),
        ("m?batch=0", "batch must be 1 or more"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_loaded(argument: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        local.load(argument)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("", "remote needs the server's address"),
        ("http://h:1/v1?batch=2", "remote has no setting 'batch'"),
        ("ftp://h/v1", "http"),
    ],
)
def test_a_wrong_server_is_named_before_it_is_asked(argument: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        remote.load(argument)
