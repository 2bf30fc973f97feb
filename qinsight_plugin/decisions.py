"""Pictures that a site accepted or rejected: the examples that a threshold is found from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.labels import copies_across, read_labels
from qinsight_plugin.scales import to_mos
from qinsight_plugin.tables import (
    Layout,
    find_pictures,
    first_few,
    picture_folder,
    read_records,
    read_table,
)

DECISIONS = Layout(
    names={
        "file": ("path", "filename", "image", "name"),
        "label": ("label", "decision", "verdict", "accepted"),
    },
    needed=("file", "label"),
    pictures=("file",),
)
_ACCEPTED = ("accepted", "accept", "good", "keep", "yes", "true", "1")
_REJECTED = ("rejected", "reject", "bad", "drop", "no", "false", "0")


@dataclass(frozen=True, slots=True)
class Decisions:
    """Item i of both is about picture i."""

    paths: tuple[Path, ...]
    accepted: tuple[bool, ...]


def decisions_of(accepted: Sequence[Path], rejected: Sequence[Path]) -> Decisions:
    """Of two lists of pictures.

    Raises:
        LabelsError: a picture is in both, by its place or byte for byte.
    """
    decided = (True,) * len(accepted) + (False,) * len(rejected)
    return require_distinct(Decisions((*accepted, *rejected), decided))


def read_decisions(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    scale: tuple[float, float] | None = None,
    accept_from: float | None = None,
) -> Decisions:
    """Read a table (.csv, .jsonl or .parquet) of pictures with a label, or with ratings.

    Args:
        path: has a column `path` (or filename, image, name), and either `label` (or decision,
            verdict, accepted), whose words are accepted, accept, good, keep, yes, true or 1, and
            their opposites; or `mos`, as for `read_labels`.
        images: the folder that relative picture paths start from; None: the table's own.
        scale: of the ratings; see `read_labels`.
        accept_from: the lowest rating, on that scale, of a picture that ought to be accepted.

    Raises:
        ConfigError: ratings without `accept_from`, or that outside the scale.
        LabelsError: the table cannot be read, a label is none of these words, or a picture is
            both accepted and rejected.
    """
    source = Path(path)
    _, header = read_records(source)[0]
    if DECISIONS.fits(header):
        table = read_table(source, DECISIONS)
        words = [word.lower() for word in table.cells("label")]
        table.refuse(
            [word not in (*_ACCEPTED, *_REJECTED) for word in words],
            "the label is unknown",
            "write accepted or rejected",
            show=("file", "label"),
        )
        paths = find_pictures(table, "file", picture_folder(source, images))
        return require_distinct(Decisions(paths, tuple(word in _ACCEPTED for word in words)))
    labels = read_labels(source, images=images, scale=scale)
    if accept_from is None or scale is None or not scale[0] <= accept_from <= scale[1]:
        raise ConfigError(
            f"{source} holds ratings: say from which of them on a picture is to be accepted, as in "
            "--accept-from 3.5, on their own scale"
        )
    least = to_mos(accept_from, scale)
    return require_distinct(Decisions(labels.paths, tuple(mos >= least for mos in labels.mos)))


def require_distinct(decisions: Decisions) -> Decisions:
    kinds = ["accepted" if accepted else "rejected" for accepted in decisions.accepted]
    unclustered = [""] * len(kinds)
    if found := copies_across(decisions.paths, kinds, unclustered):
        raise LabelsError(
            f"examples: the same picture was accepted and rejected: {first_few(found)}: decide "
            "which it is"
        )
    return decisions
