"""What the options of `qinsight label` ask for, as a study."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.feedback.adjustments import ADJUSTMENTS, adjustment
from qinsight_plugin.feedback.study import Block, Golden, Study
from qinsight_plugin.labels import read_labels
from qinsight_plugin.pairs import is_pairs, read_pairs
from qinsight_plugin.records import DISTORTIONS


def study_of(
    folder: Path,
    golden: Path | None,
    *,
    people: int,
    ratings: int | None,
    pairs: int,
    best: int,
    set_size: int,
    severities: Sequence[str],
    adjusts: Sequence[str],
    **rest: Any,
) -> Study:
    blocks = [severity_block(text) for text in severities] + [adjust_block(t) for t in adjusts]
    if ratings is None:
        ratings = 0 if pairs or best or blocks else 100
    first = [Block("rating", ratings), Block("pair", pairs), Block("best", best)]
    blocks = [block for block in (*first, *blocks) if block.count]
    if not blocks:
        raise click.UsageError("nothing is asked: give --ratings, --pairs or another number")
    # Five comparisons or more of each picture, or the scale would hang by threads.
    compared = min(200, max(10, ratings, 2 * pairs * people // 5))
    known = golden_of(golden, folder) if golden else []
    return Study(blocks, known, set_size=set_size, compared=compared, **rest)


def number_of(option: str, text: str) -> tuple[str, int]:
    name, equals, count = text.rpartition("=")
    if not equals or not count.isdecimal():
        raise click.UsageError(f"{option} {text}: write it as NAME=N, such as blur=20")
    return name, int(count)


def severity_block(text: str) -> Block:
    name, count = number_of("--severity", text)
    if name not in DISTORTIONS:
        raise click.UsageError(f"--severity {name}: not one of {', '.join(DISTORTIONS)}")
    return Block("severity", count, {"distortion": name})


def adjust_block(text: str) -> Block:
    name, count = number_of("--adjust", text)
    parts = name.rsplit(":", 2)
    numbers: tuple[float, ...] = ()
    if len(parts) == 3:
        with suppress(ValueError):
            numbers, name = (float(parts[1]), float(parts[2])), parts[0]
    if not numbers and name in ADJUSTMENTS:
        numbers = ADJUSTMENTS[name][1:]
    if not numbers or not numbers[0] < numbers[1]:
        raise click.UsageError(f"--adjust {text}: give its range, as in gamma:apply:0.5:2=10")
    adjustment(name)
    low, high = numbers
    label = name.rpartition(":")[2]
    about = {"parameter": name, "label": label, "low": low, "high": high}
    return Block("adjust", count, about | {"start": (low + high) / 2})


def golden_of(path: Path, folder: Path) -> list[Golden]:
    if is_pairs(path):
        pairs = read_pairs(path, images=folder)
        names = [inside(one, folder) for one in pairs.paths]
        sides = {1.0: "left", 0.5: "same", 0.0: "right"}
        rows = zip(pairs.a, pairs.b, pairs.preference, strict=True)
        return [Golden("pair", (names[a], names[b]), sides[better]) for a, b, better in rows]
    labels = read_labels(path, images=folder, scale=(1, 5))
    rated = zip(labels.paths, labels.mos, strict=True)
    return [Golden("rating", (inside(one, folder),), mos) for one, mos in rated]


def inside(path: Path, folder: Path) -> str:
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError as error:
        raise ConfigError(f"{path} is not in {folder}: only what lies there is shown") from error
