"""Labels to rows, and every kind of row that cannot be used."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image as PILImage

from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.grpo.config import Config, DataSet, Validation
from qinsight_plugin.grpo.rows import check_enough, picture_problems, read_rows, refuse
from qinsight_plugin.records import Distortion


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(12):
        PILImage.fromarray(np.full((40, 60, 3), 20 * k, np.uint8)).save(tmp_path / f"{k}.png")
    return tmp_path


def config_of(*data: DataSet, share: float = 0.0, metric: str = "srcc") -> Config:
    validation = Validation(share=share, metric=metric)  # type: ignore[arg-type]
    return Config("model", Path("out"), data, validation=validation)


def scores(folder: Path, lines: Sequence[str], scale: tuple[float, float] = (1, 5)) -> DataSet:
    path = folder / "scores.csv"
    path.write_text("\n".join(["path,mos,split,dup_group", *lines]))
    return DataSet("score", path, scale=scale)


def test_scores_are_mapped_to_the_mos_scale(folder: Path) -> None:
    rows = read_rows(
        config_of(scores(folder, ["0.png,0,,", "1.png,50,,", "2.png,100,,"], (0, 100)))
    )
    assert [row.truth for row in rows.train[0]] == [1.0, 3.0, 5.0]
    assert rows.train[0][0].place == "scores.csv line 2"
    assert rows.train[0][0].pictures == (folder / "0.png",)


def test_a_scale_may_fall_as_that_of_a_distance_does(folder: Path) -> None:
    rows = read_rows(config_of(scores(folder, ["0.png,0,,", "1.png,1,,"], (1, 0))))
    assert [row.truth for row in rows.train[0]] == [5.0, 1.0]


def test_degradations_in_json_lines_know_null(folder: Path) -> None:
    path = folder / "d.jsonl"
    told = [
        {"image": "0.png", "distortion_class": "blur", "severity": "Serious"},
        {"image": "1.png", "distortion_class": None, "severity": None},
        {"image": "2.png", "distortion_class": "null", "severity": "null"},
    ]
    path.write_text("\n".join(map(json.dumps, told)))
    rows = read_rows(config_of(DataSet("degradation", path), metric="accuracy"))
    assert [row.truth for row in rows.train[0]] == [Distortion("blur", "serious"), None, None]


def test_comparisons_in_parquet_have_the_published_keys(folder: Path) -> None:
    path = folder / "c.parquet"
    told = [
        {"ref_image": "0.png", "ImageA": "1.png", "ImageB": "2.png", "result": "Image A"},
        {"ref_image": None, "ImageA": "3.png", "ImageB": "4.png", "result": "Similar"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(told), path)
    first, second = read_rows(config_of(DataSet("comparison", path))).train[0]
    assert [p.name for p in first.pictures] == ["1.png", "2.png", "0.png"]
    assert (first.truth, second.truth, len(second.pictures)) == ("A", "similar", 2)


def test_preferences_of_people_are_truths_too(folder: Path) -> None:
    """The columns that `fit` and the tool for rating know: A beat B."""
    path = folder / "pairs.csv"
    path.write_text("a,b,better\n0.png,1.png,b\n2.png,3.png,tie\n")
    rows = read_rows(config_of(DataSet("comparison", path))).train[0]
    assert [row.truth for row in rows] == ["B", "similar"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("none.png,3,,", r"there is no picture none\.png in /"),
        (f"{'x' * 500}.png,3,,", "there is no picture"),
        ("0.png,6,,", "the rating '6' is no number from 1 to 5"),
        ("0.png,0.99,,", "the rating '0.99' is no number from 1 to 5"),
        ("0.png,nan,,", "the rating 'nan' is no number from 1 to 5"),
        ("0.png,3_5,,", "the rating '3_5' is no number from 1 to 5"),
        ("0.png,,,", "the rating '' is no number from 1 to 5"),
        ("0.png,3,dev,", "the split 'dev' is none of train, val and test"),
        ("1.png,3,,", r"the same picture was named in scores\.csv line 2"),
    ],
)
def test_a_score_that_cannot_be_used_is_listed(folder: Path, line: str, problem: str) -> None:
    rows = read_rows(config_of(scores(folder, ["1.png,2,,", line])))
    (found,) = rows.problems
    assert found.place == "scores.csv line 3"
    assert len(rows.train[0]) == 1
    with pytest.raises(LabelsError, match=problem):
        refuse(rows.problems)


@pytest.mark.parametrize(
    ("name", "severity", "problem"),
    [
        ("banding", "slight", "the prompt names no distortion 'banding': write noise, compression"),
        ("blur", "awful", "the prompt names no severity 'awful': write slight, moderate"),
        ("blur", "", "the prompt names no severity ''"),
        ("", "slight", "the prompt names no distortion ''"),
    ],
)
def test_a_distortion_that_the_prompt_does_not_name(
    folder: Path, name: str, severity: str, problem: str
) -> None:
    path = folder / "d.csv"
    path.write_text(f"path,distortion_class,severity\n0.png,{name},{severity}\n1.png,,\n")
    rows = read_rows(config_of(DataSet("degradation", path)))
    assert problem in str(rows.problems[0])
    assert [row.truth for row in rows.train[0]] == [None]


def test_wrong_comparisons_are_listed(folder: Path) -> None:
    path = folder / "c.csv"
    lines = ["0.png,0.png,a,", "0.png,1.png,c,", "0.png,9.bmp,a,", "0.png,1.png,a,no.png"]
    path.write_text("\n".join(["a,b,better,reference", *lines, "2.png,3.png,a,4.png"]))
    found = list(map(str, read_rows(config_of(DataSet("comparison", path))).problems))
    assert "compared with itself" in found[0]
    assert "the answer 'c' is none of A, B and similar" in found[1]
    assert "9.bmp" in found[2]
    assert "no.png" in found[3]
    assert len(found) == 4


def test_an_empty_task_is_a_problem(folder: Path) -> None:
    held = scores(folder, ["0.png,1,val,", "1.png,2,test,"])
    (found,) = read_rows(config_of(held)).problems
    assert str(found) == "scores.csv: no row to train on: the task score is empty"
    with pytest.raises(LabelsError, match="no rows: give a header"):
        read_rows(config_of(scores(folder, [])))


def test_pictures_are_decoded_and_those_that_cannot_be_are_listed(folder: Path) -> None:
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "text.png").write_text("no picture")
    PILImage.new("RGB", (1, 300)).save(folder / "narrow.png")
    names = ["0.png", "torn.png", "text.png", "narrow.png"]
    config = config_of(scores(folder, [f"{name},3,," for name in names]))
    rows = read_rows(config)
    found = list(picture_problems(rows.train[0], config))
    assert [None if one is None else one.place for one in found] == [
        None,
        "scores.csv line 3",
        "scores.csv line 4",
        "scores.csv line 5",
    ]
    assert "1x300 is too narrow" in str(found[3])


def test_what_is_held_back_is_drawn_by_clusters_and_always_the_same(folder: Path) -> None:
    lines = [f"{k}.png,{1 + k / 3},,group{k // 3}" for k in range(12)]
    config = config_of(scores(folder, lines), share=0.25)
    rows = read_rows(config)
    assert len(rows.held) == 3
    assert len({int(row.pictures[0].stem) // 3 for row in rows.held}) == 1
    assert read_rows(config) == rows


def pairs(folder: Path, named: Sequence[tuple[int, int]]) -> DataSet:
    path = folder / "pairs.csv"
    path.write_text("a,b,better\n" + "".join(f"{a}.png,{b}.png,a\n" for a, b in named))
    return DataSet("comparison", path)


def test_a_pair_held_back_shows_no_picture_that_is_trained_on(folder: Path) -> None:
    every = list(itertools.combinations(range(12), 2))
    config = config_of(pairs(folder, every), share=0.2, metric="accuracy")
    rows = read_rows(config)
    trained, held = (
        {path for row in part for path in row.pictures} for part in (rows.train[0], rows.held)
    )
    assert not trained & held
    assert len(rows.held) == pytest.approx(0.2 * 66, abs=3)
    assert rows.left_out == 66 - len(rows.held) - len(rows.train[0]) > 0
    assert read_rows(config) == rows


def test_no_pair_is_left_out_where_none_share_a_picture(folder: Path) -> None:
    rows = read_rows(config_of(pairs(folder, [(k, k + 1) for k in range(0, 12, 2)]), share=0.34))
    assert (len(rows.train[0]), len(rows.held), rows.left_out) == (4, 2, 0)


def test_pairs_show_no_rated_picture_of_the_other_side(folder: Path) -> None:
    """Of all the pairs with the one picture held back, none is held back whole."""
    rated = scores(folder, [f"{k}.png,{1 + k / 3},," for k in range(12)])
    every = list(itertools.combinations(range(12), 2))
    config = config_of(rated, pairs(folder, every), share=0.1, metric="accuracy")
    rows = read_rows(config)
    assert (len(rows.held), len(rows.train[1]), rows.left_out) == (1, 55, 11)
    with pytest.raises(ConfigError, match=r"nothing but scores is held back, .*; 11 are left out"):
        check_enough(rows, config)


def test_a_picture_of_two_tasks_is_on_one_side(folder: Path) -> None:
    path = folder / "d.csv"
    path.write_text("path,distortion_class,severity\n" + "".join(f"{k}.png,,\n" for k in range(12)))
    lines = [f"{k}.png,{1 + k / 3},," for k in range(12)]
    config = config_of(scores(folder, lines), DataSet("degradation", path), share=0.25)
    rows = read_rows(config)
    trained = {row.pictures for own in rows.train for row in own}
    assert not trained & {row.pictures for row in rows.held}
    assert {row.task for row in rows.held} == {"score", "degradation"}


def test_the_labels_own_split_holds_and_is_checked(folder: Path) -> None:
    first = scores(folder, ["0.png,1,train,", "1.png,2,val,", "2.png,3,test,"])
    path = folder / "more.csv"
    path.write_text("path,mos,split\n1.png,2,train\n3.png,2,train\n")
    rows = read_rows(config_of(first, DataSet("score", path, scale=(1, 5))))
    assert [row.pictures[0].name for row in rows.held] == ["1.png", "2.png"]
    (found,) = rows.problems
    assert (
        str(found) == "more.csv line 2: it is in train, and by scores.csv line 3 in validation too"
    )


def test_near_duplicates_of_what_is_trained_on_are_not_measured_on(folder: Path) -> None:
    """Nor if it is another set that trains on them."""
    path = folder / "d.csv"
    path.write_text("path,distortion_class,severity,split,dup_group\n7.png,,,train,c\n")
    lines = ["0.png,1,train,a", "1.png,2,val,a", "2.png,3,val,b", "3.png,4,test,", "4.png,5,val,c"]
    config = config_of(scores(folder, lines), DataSet("degradation", path))
    rows = read_rows(config)
    assert [row.pictures[0].name for row in rows.held] == ["2.png", "3.png"]
    assert (rows.problems, rows.left_out) == ((), 2)
    with pytest.raises(
        ConfigError, match=r"too few to correlate: .*; 2 are left out, for near-dup"
    ):
        check_enough(rows, config)


def test_nothing_but_near_duplicates_held_back(folder: Path) -> None:
    config = config_of(scores(folder, ["0.png,1,train,a", "1.png,2,val,a", "2.png,3,val,a"]))
    with pytest.raises(ConfigError, match="no rows are held back to measure on; 2 are left"):
        check_enough(read_rows(config), config)


def test_too_few_scores_held_back_to_correlate(folder: Path) -> None:
    config = config_of(scores(folder, ["0.png,1,train,", "1.png,2,val,", "2.png,2,val,"]))
    with pytest.raises(ConfigError, match="2 scores of 1 different values are held back, too few"):
        check_enough(read_rows(config), config)


def test_a_metric_without_its_task(folder: Path) -> None:
    path = folder / "pairs.csv"
    path.write_text("a,b,better,split\n0.png,1.png,b,train\n2.png,3.png,a,val\n")
    config = config_of(DataSet("comparison", path))
    with pytest.raises(ConfigError, match="no scores are held back to measure srcc on"):
        check_enough(read_rows(config), config)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"path": ', "line 1 is not JSON"),
        ("x.jsonl", "[1]", "line 1 is no JSON object"),
        ("x.jsonl", "", "no rows"),
        ("x.jsonl", '{"file": "a"}', "no column for the file"),
        ("x.parquet", "PAR1 no", "cannot be read as Parquet"),
        ("x.csv", "path;mos\na;1", "no column for the file"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LabelsError, match=message):
        read_rows(config_of(DataSet("score", tmp_path / name, scale=(1, 5))))
