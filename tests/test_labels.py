from __future__ import annotations

import csv
import statistics
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.labels import Labels, check_learnable, held_out, read_labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcdef":
        (tmp_path / f"{name}.jpg").write_bytes(b"a picture")
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def refusal(path: Path, scale: tuple[float, float] | None = (1, 5)) -> str:
    with pytest.raises(LabelsError) as caught:
        read_labels(path, scale=scale)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_every_column_is_read_and_the_scale_is_mapped_to_one_to_five(folder: Path) -> None:
    path = write(
        folder,
        "filename,mos,generator,split,group,dup_group\n"
        "a.jpg,0,x,train,indoor,1\n"
        "b.jpg,0.25,x,val,indoor,\n"
        "c.jpg,1,y,test,outdoor,1\n",
    )
    assert read_labels(path, scale=(0, 1)) == Labels(
        paths=(folder / "a.jpg", folder / "b.jpg", folder / "c.jpg"),
        mos=(1.0, 2.0, 5.0),
        split=("train", "val", "test"),
        group=("indoor", "indoor", "outdoor"),
        cluster=("1", "", "1"),
    )


def test_absent_optional_columns_are_none(folder: Path) -> None:
    labels = read_labels(write(folder, "path,rating\na.jpg,3\n"), scale=(1, 5))
    assert (labels.split, labels.group, labels.cluster) == (None, None, None)


@pytest.mark.parametrize("file", ["path", "Filename", "IMAGE", " name "])
@pytest.mark.parametrize("rating", ["mos", "Score", "RATING"])
def test_headers_are_known_by_any_of_their_names_in_any_case(
    folder: Path, file: str, rating: str
) -> None:
    labels = read_labels(write(folder, f"{rating},{file}\n4,a.jpg\n"), scale=(1, 5))
    assert labels.paths == (folder / "a.jpg",)
    assert labels.mos == (4.0,)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_marks_make_no_difference(
    folder: Path, newline: str, encoding: str
) -> None:
    (folder / "é, ü.jpg").write_bytes(b"a picture")
    text = newline.join(["name,mos", '"é, ü.jpg", 2', "", ",", "b.jpg,3", ""])
    labels = read_labels(write(folder, text, encoding), scale=(1, 5))
    assert labels.paths == (folder / "é, ü.jpg", folder / "b.jpg")
    assert labels.mos == (2.0, 3.0)


def test_relative_paths_start_at_the_images_folder_and_absolute_ones_stay(folder: Path) -> None:
    lists = folder / "lists"
    lists.mkdir()
    path = write(lists, f"path,mos\na.jpg,2\n{folder / 'b.jpg'},3\n")
    labels = read_labels(str(path), images=str(folder), scale=(1, 5))
    assert labels.paths == (folder / "a.jpg", folder / "b.jpg")


@settings(max_examples=50, deadline=None)
@given(
    low=st.floats(-100, 100),
    width=st.floats(0.1, 9),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_any_ratings_of_any_scale_come_back_linearly_mapped(
    low: float, width: float, shares: list[float]
) -> None:
    high = low + width
    ratings = [min(high, low + share * width) for share in shares]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "labels.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "mos"])
            for index, rating in enumerate(ratings):
                (folder / f"{index}.png").touch()
                rows.writerow([f"{index}.png", repr(rating)])
        mos = read_labels(path, scale=(low, high)).mos
    assert mos == pytest.approx(np.interp(ratings, [low, high], [1, 5]), abs=1e-9)
    assert all(1 <= value <= 5 for value in mos)


def test_a_scale_left_unstated_is_refused_with_the_ratings_seen(folder: Path) -> None:
    message = refusal(write(folder, "path,mos\na.jpg,0.25\nb.jpg,4.5\n"), scale=None)
    assert "from 0.25 to 4.5" in message
    assert "--scale 1:5" in message


def test_ratings_outside_the_scale_are_refused_by_line(folder: Path) -> None:
    rows = "".join(f"{name}.jpg,{50 if name > 'b' else 3}\n" for name in "abcdef")
    message = refusal(write(folder, f"path,mos\n{rows}"))
    assert "line 4 (c.jpg), line 5 (d.jpg), line 6 (e.jpg) and 1 more" in message
    assert "outside 1:5" in message


@pytest.mark.parametrize(
    ("ratings", "stated", "likely"),
    [
        ((0.1, 0.9), (0, 100), "0:1,"),
        ((1.3, 4.8), (0, 100), "1:5,"),
        ((0.4, 4.8), (0, 100), "0:5,"),
        ((2.0, 9.0), (0, 100), "0:10,"),
        ((0.1, 0.9), (0, 10), "0:1,"),
    ],
)
def test_a_scale_ten_times_too_wide_is_refused_with_the_likely_one(
    folder: Path, ratings: tuple[float, float], stated: tuple[float, float], likely: str
) -> None:
    low, high = ratings
    message = refusal(write(folder, f"path,mos\na.jpg,{low}\nb.jpg,{high}\n"), scale=stated)
    assert f"given on {likely}" in message


@pytest.mark.parametrize(
    ("ratings", "stated"), [((4, 12), (0, 100)), ((0.2, 0.9), (0, 5)), ((1, 5), (0, 10))]
)
def test_ratings_that_use_a_part_of_their_scale_are_accepted(
    folder: Path, ratings: tuple[float, float], stated: tuple[float, float]
) -> None:
    low, high = ratings
    path = write(folder, f"path,mos\na.jpg,{low}\nb.jpg,{high}\n")
    assert read_labels(path, scale=stated).mos == pytest.approx(np.interp(ratings, stated, [1, 5]))


@pytest.mark.parametrize("cell", ["", "good", "nan", "inf", "1e999", '"3,5"', "3_5", "0x3"])
def test_a_rating_that_is_no_number_is_refused(folder: Path, cell: str) -> None:
    message = refusal(write(folder, f"path,mos,split\na.jpg,3,train\nb.jpg,{cell},test\n"))
    assert "not a number: line 3 (b.jpg):" in message


def test_missing_pictures_are_refused_by_line(folder: Path) -> None:
    names = ["a.jpg", "x.jpg", "", ".", "y" * 300, "b.jpg/c.jpg"]
    rows = "".join(f"{name},3\n" for name in names)
    message = refusal(write(folder, f"path,mos\n{rows}"))
    assert f"no such picture in {folder}" in message
    assert "line 3 (x.jpg), line 4 (), line 5 (.) and 2 more" in message


def test_lines_are_counted_as_an_editor_counts_them(folder: Path) -> None:
    text = 'path,mos,remark\n\na.jpg,3,"two\nlines"\nx.jpg,3,\n"y\x1b[2J\n.jpg",3,\n'
    message = refusal(write(folder, text))
    assert "line 5 (x.jpg), line 6 (y?[2J?.jpg):" in message


def test_a_very_long_name_is_cut_in_the_message(folder: Path) -> None:
    message = refusal(write(folder, f"path,mos\n{'x' * 5000},3\n"))
    assert "xxx...)" in message
    assert len(message) < 400


def test_a_picture_named_twice_in_whatever_spelling_is_refused(folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    spellings = ["a.jpg", "./a.jpg", f"../{folder.name}/a.jpg", "link.jpg", "b.jpg"]
    rows = "".join(f"{name},3\n" for name in spellings)
    message = refusal(write(folder, f"path,mos\n{rows}"))
    assert f"named before: line 3 (./a.jpg), line 4 (../{folder.name}/a.jpg), line 5" in message
    assert "b.jpg" not in message


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("path,quality", "no column for the rating (found: path, quality)"),
        ("photo,mos", "no column for the file (found: photo, mos)"),
        ("path;mos", "no column for the file (found: path;mos)"),
        ("path,mos,score", "2 columns could be the rating (mos, score)"),
        ("path,mos,MOS", "2 columns could be the rating (mos, MOS)"),
        ("path,image,mos", "2 columns could be the file (path, image)"),
    ],
)
def test_headers_that_leave_a_doubt_are_refused(folder: Path, header: str, said: str) -> None:
    assert said in refusal(write(folder, f"{header}\na.jpg,3\n"))


def test_a_wide_header_is_shown_in_part(folder: Path) -> None:
    header = ",".join(f"column{index}" for index in range(500))
    message = refusal(write(folder, f"{header}\n1\n"))
    assert "column11, ...)" in message
    assert "column12" not in message


def test_rows_of_another_width_than_the_header_are_refused(folder: Path) -> None:
    message = refusal(write(folder, "path,mos,group\na.jpg,3,x\nb.jpg,3\nc,1.jpg,3,x\n"))
    assert "not the header's 3: line 3 (b.jpg), line 4 (c):" in message


@pytest.mark.parametrize("text", ["", "\n\n", "path,mos", "path,mos\n\n,\n"])
def test_a_file_without_rows_is_refused(folder: Path, text: str) -> None:
    assert "no rows" in refusal(write(folder, text))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\xff\xd8", "not UTF-8 text (byte 0)"),
        ("path,mos\na.jpg,3\n".encode("utf-16"), "not UTF-8 text"),
        (b"path,mos\na.jpg\0,3\n", "binary data"),
        (b'path,mos\n"a.jpg,3\n', "line 2 is not CSV"),
        (b"path,mos\n" + b"x" * 200_000, "line 2 is not CSV"),
    ],
)
def test_what_is_not_csv_text_is_refused(folder: Path, data: bytes, said: str) -> None:
    path = folder / "labels.csv"
    path.write_bytes(data)
    assert said in refusal(path)


def test_a_label_file_that_cannot_be_read_is_refused_with_its_cause(folder: Path) -> None:
    assert "cannot be read (No such file" in refusal(folder / "none.csv")
    with pytest.raises(LabelsError, match="cannot be read") as caught:
        read_labels(folder, scale=(1, 5))
    assert isinstance(caught.value.__cause__, OSError)


def test_unknown_splits_and_empty_groups_are_refused(folder: Path) -> None:
    text = "path,mos,split,group\na.jpg,3,Train,x\nb.jpg,3,{},{}\n"
    assert read_labels(write(folder, text.format("TEST", "y")), scale=(1, 5)).split == (
        "train",
        "test",
    )
    assert "split is unknown: line 3 (b.jpg)" in refusal(write(folder, text.format("dev", "x")))
    assert "split is unknown: line 3 (b.jpg)" in refusal(write(folder, text.format("", "x")))
    assert "group is empty: line 3 (b.jpg)" in refusal(write(folder, text.format("val", "")))


@pytest.mark.parametrize("scale", [(5, 1), (1, 1), (0, float("inf")), (float("nan"), 5)])
def test_a_scale_that_is_none_is_a_wrong_argument(folder: Path, scale: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="lowest"):
        read_labels(write(folder, "path,mos\na.jpg,3\n"), scale=scale)


def test_an_images_folder_that_is_none_is_a_wrong_argument(folder: Path) -> None:
    path = write(folder, "path,mos\na.jpg,3\n")
    for images in (folder / "none", folder / "a.jpg"):
        with pytest.raises(ConfigError, match="not a folder"):
            read_labels(path, images=images, scale=(1, 5))


def rated(splits: str, clusters: str | None = None) -> Labels:
    """One picture a letter: t(rain), v(al) or e(xam), i.e. test; clusters likewise, "-" none."""
    names = {"t": "train", "v": "val", "e": "test"}
    return Labels(
        paths=tuple(Path(f"{index}.jpg") for index in range(len(splits))),
        mos=(3.0,) * len(splits),
        split=tuple(names[letter] for letter in splits),
        cluster=None if clusters is None else tuple(c.replace("-", "") for c in clusters),
    )


def test_held_out_pictures_have_no_near_duplicate_in_train_or_val() -> None:
    labels = rated("ttveeeee", "A-BABCC-")
    assert held_out(labels) == (5, 6, 7)
    assert held_out(labels, deduplicate=False) == (3, 4, 5, 6, 7)


def test_without_clusters_every_test_picture_is_held_out() -> None:
    assert held_out(rated("tev")) == (1,)


@given(st.lists(st.tuples(st.sampled_from("tve"), st.sampled_from("-ABCD")), min_size=1))
def test_held_out_pictures_share_no_cluster_with_the_others(rows: list[tuple[str, str]]) -> None:
    labels = rated("".join(s for s, _ in rows), "".join(c for _, c in rows))
    expected = tuple(
        index
        for index, (split, cluster) in enumerate(rows)
        if split == "e" and not any(s != "e" and c == cluster and c != "-" for s, c in rows)
    )
    if expected:
        assert held_out(labels) == expected
    else:
        with pytest.raises(LabelsError):
            held_out(labels)


def test_holding_out_needs_a_split_and_a_picture_that_remains() -> None:
    with pytest.raises(LabelsError, match="no split"):
        held_out(Labels(paths=(Path("a"),), mos=(3.0,)))
    with pytest.raises(LabelsError, match="none left of 2"):
        held_out(rated("tee", "AAA"))


def with_mos(*mos: float, split: tuple[str, ...] | None = None) -> Labels:
    return Labels(paths=tuple(Path(str(i)) for i in range(len(mos))), mos=mos, split=split)


def test_too_few_pictures_cannot_be_learnt_from() -> None:
    check_learnable(with_mos(*[1.0, 5.0] * 25))
    with pytest.raises(LabelsError, match="49 pictures to learn from, 50"):
        check_learnable(with_mos(*[1.0, 5.0] * 24, 3.0))
    check_learnable(with_mos(2.0, 4.0), minimum=2)


def test_only_train_pictures_count_as_learnt_from() -> None:
    mos = [1.0, 5.0] * 50
    with pytest.raises(LabelsError, match="40 pictures to learn from"):
        check_learnable(with_mos(*mos, split=("train",) * 40 + ("test",) * 60))


@given(st.floats(0, 0.1))
def test_ratings_that_hardly_differ_cannot_be_learnt_from(half: float) -> None:
    mos = [3.0 - half, 3.0 + half] * 25
    if statistics.pstdev(mos) < 0.05:
        with pytest.raises(LabelsError, match="hardly differ"):
            check_learnable(with_mos(*mos))
    else:
        check_learnable(with_mos(*mos))
