"""Recipes: what is shipped reads, and what is wrong is said in one line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.student.recipe import FROM_IMAGENET, FROM_STUDENT, Recipe, read_recipe

SHIPPED = FROM_STUDENT.read_text("utf-8")


@pytest.mark.parametrize("path", [FROM_IMAGENET, FROM_STUDENT], ids=lambda path: path.name)
def test_shipped_recipes_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.epochs > 0
    assert isinstance(recipe.families, int)
    assert isinstance(recipe.mse, float)
    assert isinstance(recipe.bfloat16, bool)


def test_every_setting_is_explained() -> None:
    for name in Recipe.__dataclass_fields__:
        assert name in (Recipe.__doc__ or ""), name


def test_changes_take_precedence_unless_they_are_none() -> None:
    recipe = read_recipe(FROM_STUDENT, epochs=2.5, seed=None)
    assert recipe.epochs == 2.5
    assert recipe.seed == read_recipe(FROM_STUDENT).seed


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("momentum = 1", "has the unknown setting 'momentum'"),
        ("epochs = 'many'", "epochs must be a number, not 'many'"),
        ("epochs = true", "epochs must be a number, not True"),
        ("epochs = -1", "epochs must be finite and not negative, not -1"),
        ("epochs = nan", "epochs must be finite"),
        ("mse = inf", "mse must be finite"),
        ("batch = 8.5", "batch must be a whole number, not 8.5"),
        ("batch = 0", "batch must be from 1 to 4096, not 0"),
        ("crop = 0", "crop must be from 1"),
        ("good = 1.5", "good must be from 0 to 1, not 1.5"),
        ("validation = 0.9", "validation must be from 0 to 0.5, not 0.9"),
        ("seed = -1", "seed must be finite and not negative"),
        ("bfloat16 = 1", "bfloat16 must be true or false, not 1"),
        ("mse = [1.0]", "mse must be a number"),
        ("mse 1", "cannot read the recipe"),
    ],
)
def test_a_wrong_setting_is_a_line_that_names_it(
    tmp_path: Path, setting: str, problem: str
) -> None:
    name = setting.split()[0]
    kept = [line for line in SHIPPED.splitlines() if line.split()[0] != name]
    path = tmp_path / "mine.toml"
    path.write_text("\n".join([*kept, setting]))
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    message = str(caught.value)
    assert problem in message
    assert str(path) in message
    assert "\n" not in message


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(line for line in SHIPPED.splitlines() if "ladder_margin" not in line))
    with pytest.raises(ConfigError, match=r"mine\.toml lacks setting 'ladder_margin'; see shipped"):
        read_recipe(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*mine\.toml") as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_change_out_of_range_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="epochs must be finite"):
        read_recipe(FROM_STUDENT, epochs=math.inf)


@pytest.mark.parametrize(("pictures", "steps"), [(100, 24), (32, 8), (5, 8), (0, 8)])
def test_an_epoch_is_as_many_steps_as_there_are_full_batches(pictures: int, steps: int) -> None:
    assert read_recipe(FROM_STUDENT, epochs=8, batch=32).steps(pictures) == steps
