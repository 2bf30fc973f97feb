"""Human ratings: a CSV file -> `Labels` on the MOS scale, 1 (bad) to 5 (excellent).

The scale of the ratings is never guessed: numbers from 1 to 5 may be marks out of 5, of 10 or of
100. Whoever made the labels says which; what contradicts them is an error.
"""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qinsight_plugin.errors import ConfigError, LabelsError

_COLUMNS = {
    "file": ("path", "filename", "image", "name"),
    "rating": ("mos", "score", "rating"),
    "split": ("split",),
    "group": ("group",),
    "cluster": ("dup_group",),
}
_SPLITS = ("train", "val", "test")
_CUSTOMARY_SCALES = ((0.0, 1.0), (1.0, 5.0), (0.0, 5.0), (0.0, 10.0))
_MIN_DEVIATION = 0.05


@dataclass(frozen=True, slots=True)
class Labels:
    """Rated pictures; item i of every tuple is about picture i. An absent column is None.

    Attributes:
        paths: the picture files.
        mos: their ratings on 1 (bad) to 5 (excellent).
        split: "train", "val" or "test".
        group: the subset in whose name figures are reported separately.
        cluster: pictures of one cluster are near-duplicates; "" is a picture of no cluster.
    """

    paths: tuple[Path, ...]
    mos: tuple[float, ...]
    split: tuple[str, ...] | None = None
    group: tuple[str, ...] | None = None
    cluster: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: Mapping[str, str]


def read_labels(
    csv_path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    scale: tuple[float, float] | None = None,
) -> Labels:
    """Read a CSV file of ratings and map them linearly from `scale` to 1..5.

    The file is comma-separated UTF-8, with or without a byte-order mark. Its first line names the
    columns, in any case and order: the picture (`path`, `filename`, `image` or `name`), its rating
    (`mos`, `score` or `rating`; more is better), and if wanted `split` (train, val or test),
    `group` and `dup_group` (may be left empty). Other columns and blank lines are ignored.

    Args:
        csv_path: the label file.
        images: the folder that relative picture paths start from; None: the label file's own.
        scale: the lowest and the highest rating that a rater could give. Must be stated; None is
            answered by an error that shows the ratings seen. Refused, too, is a scale at least
            ten times as wide as a customary one (0:1, 1:5, 0:5, 0:10) that holds every rating:
            ratings of 1.3 to 4.8 were not given on 0:100.

    Raises:
        ConfigError: `images` is not a folder, or `scale` is not two rising numbers.
        LabelsError: the file cannot be read, is not such a CSV file, or has rows whose picture is
            missing or named twice, or whose rating is not a number of the scale.
    """
    source = Path(csv_path)
    folder = source.parent if images is None else Path(images)
    if images is not None and not folder.is_dir():
        raise ConfigError(f"images {folder}: not a folder: name the one that holds the pictures")
    if scale is not None and not (scale[0] < scale[1] and math.isfinite(scale[1] - scale[0])):
        raise ConfigError(
            f"scale {scale[0]:g}:{scale[1]:g}: not a lowest and a highest rating: "
            "write the lowest first, as in 0:100"
        )
    rows = _read_rows(source)
    paths = _find_pictures(source, rows, folder)
    mos = _to_mos(source, rows, scale)
    split, group, cluster = (_column(rows, name) for name in ("split", "group", "cluster"))
    if split is not None:
        split = tuple(value.lower() for value in split)
        wrong = [row for row, value in zip(rows, split, strict=True) if value not in _SPLITS]
        _refuse(source, wrong, "the split is unknown", "write train, val or test")
    if group is not None:
        unnamed = [row for row, value in zip(rows, group, strict=True) if not value]
        _refuse(source, unnamed, "the group is empty", "name one, or drop the column")
    return Labels(paths, mos, split, group, cluster)


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

    Raises:
        LabelsError: fewer than `minimum` pictures, or ratings that hardly differ (standard
            deviation under 0.05 on 1..5: less than raters disagree about any one picture).
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


def _read_rows(source: Path) -> list[_Row]:
    records = _parse(source, _read_text(source))
    if len(records) < 2:
        raise LabelsError(f"labels {source}: no rows: give a header and one line a picture")
    (_, header), *body = records
    columns = _find_columns(source, header)
    rows = [
        _Row(line, {role: cells[at] for role, at in columns.items() if at < len(cells)})
        for line, cells in body
    ]
    ragged = [row for row, (_, cells) in zip(rows, body, strict=True) if len(cells) != len(header)]
    _refuse(
        source,
        ragged,
        f"the number of cells is not the header's {len(header)}",
        "put names that hold a comma in double quotes",
    )
    return rows


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
    """Split into (line on which it starts, cells), without blank lines."""
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


def _find_columns(source: Path, header: Sequence[str]) -> dict[str, int]:
    found = {}
    shown = ", ".join(_shown(name) for name in header[:12]) + (", ..." if len(header) > 12 else "")
    for role, names in _COLUMNS.items():
        hits = [index for index, name in enumerate(header) if name.lower() in names]
        if len(hits) > 1:
            raise LabelsError(
                f"labels {source}: {len(hits)} columns could be the {role} "
                f"({', '.join(header[index] for index in hits)}): keep one"
            )
        if hits:
            found[role] = hits[0]
        elif role in ("file", "rating"):
            raise LabelsError(
                f"labels {source}: no column for the {role} (found: {shown}): "
                f"name one {', '.join(names[:-1])} or {names[-1]}, and separate them by commas"
            )
    return found


def _find_pictures(source: Path, rows: Sequence[_Row], folder: Path) -> tuple[Path, ...]:
    paths = tuple(folder / row.cells["file"] for row in rows)
    missing = [row for row, path in zip(rows, paths, strict=True) if not _is_file(path)]
    _refuse(source, missing, f"there is no such picture in {folder}", "correct the name or folder")
    seen: set[Path] = set()
    repeated = []
    for row, path in zip(rows, paths, strict=True):
        resolved = path.resolve()
        if resolved in seen:
            repeated.append(row)
        seen.add(resolved)
    _refuse(source, repeated, "the picture was named before", "keep one rating a picture")
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the system, or a folder closed to us
        return False


def _to_mos(
    source: Path, rows: Sequence[_Row], scale: tuple[float, float] | None
) -> tuple[float, ...]:
    ratings = [_number(row.cells["rating"]) for row in rows]
    unread = [row for row, value in zip(rows, ratings, strict=True) if not math.isfinite(value)]
    _refuse(source, unread, "the rating is not a number", "write one, with a decimal point")
    span = f"ratings run from {min(ratings):g} to {max(ratings):g}"
    if scale is None:
        raise LabelsError(
            f"labels {source}: {span}, but on which scale is not stated: give the lowest and the "
            "highest possible rating, as in --scale 1:5 (scale=(1, 5) in Python)"
        )
    low, high = scale
    outside = [row for row, value in zip(rows, ratings, strict=True) if not low <= value <= high]
    _refuse(source, outside, f"the rating is outside {low:g}:{high:g} ({span})", "correct either")
    for bottom, top in _CUSTOMARY_SCALES:
        fits = bottom <= min(ratings) and max(ratings) <= top
        if fits and high - low >= 10 * (top - bottom):
            raise LabelsError(
                f"labels {source}: {span}, which is hardly the stated scale {low:g}:{high:g}: "
                f"if they were given on {bottom:g}:{top:g}, state that"
            )
    return tuple(1 + 4 * (value - low) / (high - low) for value in ratings)


def _number(text: str) -> float:
    """A finite number, or NaN; `float` alone would read the slip "3_5" as 35."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _column(rows: Sequence[_Row], role: str) -> tuple[str, ...] | None:
    return tuple(row.cells[role] for row in rows) if role in rows[0].cells else None


def _refuse(source: Path, rows: Sequence[_Row], problem: str, advice: str) -> None:
    """Raise if there are any such rows."""
    if not rows:
        return
    named = [f"line {row.line} ({_shown(row.cells.get('file', ''))})" for row in rows[:3]]
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    raise LabelsError(f"labels {source}: {problem}: {', '.join(named)}{more}: {advice}")


def _shown(text: str) -> str:
    """Fit for a one-line message: no line breaks or control characters, 60 characters at most."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 60 else f"{text[:57]}..."
