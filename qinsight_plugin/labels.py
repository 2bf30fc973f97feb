"""Human ratings: a CSV file -> `Labels` on the MOS scale, 1 (bad) to 5 (excellent).

The scale of the ratings is never guessed: numbers from 1 to 5 may be marks out of 5, of 10 or of
100. Whoever made the labels says which; what contradicts them is an error.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.scales import check_scale, numbers, to_mos
from qinsight_plugin.tables import (
    Layout,
    Table,
    find_pictures,
    first_few,
    picture_folder,
    read_split,
    read_table,
    short_name,
)

_MIN_DEVIATION = 0.05

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
    ratings = numbers(table, "rating")
    scale = check_scale(table, ratings, scale)
    group = table.column("group")
    if group is not None:
        table.refuse([not name for name in group], "the group is empty", "name one, or drop it")
    return Labels(
        paths,
        mos=tuple(to_mos(rating, scale) for rating in ratings),
        split=read_split(table),
        group=group,
        cluster=table.column("cluster"),
        std=_read_std(table, scale[1] - scale[0]),
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


def draw_apart(
    rows: Sequence[frozenset[Hashable]],
    share: float,
    seed: str,
    sides: MutableMapping[Hashable, bool],
) -> None:
    """Draw what is held back so that no picture is on both sides.

    A row of one picture or cluster is held back with it. A pair can be only where both its pictures
    are, and where one is, it belongs to neither side; few do where pairs share few pictures.

    Args:
        rows: the pictures or clusters of each.
        share: about so many of the rows come to be held back.
        seed: the same draw for the same one.
        sides: whether each picture or cluster is held back; what it knows stays, and the rest is
            added.
    """
    count = Counter(rows)
    groups = list(count)
    having: defaultdict[Hashable, list[frozenset[Hashable]]] = defaultdict(list)
    for group in groups:
        for key in group:
            having[key].append(group)
    random.Random(seed).shuffle(groups)
    wanted = share * len(rows)
    held = sum(n for group, n in count.items() if all(sides.get(key) for key in group))
    for group in groups:
        new = {key for key in group if key not in sides}
        # What would be held back whole, were these.
        more = {other for key in new for other in having[key]} if held < wanted else ()
        gain = sum(count[one] for one in more if all(sides.get(key, key in new) for key in one))
        chosen = gain > 0 and held + gain / 2 <= wanted
        sides.update(dict.fromkeys(new, chosen))
        held += gain if chosen else 0


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


def _read_std(table: Table, width: float) -> tuple[float, ...] | None:
    if table.column("std") is None:
        return None
    values = numbers(table, "std")
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
    if found := copies_across(paths, splits, clusters):
        raise LabelsError(
            f"labels: the same picture is in two splits: {first_few(found)}: "
            "keep one, or give them one dup_group"
        )


def copies_across(
    paths: Sequence[Path], splits: Sequence[str], clusters: Sequence[str]
) -> list[str]:
    """Pictures that are, byte for byte, in two splits, and not known to be of one cluster: a line
    on each. Only files of equal size are read.

    Raises:
        LabelsError: a picture cannot be read.
    """
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
    return found


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
