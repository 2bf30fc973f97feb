"""The reasoning model from the command line and from Python, on a tiny checkpoint that answers by
brightness; what it says means nothing about real pictures, how it is handled does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as PILImage

import qinsight_plugin
from qinsight_plugin.cli.main import cli
from qinsight_plugin.comparing import compare
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.records import DISTORTIONS, SEVERITIES
from qinsight_plugin.report import from_dict, to_dict
from qinsight_plugin.teacher import sample_teacher

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Grey pictures from dark to bright, in three sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        shape = ((64, 96), (112, 56), (300, 200))[number % 3]
        PILImage.fromarray(np.full((*shape, 3), 20 + 40 * number, np.uint8)).save(path)
    return paths


def said(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_reasons_are_printed_for_people(reasoner: Path, pictures: list[Path]) -> None:
    text = said("score", "--scorer", f"reasoning:{reasoner}", "--explain", pictures[0])
    head, *rest = text.splitlines()
    assert re.fullmatch(rf"{re.escape(str(pictures[0]))}: [1-5]\.\d\d: .+", head)
    assert rest[0].startswith("  ")
    assert re.search(r"\(2 replies, \d+ tokens read, \d+ written, [\d.]+ s\)", rest[-1])


def test_json_holds_everything_and_comes_back(reasoner: Path, pictures: list[Path]) -> None:
    rows = json.loads(said("score", "--scorer", f"reasoning:{reasoner}", "--json", *pictures))
    for row in rows:
        assert 1 <= row["score"] <= 5
        assert row["reasoning"]
        assert row["cost"]["replies"] >= 2
        assert row["cost"]["completion_tokens"] > 0
        for found in row["distortions"]:
            assert found["name"] in DISTORTIONS
            assert found["severity"] in SEVERITIES
        assert to_dict(from_dict(row)) == row
    assert any("scaled to" in note for note in rows[2]["notes"])
    assert not rows[0]["notes"]


def test_a_score_is_the_same_alone_and_in_company(reasoner: Path, pictures: list[Path]) -> None:
    alone = [
        qinsight_plugin.score(path, scorer=f"reasoning:{reasoner}?batch=1").score
        for path in pictures
    ]
    together = qinsight_plugin.score_many(
        pictures, scorer=f"reasoning:{reasoner}?batch=5", workers=6
    )
    assert [report.score for report in together] == alone


def test_csv_has_the_reasons_too(reasoner: Path, pictures: list[Path]) -> None:
    text = said("score", "--scorer", f"reasoning:{reasoner}", "--csv", pictures[0])
    assert {"reasoning", "cost"} <= set(text.splitlines()[0].replace('"', "").split(","))


def test_the_direct_mode_writes_nothing(reasoner: Path, pictures: list[Path]) -> None:
    scorer = f"reasoning:{reasoner}?mode=direct"
    rows = [
        json.loads(line)
        for line in said("score", "--scorer", scorer, "--jsonl", *pictures).split("\n")
        if line
    ]
    assert {row["cost"]["completion_tokens"] for row in rows} == {0}
    assert {row["reasoning"] for row in rows} == {None}
    values = [row["score"] for row in rows]
    assert values[-1] > values[0]  # it was taught that bright is good


def test_two_pictures_are_compared_in_one_look(reasoner: Path, pictures: list[Path]) -> None:
    dark, bright = pictures[0], pictures[-1]
    text = said("compare", "--scorer", f"reasoning:{reasoner}", dark, bright)
    assert re.match(r"(A is better|B is better|similar)\n  \S", text)
    row = json.loads(
        said(
            "compare",
            "--scorer",
            f"reasoning:{reasoner}",
            dark,
            bright,
            "--reference",
            bright,
            "--json",
        )
    )
    assert row["better"] in ("A", "B", "similar")
    assert row["margin"] is None
    assert row["preference"]["better"] == row["better"]
    assert row["preference"]["cost"]["replies"] >= 1
    assert row["a"]["score"] is None
    assert row["a"]["error"] is None


def test_a_margin_is_of_no_use_to_a_model_that_looks_at_both(
    reasoner: Path, pictures: list[Path]
) -> None:
    with pytest.raises(ConfigError, match="leave out the margin"):
        compare(pictures[0], pictures[1], scorer=f"reasoning:{reasoner}", margin=0.2)


def test_a_teacher_that_draws_gives_a_spread(
    reasoner: Path, pictures: list[Path], tmp_path: Path
) -> None:
    pipeline = Pipeline(f"reasoning:{reasoner}")
    answers = sample_teacher(pipeline, pictures, samples=8, cache=tmp_path / "answers.parquet")
    assert all(1 < answer.readable <= 8 for answer in answers)
    assert any(answer.spread for answer in answers)  # asked greedily, it would always be 0


def test_a_strange_picture_is_a_row_with_its_error_and_the_others_are_scored(
    reasoner: Path, pictures: list[Path], tmp_path: Path
) -> None:
    line = tmp_path / "line.png"
    PILImage.new("RGB", (900, 2)).save(line)
    dot = tmp_path / "dot.png"
    PILImage.new("RGB", (1, 1)).save(dot)
    done = CliRunner().invoke(
        cli,
        [
            "score",
            "--scorer",
            f"reasoning:{reasoner}",
            "--json",
            str(line),
            str(dot),
            str(pictures[0]),
        ],
    )
    rows = json.loads(done.stdout)
    assert rows[2]["score"] is not None
    for row in rows[:2]:
        assert (row["score"] is None) != (row["error"] is None)
        assert row["error"] is None or "\n" not in row["error"]
