from __future__ import annotations

import csv
import statistics
import tempfile
from collections.abc import Sequence
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
        "filename,mos,std,generator,split,group,dup_group\n"
        "a.jpg,0,0,x,train,indoor,1\n"
        "b.jpg,0.25,0.125,x,val,indoor,\n"
        "c.jpg,1,0.25,y,test,outdoor,1\n",
    )
    assert read_labels(path, scale=(0, 1)) == Labels(
        paths=(folder / "a.jpg", folder / "b.jpg", folder / "c.jpg"),
        mos=(1.0, 2.0, 5.0),
        split=("train", "val", "test"),
        group=("indoor", "indoor", "outdoor"),
        cluster=("1", "", "1"),
        std=(0.0, 0.5, 1.0),
    )


def test_absent_optional_columns_are_none(folder: Path) -> None:
    labels = read_labels(write(folder, "path,rating\na.jpg,3\n"), scale=(1, 5))
    absent = (labels.split, labels.group, labels.cluster, labels.std)
    assert absent == (None, None, None, None)


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
    spreads = [share * (high - low) / 2 for share in shares]
    labels = read_back((low, high), mos=ratings, std=spreads)
    assert labels.mos == pytest.approx(np.interp(ratings, [low, high], [1, 5]), abs=1e-9)
    assert all(1 <= value <= 5 for value in labels.mos)
    # A spread is a difference of ratings, so it is mapped without the scale's offset.
    assert labels.std == pytest.approx(np.interp(spreads, [0, high - low], [0, 4]), abs=1e-9)


def read_back(scale: tuple[float, float], **columns: Sequence[float]) -> Labels:
    """What is read of a file with these columns, and pictures that are all there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "labels.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["path", *columns])
            for index, numbers in enumerate(zip(*columns.values(), strict=True)):
                (folder / f"{index}.png").touch()
                rows.writerow([f"{index}.png", *map(repr, numbers)])
        return read_labels(path, scale=scale)


def test_a_scale_left_unstated_is_refused_with_the_ratings_seen(folder: Path) -> None:
    message = refusal(write(folder, "path,mos\na.jpg,0.25\nb.jpg,4.5\n"), scale=None)
    assert "from 0.25 to 4.5" in message
    assert "not stated: line 2 (a.jpg, 0.25), line 3 (b.jpg, 4.5):" in message
    assert "--scale 1:5" in message


def test_ratings_outside_the_scale_are_refused_by_line(folder: Path) -> None:
    rows = "".join(f"{name}.jpg,{50 if name > 'b' else 3}\n" for name in "abcdef")
    message = refusal(write(folder, f"path,mos\n{rows}"))
    assert "line 4 (c.jpg, 50), line 5 (d.jpg, 50), line 6 (e.jpg, 50) and 1 more" in message
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
    assert f"line 2 (a.jpg, {low}), line 3 (b.jpg, {high}):" in message


@pytest.mark.parametrize(
    ("ratings", "stated", "said"),
    [
        ((1.2, 75, 3, 60, 4.5, 2), (0, 100), "4 of 6 ratings lie within 1:5"),
        ((75, 1.2, 60, 3, 88, 4.5), (0, 100), "3 of 6 ratings lie within 1:5"),
        ((0, 75, 3, 60, 4.5, 2), (0, 100), "4 of 6 ratings lie within 0:5"),
        ((0.2, 0.9, 0.5, 3.5, 4, 7), (0, 10), "3 of 6 ratings lie within 0:1"),
        ((9, 1, 4, 80, 45, 3), (0, 100), "4 of 6 ratings lie within 0:10"),
    ],
)
def test_two_scales_in_one_column_are_refused(
    folder: Path, ratings: Sequence[float], stated: tuple[float, float], said: str
) -> None:
    rows = "".join(f"{name}.jpg,{r}\n" for name, r in zip("abcdef", ratings, strict=True))
    message = refusal(write(folder, f"path,mos\n{rows}"), scale=stated)
    assert f"two scales in one column: {said}" in message
    assert f"bring all to {stated[0]}:{stated[1]}" in message


def test_of_two_scales_the_rows_of_the_rarer_are_listed(folder: Path) -> None:
    head = "path,mos\na.jpg,{}\nb.jpg,{}\nc.jpg,{}\nd.jpg,{}\ne.jpg,{}\nf.jpg,{}\n"
    few_high = refusal(write(folder, head.format(1, 70, 2, 3, 80, 4)), scale=(0, 100))
    assert "(ratings run from 1 to 80): line 3 (b.jpg, 70), line 6 (e.jpg, 80): " in few_high
    few_low = refusal(write(folder, head.format(1, 70, 2, 3, 80, 90)), scale=(0, 100))
    assert "line 2 (a.jpg, 1), line 4 (c.jpg, 2), line 5 (d.jpg, 3): " in few_low


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), max_size=8))
def test_ratings_that_leave_no_stretch_of_their_scale_empty_are_of_one(some: list[float]) -> None:
    ratings = [*some, *range(0, 101, 10), 1, 2, 3, 4, 5]
    assert len(read_back((0, 100), mos=ratings).mos) == len(ratings)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1, 5), max_size=8), st.lists(st.floats(25, 100), min_size=1, max_size=8))
def test_marks_out_of_five_among_percentages_are_always_refused(
    marks: list[float], percentages: list[float]
) -> None:
    with pytest.raises(LabelsError, match="two scales in one column"):
        read_back((0, 100), mos=[2, 3, 4, *marks, *percentages])


@pytest.mark.parametrize("ratings", [(0, 0, 0, 100, 100), (3, 100), (2, 2.4, 2.8, 90), (2, 4, 60)])
def test_a_few_low_ratings_are_no_scale_of_their_own(
    folder: Path, ratings: Sequence[float]
) -> None:
    rows = "".join(
        f"{name}.jpg,{rating}\n" for name, rating in zip("abcdef", ratings, strict=False)
    )
    labels = read_labels(write(folder, f"path,mos\n{rows}"), scale=(0, 100))
    assert labels.mos == pytest.approx([1 + rating / 25 for rating in ratings])


@pytest.mark.parametrize("header", ["std", "SD", "mos_std"])
def test_the_spread_of_opinions_is_read_by_any_of_its_names(folder: Path, header: str) -> None:
    labels = read_labels(write(folder, f"path,mos,{header}\na.jpg,60,25\n"), scale=(0, 100))
    assert labels.std == (1.0,)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("", "std is not a number: line 3 (b.jpg, empty):"),
        ("nan", "std is not a number: line 3 (b.jpg, nan):"),
        ("inf", "std is not a number: line 3 (b.jpg, inf):"),
        ("wide", "std is not a number: line 3 (b.jpg, wide):"),
        ("-0.1", "std is negative, or wider than the whole scale (4): line 3 (b.jpg, -0.1):"),
        ("12", "std is negative, or wider than the whole scale (4): line 3 (b.jpg, 12):"),
    ],
)
def test_a_spread_that_can_be_none_is_refused(folder: Path, cell: str, said: str) -> None:
    assert said in refusal(write(folder, f"path,mos,std\na.jpg,3,0.5\nb.jpg,3,{cell}\n"))


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
    value = cell.strip('"') or "empty"
    assert f"not a number: line 3 (b.jpg, {value}):" in message


def test_missing_pictures_are_refused_by_line(folder: Path) -> None:
    names = ["a.jpg", "x.jpg", "", ".", "y" * 300, "b.jpg/c.jpg"]
    rows = "".join(f"{name},3\n" for name in names)
    message = refusal(write(folder, f"path,mos\n{rows}"))
    assert f"no such picture in {folder}" in message
    assert "line 3 (x.jpg), line 4 (empty), line 5 (.) and 2 more" in message


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
        ("path,mos,std,sd", "2 columns could be the std (std, sd)"),
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


def test_a_decimal_comma_and_a_path_from_windows_are_told_as_what_they_are(folder: Path) -> None:
    message = refusal(write(folder, "path,mos\na.jpg,3,5\nb.jpg,4,5\n"))
    assert message.endswith(
        ": write decimals with a point, and put names that hold a comma in double quotes"
    )
    message = refusal(write(folder, "path,mos\nprints\\a.jpg,3\nb.jpg,4\n"))
    assert message.endswith(": correct the name or folder, and write / for \\")
    assert refusal(write(folder, "path,mos\nx.jpg,3\n")).endswith(": correct the name or folder")


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
    assert "split is unknown: line 3 (b.jpg, dev)" in refusal(
        write(folder, text.format("dev", "x"))
    )
    assert "split is unknown: line 3 (b.jpg, empty)" in refusal(write(folder, text.format("", "x")))
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


Shot = tuple[bytes, str, str]
"""A picture's content, split and cluster."""


def shots(folder: Path, *rows: Shot) -> Labels:
    """One picture a row, each under a name of its own, after two that differ in all."""
    rows = ((b"first", "train", ""), (b"the second", "train", ""), *rows)
    paths = tuple(folder / f"{index}.jpg" for index in range(len(rows)))
    for path, (content, _, _) in zip(paths, rows, strict=True):
        path.write_bytes(content)
    mos = tuple(1.0 + 4 * (index % 2) for index in range(len(rows)))
    _, split, cluster = zip(*rows, strict=True)
    return Labels(paths, mos, split=split, cluster=cluster)


def test_copies_of_a_picture_in_two_splits_cannot_be_learnt_from(tmp_path: Path) -> None:
    labels = shots(tmp_path, (b"same", "train", ""), (b"else", "val", ""), (b"same", "test", ""))
    with pytest.raises(LabelsError) as caught:
        check_learnable(labels, minimum=2)
    folder = tmp_path.name
    named = f"same picture is in two splits: {folder}/2.jpg (train) is {folder}/4.jpg (test):"
    assert named in str(caught.value).replace("\\", "/")
    assert "3.jpg" not in str(caught.value)


def test_many_copies_are_listed_in_part(tmp_path: Path) -> None:
    rows = [(bytes([k]), split, "") for k in range(5) for split in ("train", "val")]
    with pytest.raises(LabelsError, match=r"is in two splits: .* and 2 more: keep one"):
        check_learnable(shots(tmp_path, *rows), minimum=2)


def test_copies_inside_a_split_and_near_duplicates_across_are_learnt_from(tmp_path: Path) -> None:
    check_learnable(
        shots(tmp_path, *[(b"same", "train", "")] * 2, *[(b"also", "test", "")] * 2), minimum=2
    )
    check_learnable(shots(tmp_path, (b"shot", "train", "A"), (b"next", "test", "A")), minimum=2)
    check_learnable(shots(tmp_path, (b"same", "train", "A"), (b"same", "test", "A")), minimum=2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"cc", b"dd"]),
            st.sampled_from(["train", "val", "test"]),
            st.sampled_from(["", "A", "B"]),
        ),
        max_size=7,
    )
)
def test_what_is_learnt_from_is_never_measured_on(rows: list[Shot]) -> None:
    """Either the labels are refused, or no held-out picture has a copy outside the test split."""
    with tempfile.TemporaryDirectory() as name:
        labels = shots(Path(name), *rows, (b"an own", "test", ""))
        apart = all(one[1] == two[1] or one[0] != two[0] for one in rows for two in rows)
        try:
            check_learnable(labels, minimum=2)
        except LabelsError:
            assert not apart
            return
        assert labels.split is not None
        contents = [path.read_bytes() for path in labels.paths]
        learnt = {c for c, split in zip(contents, labels.split, strict=True) if split != "test"}
        assert not learnt & {contents[index] for index in held_out(labels)}


def test_a_picture_that_went_away_before_learning_is_named(tmp_path: Path) -> None:
    labels = shots(tmp_path, (b"same", "train", ""), (b"else", "test", ""))
    labels.paths[3].unlink()
    with pytest.raises(LabelsError, match=r"3\.jpg cannot be read \(No such file") as caught:
        check_learnable(labels, minimum=2)
    assert isinstance(caught.value.__cause__, OSError)
