"""Judgements in Label Studio's JSON, both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from qinsight_plugin.errors import LabelsError
from qinsight_plugin.feedback.judgements import Judgement
from qinsight_plugin.feedback.questions import Kind
from qinsight_plugin.scales import to_mos
from qinsight_plugin.tables import first_few, shown


def from_label_studio(
    source: Path, folder: Path, scale: tuple[float, float] | None
) -> Iterable[Judgement]:
    """Its JSON export: results of the tags Rating (`rating`) and Pairwise (`pairwise`).

    Raises:
        LabelsError: it is no such export, or names no picture in the folder, or a rating is off
            the scale.
    """
    try:
        tasks = json.loads(source.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelsError(f"labels {source}: cannot be read as JSON ({error})") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise LabelsError(f"labels {source}: not a list of tasks: export from Label Studio as JSON")
    order = 0
    missing = []
    for task in tasks:
        data = task.get("data") or {}
        for annotation in task.get("annotations") or []:
            if annotation.get("was_cancelled"):
                continue
            for result in annotation.get("result") or []:
                found = _result(result, data, folder, scale, source)
                if found is None:
                    continue
                kind, pictures, value = found
                missing += [p for p in pictures if not (folder / p).is_file()]
                order += 1
                yield Judgement(
                    _who(annotation.get("completed_by")),
                    kind,
                    pictures,
                    value,
                    seconds=float(annotation.get("lead_time") or math.nan),
                    order=order,
                )
    if missing:
        raise LabelsError(
            f"labels {source}: there is no such picture in {folder}: "
            f"{first_few([shown(path) for path in dict.fromkeys(missing)])}: give --images"
        )
    if not order:
        raise LabelsError(f"labels {source}: no result of type rating or pairwise is in it")


def _result(
    result: Mapping[str, Any],
    data: Mapping[str, Any],
    folder: Path,
    scale: tuple[float, float] | None,
    source: Path,
) -> tuple[Kind, tuple[str, ...], Any] | None:
    value = result.get("value") or {}
    names = [str(one) for one in data.values() if isinstance(one, str)]
    if result.get("type") == "rating" and names:
        if scale is None:
            raise LabelsError(f"labels {source}: give the scale of its ratings, as in --scale 1:5")
        rating = value.get("rating")
        if not isinstance(rating, (int, float)) or not scale[0] <= rating <= scale[1]:
            raise LabelsError(f"labels {source}: the rating {rating!r} is not of {scale}")
        return "rating", (_local(names[0], folder),), to_mos(rating, scale)
    if result.get("type") == "pairwise" and len(names) >= 2:
        side = value.get("selected")
        if side not in ("left", "right"):
            raise LabelsError(f"labels {source}: the side {side!r} is neither left nor right")
        return "pair", (_local(names[0], folder), _local(names[1], folder)), side
    return None


def _who(completed_by: Any) -> str:
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return str(completed_by) if completed_by is not None else "unknown"


def _local(address: str, folder: Path) -> str:
    """The picture's path from the folder: its address there, else its name only.

    Local storage writes `/data/local-files/?d=FOLDER/NAME`; an upload gets 8 characters before its
    name.
    """
    path = unquote(address.partition("?d=")[2] or address.partition("?")[0])
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    tails = ["/".join(parts[k:]) for k in range(len(parts))]
    uploaded = parts[-1][9:] if parts and parts[-1][8:9] == "-" else ""
    for tail in (*tails, uploaded):
        if tail and (folder / tail).is_file():
            return tail
    return tails[-1] if tails else address


def to_label_studio(judgements: Sequence[Judgement], folder: str) -> str:
    """Ratings and pairs as tasks with annotations, which Label Studio imports.

    Args:
        folder: how its local storage calls the folder of the pictures.
    """
    tasks: dict[tuple[str, ...], list[Judgement]] = {}
    for one in judgements:
        if one.kind in ("rating", "pair") and one.role != "golden" and one.value != "same":
            tasks.setdefault(one.pictures, []).append(one)
    return json.dumps([_task(pictures, own, folder) for pictures, own in tasks.items()], indent=1)


def _task(pictures: tuple[str, ...], own: Sequence[Judgement], folder: str) -> dict[str, Any]:
    places = [f"/data/local-files/?d={folder}/{path}" for path in pictures]
    keys = ("image",) if len(pictures) == 1 else ("left", "right")
    annotations = []
    for one in own:
        if one.kind == "rating":
            result = {"from_name": "quality", "to_name": "image", "type": "rating"}
            value: dict[str, Any] = {"rating": one.value}
        else:
            result = {"from_name": "better", "to_name": "left", "type": "pairwise"}
            value = {"selected": one.value}
        seconds = None if math.isnan(one.seconds) else one.seconds
        annotations.append(
            {
                "completed_by": {"email": one.rater},
                "lead_time": seconds,
                "result": [{**result, "value": value}],
            }
        )
    return {"data": dict(zip(keys, places, strict=True)), "annotations": annotations}
