from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.pairs import Pairs, check_pairs_learnable, is_pairs, read_pairs

Answer = tuple[str, str, str]
"""The two pictures' names, and which is better."""

ANSWERS = st.lists(
    st.tuples(*[st.sampled_from("uvwxyz")] * 2, st.sampled_from(["a", "B", "Similar", "TIE"]))
    .filter(lambda row: row[0] != row[1])
    .map(lambda row: (f"{row[0]}.jpg", f"{row[1]}.jpg", row[2])),
    min_size=1,
    max_size=12,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "uvwxyz":
        (tmp_path / f"{name}.jpg").write_bytes(b"a picture")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(LabelsError) as caught:
        read_pairs(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def read_back(rows: Sequence[Answer]) -> Pairs:
    with tempfile.TemporaryDirectory() as name:
        for picture in "uvwxyz":
            (Path(name) / f"{picture}.jpg").touch()
        path = Path(name) / "pairs.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("a", "b", "better"), *rows])
        return read_pairs(path)


def test_every_column_is_read_and_each_picture_is_listed_once(folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder / "w.jpg")
    path = write(
        folder,
        "rater,better,a,b,split\n"
        "1,a,w.jpg,u.jpg,train\n"
        "2,B,u.jpg,v.jpg,Train\n"
        "1,similar,v.jpg,link.jpg,val\n"
        "2,Tie,w.jpg,u.jpg,test\n",
    )
    assert read_pairs(path) == Pairs(
        paths=(folder / "w.jpg", folder / "u.jpg", folder / "v.jpg"),
        a=(0, 1, 2, 0),
        b=(1, 2, 0, 1),
        preference=(1.0, 0.0, 0.5, 0.5),
        split=("train", "train", "val", "test"),
    )


@pytest.mark.parametrize("header", ["A,B", "path_a,path_b", "image_a,Image_B", "left,right"])
def test_headers_are_known_by_any_of_their_names(folder: Path, header: str) -> None:
    path = write(folder, f"{header},Better\nu.jpg,v.jpg,a\n")
    assert is_pairs(path)
    pairs = read_pairs(path)
    assert pairs.paths == (folder / "u.jpg", folder / "v.jpg")
    assert pairs.split is None


@settings(max_examples=50, deadline=None)
@given(ANSWERS)
def test_what_was_written_is_read(rows: list[Answer]) -> None:
    pairs = read_back(rows)
    meaning = {"a": 1.0, "B": 0.0, "Similar": 0.5, "TIE": 0.5}
    names = [path.name for path in pairs.paths]
    assert [
        (names[a], names[b], preference)
        for a, b, preference in zip(pairs.a, pairs.b, pairs.preference, strict=True)
    ] == [(a, b, meaning[answer]) for a, b, answer in rows]
    assert names == list(dict.fromkeys(name for a, b, _ in rows for name in (a, b)))


@settings(max_examples=50, deadline=None)
@given(ANSWERS)
def test_swapping_the_pictures_of_a_pair_turns_its_preference_round(rows: list[Answer]) -> None:
    turned = {"a": "b", "B": "a", "Similar": "similar", "TIE": "tie"}
    pairs = read_back(rows)
    swapped = read_back([(b, a, turned[answer]) for a, b, answer in rows])
    assert swapped.preference == tuple(1 - preference for preference in pairs.preference)
    assert [swapped.paths[k].name for k in swapped.a] == [pairs.paths[k].name for k in pairs.b]
    assert [swapped.paths[k].name for k in swapped.b] == [pairs.paths[k].name for k in pairs.a]


def test_relative_paths_start_at_the_images_folder(folder: Path) -> None:
    lists = folder / "lists"
    lists.mkdir()
    path = write(lists, f"a,b,better\nu.jpg,{folder / 'v.jpg'},a\n")
    assert read_pairs(path, images=folder).paths == (folder / "u.jpg", folder / "v.jpg")
    assert "no such picture" in refusal(path)
    with pytest.raises(ConfigError, match="not a folder"):
        read_pairs(path, images=folder / "none")


def test_missing_pictures_of_either_side_are_refused_by_line(folder: Path) -> None:
    rows = "".join(f"u.jpg,{k}.jpg,a\n" for k in range(5))
    message = refusal(write(folder, f"a,b,better\n{rows}"))
    assert "line 2 (0.jpg), line 3 (1.jpg), line 4 (2.jpg) and 2 more" in message
    assert "line 2 (empty):" in refusal(write(folder, "a,b,better\n,u.jpg,a\n"))


def test_a_picture_compared_with_itself_in_whatever_spelling_is_refused(folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder / "v.jpg")
    text = "a,b,better\nu.jpg,v.jpg,a\nu.jpg,./u.jpg,tie\nv.jpg,link.jpg,b\n"
    message = refusal(write(folder, text))
    assert "with itself: line 3 (u.jpg, ./u.jpg), line 4 (v.jpg, link.jpg):" in message


@pytest.mark.parametrize("answer", ["", "c", "0", "u.jpg", "a b"])
def test_an_unknown_answer_is_refused_and_shown(folder: Path, answer: str) -> None:
    message = refusal(write(folder, f"a,b,better\nu.jpg,v.jpg,a\nu.jpg,w.jpg,{answer}\n"))
    assert f"answer is unknown: line 3 (u.jpg, w.jpg, {answer or 'empty'}):" in message


def test_an_unknown_split_is_refused(folder: Path) -> None:
    message = refusal(write(folder, "a,b,better,split\nu.jpg,v.jpg,a,dev\n"))
    assert "split is unknown: line 2 (u.jpg, v.jpg, dev):" in message


@pytest.mark.parametrize("text", ["", "a,b,better", "a,b,better\n\n,,\n"])
def test_a_file_without_pairs_is_refused(folder: Path, text: str) -> None:
    assert "no rows" in refusal(write(folder, text))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a,b,answer", "no column for the answer (found: a, b, answer): call one better"),
        ("a,better,c", "no column for the second picture (found: a, better, c)"),
        ("a,left,b,better", "2 columns could be the first picture (a, left)"),
    ],
)
def test_headers_that_leave_a_doubt_are_refused(folder: Path, header: str, said: str) -> None:
    assert said in refusal(write(folder, f"{header}\nu.jpg,v.jpg,a\n"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a,b,better", True),
        ("name,left,right,better", True),
        ("path,mos", False),
        ("path,mos,l,a,b", False),
        ("Filename,Score,better", False),
    ],
)
def test_the_header_tells_pairs_from_ratings(folder: Path, header: str, expected: bool) -> None:
    assert is_pairs(write(folder, f"{header}\n1\n")) is expected


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("path,mos,a,b,better", "both ratings and pairs (found: path, mos, a, b, better)"),
        ("path,quality", "neither ratings nor pairs (found: path, quality)"),
        ("a,b", "neither ratings nor pairs (found: a, b)"),
        ("a;b;better", "neither ratings nor pairs (found: a;b;better)"),
    ],
)
def test_a_header_of_both_kinds_or_of_neither_is_refused(
    folder: Path, header: str, said: str
) -> None:
    path = write(folder, f"{header}\n1\n")
    with pytest.raises(LabelsError) as caught:
        is_pairs(path)
    assert f"labels {path}: columns of {said}" in str(caught.value)


def test_a_file_whose_kind_cannot_be_read_is_refused(folder: Path) -> None:
    with pytest.raises(LabelsError, match="cannot be read"):
        is_pairs(folder / "none.csv")
    with pytest.raises(LabelsError, match="no rows"):
        is_pairs(write(folder, ""))


def ring(
    pairs: int, pictures: int, answers: Sequence[float] = (1.0,), split: Sequence[str] | None = None
) -> Pairs:
    """Each picture against the next one, round and round."""
    return Pairs(
        paths=tuple(Path(f"{k}.jpg") for k in range(pictures)),
        a=tuple(k % pictures for k in range(pairs)),
        b=tuple((k + 1) % pictures for k in range(pairs)),
        preference=tuple(answers[k % len(answers)] for k in range(pairs)),
        split=None if split is None else tuple(split),
    )


def test_fifty_pairs_of_twenty_pictures_are_the_least_to_learn_from() -> None:
    check_pairs_learnable(ring(50, 20))
    with pytest.raises(LabelsError, match="49 to learn from, 50"):
        check_pairs_learnable(ring(49, 20))
    with pytest.raises(LabelsError, match="19 pictures to learn from, 20"):
        check_pairs_learnable(ring(50, 19))


def test_only_train_pairs_count_as_learnt_from() -> None:
    check_pairs_learnable(ring(60, 60, split=["train"] * 50 + ["test"] * 10))
    with pytest.raises(LabelsError, match="49 to learn from"):
        check_pairs_learnable(ring(60, 60, split=["train"] * 49 + ["test"] * 11))
    answers = [0.5] * 50 + [1.0] * 10
    with pytest.raises(LabelsError, match="every answer is a tie"):
        check_pairs_learnable(ring(60, 60, answers, ["train"] * 50 + ["test"] * 10))


def test_ties_alone_cannot_be_learnt_from() -> None:
    check_pairs_learnable(ring(50, 20, [0.5] * 49 + [0.0]))
    with pytest.raises(LabelsError, match="every answer is a tie"):
        check_pairs_learnable(ring(50, 20, [0.5]))


@given(st.integers(0, 58), st.sampled_from(["train", "val", "test"]), st.booleans(), st.booleans())
def test_a_pair_of_train_in_another_split_is_refused_in_either_order(
    again: int, split: str, turned: bool, other: bool
) -> None:
    """The pair `again` is asked once more, in a split; or another pair is, which is in no other."""
    pairs = ring(60, 60)
    first, second = (again, again + 2) if other else (again, again + 1)
    second %= 60
    asked = Pairs(
        pairs.paths,
        a=(*pairs.a, second if turned else first),
        b=(*pairs.b, first if turned else second),
        preference=(*pairs.preference, 0.0),
        split=("train",) * 60 + (split,),
    )
    if split == "train" or other:
        check_pairs_learnable(asked)
    else:
        homes = ", ".join(sorted(("train", split)))
        named = rf"two splits: {again}\.jpg and {again + 1}\.jpg \({homes}\)"
        with pytest.raises(LabelsError, match=named):
            check_pairs_learnable(asked)
