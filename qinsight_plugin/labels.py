"""Human ratings: a CSV file -> `Labels` on the MOS scale, 1 (bad) to 5 (excellent).

The scale of the ratings is never guessed: numbers from 1 to 5 may be marks out of 5, of 10 or of
100. Whoever made the labels says which; what contradicts them is an error.

What reads and refuses rows of any kind (`Layout`, `Table` and the functions at the end) serves
`pairs` too.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qinsight_plugin.errors import ConfigError, LabelsError

_SPLITS = ("train", "val", "test")
_CUSTOMARY_SCALES = ((0.0, 1.0), (1.0, 5.0), (0.0, 5.0), (0.0, 10.0))
_MIN_DEVIATION = 0.05


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one kind of label file.

    Attributes:
        names: by a column's role, the headers that it goes by, in lower case.
        needed: the roles without which there is nothing to read.
        pictures: the roles whose cells name a picture.
    """

    names: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...]
    pictures: tuple[str, ...]

    def fits(self, header: Iterable[str]) -> bool:
        """Whether the header has every needed column."""
        present = {name.lower() for name in header}
        return all(present.intersection(self.names[role]) for role in self.needed)


RATINGS = Layout(
    names={
        "file": ("path", "filename", "image", "name"),
        "rating": ("mos", "score", "rating"),
        "std": ("std", "sd", "mos_std"),
        "split": ("split",),
        "group": ("group",),
        "cluster": ("dup_group",),
    },
    needed=("file", "rating"),
    pictures=("file",),
)


@dataclass(frozen=True, slots=True)
class Labels:
    """Rated pictures; item i of every tuple is about picture i. An absent column is None.

    Attributes:
        paths: the picture files.
        mos: their ratings on 1 (bad) to 5 (excellent).
        split: "train", "val" or "test".
        group: the subset in whose name figures are reported separately.
        cluster: pictures of one cluster are near-duplicates; "" is a picture of no cluster.
        std: standard deviation of the opinions behind each rating (the raters', or the spread
            that a teacher model states), in MOS units, 0 or more.
    """

    paths: tuple[Path, ...]
    mos: tuple[float, ...]
    split: tuple[str, ...] | None = None
    group: tuple[str, ...] | None = None
    cluster: tuple[str, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a label file: the line on which it starts, from 1, and its cells by role."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A label file of at least one row."""

    source: Path
    layout: Layout
    rows: tuple[Row, ...]

    def cells(self, role: str) -> tuple[str, ...]:
        """The cells of a column that is there."""
        return tuple(row.cells[role] for row in self.rows)

    def column(self, role: str) -> tuple[str, ...] | None:
        """The cells of a column, or None if there is none of that role."""
        return self.cells(role) if role in self.rows[0].cells else None

    def error(
        self, rows: Sequence[Row], problem: str, advice: str, show: Sequence[str] = ()
    ) -> LabelsError:
        """An error that lists the first three of the rows: line, and cells of the roles `show`.

        No roles stand for those that name pictures.
        """
        listed = []
        for row in rows:
            cells = [row.cells.get(role, "") for role in show or self.layout.pictures]
            listed.append(
                f"line {row.line} ({', '.join(shown(cell) or 'empty' for cell in cells)})"
            )
        return LabelsError(f"labels {self.source}: {problem}: {first_few(listed)}: {advice}")

    def refuse(
        self, wrong: Iterable[bool], problem: str, advice: str, show: Sequence[str] = ()
    ) -> None:
        """Raise `error` if any row is wrong; `wrong` says of every row whether it is.

        Raises:
            LabelsError: a row is wrong.
        """
        rows = [row for row, is_wrong in zip(self.rows, wrong, strict=True) if is_wrong]
        if rows:
            raise self.error(rows, problem, advice, show)


def read_labels(
    csv_path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    scale: tuple[float, float] | None = None,
) -> Labels:
    """Read a CSV file of ratings and map them linearly from `scale` to 1..5.

    The file is comma-separated UTF-8, with or without a byte-order mark. Its first line names the
    columns, in any case and order: the picture (`path`, `filename`, `image` or `name`), its rating
    (`mos`, `score` or `rating`; more is better), and if wanted the standard deviation of the
    opinions behind it, in units of `scale` (`std`, `sd` or `mos_std`), `split` (train, val or
    test), `group` and `dup_group` (may be left empty). Other columns and blank lines are ignored.

    Args:
        csv_path: the label file.
        images: the folder that relative picture paths start from; None: the label file's own.
        scale: the lowest and the highest rating that a rater could give. Must be stated; None is
            answered by an error that shows the ratings seen. Refused, too, is a scale at least
            ten times as wide as a customary one (0:1, 1:5, 0:5, 0:10) that holds every rating:
            ratings of 1.3 to 4.8 were not given on 0:100. And if it holds not all but a cluster
            of them, far below all others, two scales were mixed. Mixed scales whose ratings run
            into one another cannot be told from one.

    Raises:
        ConfigError: `images` is not a folder, or `scale` is not two rising numbers.
        LabelsError: the file cannot be read, is not such a CSV file, or has rows whose picture is
            missing or named twice, or whose rating is not a number of the scale.
    """
    source = Path(csv_path)
    folder = picture_folder(source, images)
    if scale is not None and not (scale[0] < scale[1] and math.isfinite(scale[1] - scale[0])):
        raise ConfigError(
            f"scale {scale[0]:g}:{scale[1]:g}: not a lowest and a highest rating: "
            "write the lowest first, as in 0:100"
        )
    table = read_table(source, RATINGS)
    paths = find_pictures(table, "file", folder)
    _refuse_repeated(table, paths)
    ratings = _numbers(table, "rating")
    low, high = _check_scale(table, ratings, scale)
    group = table.column("group")
    if group is not None:
        table.refuse([not name for name in group], "the group is empty", "name one, or drop it")
    return Labels(
        paths,
        mos=tuple(1 + 4 * (rating - low) / (high - low) for rating in ratings),
        split=read_split(table),
        group=group,
        cluster=table.column("cluster"),
        std=_read_std(table, high - low),
    )


def held_out(labels: Labels, *, deduplicate: bool = True) -> tuple[int, ...]:
    """Indices of the test pictures on which a model may honestly be measured.

    Args:
        labels: must have a split.
        deduplicate: leave out test pictures with a near-duplicate in train or val: a model has
            been fitted to, or picked by, all but the same picture. Without a `dup_group` column
            no near-duplicates are known and none are left out.

    Raises:
        LabelsError: there is no split, or no test picture remains.
    """
    if labels.split is None:
        raise LabelsError("held-out pictures: the labels have no split: add a column 'split'")
    clusters = labels.cluster if deduplicate and labels.cluster else ("",) * len(labels.split)
    placed = list(zip(labels.split, clusters, strict=True))
    seen = {cluster for split, cluster in placed if split != "test"} - {""}
    tests = [index for index, (split, _) in enumerate(placed) if split == "test"]
    kept = tuple(index for index in tests if clusters[index] not in seen)
    if not kept:
        raise LabelsError(
            f"held-out pictures: none left of {len(tests)} in split 'test' after leaving out "
            "near-duplicates of train and val: put other pictures in test"
        )
    return kept


def check_learnable(labels: Labels, *, minimum: int = 50) -> None:
    """Check that there is something to learn from: the train pictures, or all without a split.

    Copies of one picture, byte for byte, in two splits are refused, since what is learnt by heart
    would pass for skill; unless they share a `dup_group`, for then `held_out` leaves them out, as
    it does near-duplicates. Only files of equal size are read. Copies inside a split are welcome:
    ratings that differ between them are what raters disagree about.

    Raises:
        LabelsError: fewer than `minimum` pictures; ratings that hardly differ (standard deviation
            under 0.05 on 1..5: less than raters disagree about any one picture); the same picture
            in two splits; or a picture that can no longer be read.
    """
    splits = labels.split or ("train",) * len(labels.mos)
    mos = [value for value, split in zip(labels.mos, splits, strict=True) if split == "train"]
    if len(mos) < minimum:
        raise LabelsError(
            f"labels: {len(mos)} pictures to learn from, {minimum} are the least: rate more"
        )
    deviation = statistics.pstdev(mos) if mos else 0.0
    if deviation < _MIN_DEVIATION:
        raise LabelsError(
            f"labels: the ratings hardly differ (standard deviation {deviation:.3g} on 1..5), so "
            "there is nothing to learn: add better and worse pictures"
        )
    if labels.split is not None:
        clusters = labels.cluster or ("",) * len(labels.mos)
        _refuse_copies_across(labels.paths, labels.split, clusters)


def _refuse_repeated(table: Table, paths: Sequence[Path]) -> None:
    first: dict[Path, int] = {}
    repeated = [first.setdefault(path.resolve(), i) != i for i, path in enumerate(paths)]
    table.refuse(repeated, "the picture was named before", "keep one rating a picture")


def _numbers(table: Table, role: str) -> tuple[float, ...]:
    values = tuple(_number(cell) for cell in table.cells(role))
    table.refuse(
        [not math.isfinite(value) for value in values],
        f"the {role} is not a number",
        "write one, with a decimal point",
        show=("file", role),
    )
    return values


def _number(text: str) -> float:
    """A finite number, or NaN; `float` alone would read the slip "3_5" as 35."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _check_scale(
    table: Table, ratings: Sequence[float], scale: tuple[float, float] | None
) -> tuple[float, float]:
    """The scale, if the ratings can be of it."""
    show = ("file", "rating")
    span = f"ratings run from {min(ratings):g} to {max(ratings):g}"
    if scale is None:
        raise table.error(
            table.rows,
            f"{span}, but on which scale is not stated",
            "give the lowest and the highest possible rating, as in --scale 1:5 "
            "(scale=(1, 5) in Python)",
            show,
        )
    low, high = scale
    table.refuse(
        [not low <= rating <= high for rating in ratings],
        f"the rating is outside {low:g}:{high:g} ({span})",
        "correct the ratings or the scale; a column has one scale",
        show,
    )
    for bottom, top in _CUSTOMARY_SCALES:
        if high - low < 10 * (top - bottom):
            continue
        inner = [bottom <= rating <= top for rating in ratings]
        if all(inner):
            raise table.error(
                table.rows,
                f"{span}, which is hardly the stated scale {low:g}:{high:g}",
                f"if they were given on {bottom:g}:{top:g}, state that",
                show,
            )
        if _is_cluster(ratings, inner, (top - bottom) / 4, (high - low) / 5):
            count = sum(inner)
            fewer = count <= len(inner) / 2
            table.refuse(
                [is_inner == fewer for is_inner in inner],
                f"two scales in one column: {count} of {len(inner)} ratings lie within "
                f"{bottom:g}:{top:g}, the others far above ({span})",
                f"bring all to {low:g}:{high:g}",
                show,
            )
    return scale


def _is_cluster(ratings: Sequence[float], inner: Sequence[bool], spread: float, gap: float) -> bool:
    """Whether the inner ratings look like a scale of their own under that of the others.

    That is three or more, which differ by `spread` or more (a lone value, as the 0 of ratings
    that are all 0 or 100, makes no scale), and a stretch of `gap` without a rating above them.
    """
    within = [rating for rating, is_inner in zip(ratings, inner, strict=True) if is_inner]
    others = [rating for rating, is_inner in zip(ratings, inner, strict=True) if not is_inner]
    return (
        len(within) >= 3
        and max(within) - min(within) >= spread
        and min(others) - max(within) >= gap
    )


def _read_std(table: Table, width: float) -> tuple[float, ...] | None:
    if table.column("std") is None:
        return None
    values = _numbers(table, "std")
    table.refuse(
        [not 0 <= value <= width for value in values],
        f"the std is negative, or wider than the whole scale ({width:g})",
        "write it in units of the ratings' scale",
        show=("file", "std"),
    )
    return tuple(4 * value / width for value in values)


def _refuse_copies_across(
    paths: Sequence[Path], splits: Sequence[str], clusters: Sequence[str]
) -> None:
    found = []
    for same_size in _grouped(range(len(paths)), lambda i: _size(paths[i])):
        if len({splits[i] for i in same_size}) < 2:
            continue
        for first, *others in _grouped(same_size, lambda i: _digest(paths[i])):
            other = next((i for i in others if splits[i] != splits[first]), None)
            known_as = {clusters[i] for i in (first, *others)}
            if other is not None and (len(known_as) > 1 or "" in known_as):
                found.append(
                    f"{short_name(paths[first])} ({splits[first]}) is "
                    f"{short_name(paths[other])} ({splits[other]})"
                )
    if found:
        raise LabelsError(
            f"labels: the same picture is in two splits: {first_few(found)}: "
            "keep one, or give them one dup_group"
        )


def _grouped(items: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> LabelsError:
    return LabelsError(
        f"labels: picture {short_name(path)} cannot be read ({error.strerror}): restore it"
    )


def read_split(table: Table) -> tuple[str, ...] | None:
    """The split of every row, in lower case, or None without such a column.

    Raises:
        LabelsError: a split is none of train, val and test.
    """
    column = table.column("split")
    if column is None:
        return None
    split = tuple(value.lower() for value in column)
    table.refuse(
        [value not in _SPLITS for value in split],
        "the split is unknown",
        "write train, val or test",
        show=(*table.layout.pictures, "split"),
    )
    return split


def picture_folder(source: Path, images: str | os.PathLike[str] | None) -> Path:
    """The folder that relative picture paths start from.

    Raises:
        ConfigError: `images` is not a folder.
    """
    folder = source.parent if images is None else Path(images)
    if images is not None and not folder.is_dir():
        raise ConfigError(f"images {folder}: not a folder: name the one that holds the pictures")
    return folder


def find_pictures(table: Table, role: str, folder: Path) -> tuple[Path, ...]:
    """The picture files that the cells of a role name.

    Raises:
        LabelsError: one is missing.
    """
    paths = tuple(folder / cell for cell in table.cells(role))
    table.refuse(
        [not _is_file(path) for path in paths],
        f"there is no such picture in {folder}",
        "correct the name or folder",
        show=(role,),
    )
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the system, or a folder closed to us
        return False


def read_table(source: Path, layout: Layout) -> Table:
    """Read a label file, each row's cells under their roles.

    Raises:
        LabelsError: the file cannot be read, is not CSV in UTF-8, has no rows, lacks a needed
            column or has two for one role, or has rows of another width than its header.
    """
    (_, header), *body = read_records(source)
    columns = _find_columns(source, header, layout)
    rows = tuple(
        Row(line, {role: cells[at] for role, at in columns.items() if at < len(cells)})
        for line, cells in body
    )
    table = Table(source, layout, rows)
    table.refuse(
        [len(cells) != len(header) for _, cells in body],
        f"the number of cells is not the header's {len(header)}",
        "put names that hold a comma in double quotes",
    )
    return table


def read_records(source: Path) -> list[tuple[int, list[str]]]:
    """The header and the rows of a CSV file: (line on which it starts, cells), none blank.

    Raises:
        LabelsError: the file cannot be read, is not CSV in UTF-8, or has no rows.
    """
    records = _parse(source, _read_text(source))
    if len(records) < 2:
        raise LabelsError(f"labels {source}: no rows: give a header and a line for each judgement")
    return records


def _read_text(source: Path) -> str:
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LabelsError(
            f"labels {source}: cannot be read ({error.strerror}): check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise LabelsError(
            f"labels {source}: not UTF-8 text (byte {error.start}): save it as UTF-8 CSV"
        ) from error
    if "\0" in text:
        raise LabelsError(f"labels {source}: binary data, not CSV: save it as UTF-8 CSV")
    return text


def _parse(source: Path, text: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    records = []
    line = 1
    try:
        for cells in reader:
            records.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelsError(
            f"labels {source}: line {line} is not CSV ({error}): check its quotes"
        ) from error
    return [(line, cells) for line, cells in records if any(cells)]


def _find_columns(source: Path, header: Sequence[str], layout: Layout) -> dict[str, int]:
    found = {}
    for role, names in layout.names.items():
        hits = [index for index, name in enumerate(header) if name.lower() in names]
        if len(hits) > 1:
            raise LabelsError(
                f"labels {source}: {len(hits)} columns could be the {role} "
                f"({', '.join(header[index] for index in hits)}): keep one"
            )
        if hits:
            found[role] = hits[0]
        elif role in layout.needed:
            raise LabelsError(
                f"labels {source}: no column for the {role} (found: {shown_header(header)}): "
                f"call one {' or '.join(names)}, and separate them by commas"
            )
    return found


def shown_header(header: Sequence[str]) -> str:
    """The first columns' names, fit for a one-line message."""
    return ", ".join(shown(name) for name in header[:12]) + (", ..." if len(header) > 12 else "")


def short_name(path: Path) -> str:
    """A picture's name and its folder's, fit for a one-line message."""
    return shown(str(Path(*path.parts[-2:])))


def first_few(items: Sequence[str]) -> str:
    """Three at most, and how many more there are."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(items[:3])}{more}"


def shown(text: str) -> str:
    """Fit for a one-line message: no line breaks or control characters, 60 characters at most."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 60 else f"{text[:57]}..."
