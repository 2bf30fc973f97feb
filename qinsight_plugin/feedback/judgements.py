"""Answers from the store, a CSV file or Label Studio -> `Judgement`s, and back to files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from qinsight_plugin.errors import ConfigError, ImageError, LabelsError
from qinsight_plugin.feedback.questions import Kind, Role, is_right
from qinsight_plugin.feedback.showing import digest_of
from qinsight_plugin.feedback.store import Store
from qinsight_plugin.pairs import PAIRS
from qinsight_plugin.sorting import write_into
from qinsight_plugin.tables import Layout, Table, first_few, read_records, read_table, shown

_RATER = {"rater": ("rater", "observer", "annotator", "user"), "team": ("team",)}
_FILE = ("path", "filename", "image", "name")
RATINGS = Layout(
    {**_RATER, "file": _FILE, "rating": ("rating", "mos", "score"), "seconds": ("seconds",)},
    needed=("rater", "file", "rating"),
    pictures=("file",),
)
COMPARISONS = Layout(
    {**_RATER, **{role: PAIRS.names[role] for role in PAIRS.needed}, "seconds": ("seconds",)},
    needed=("rater", *PAIRS.needed),
    pictures=PAIRS.pictures,
)
_ANSWER = PAIRS.needed[-1]
_SIDES = {"a": "left", "b": "right", "similar": "same", "tie": "same", "same": "same"}
_WORDS = {"left": "a", "right": "b", "same": "similar"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one person said once.

    Attributes:
        rater, team: who; "" is no team.
        kind, role, about: see `Question`.
        pictures: paths from the folder of pictures; a pair's left one first.
        value: as `check_answer` returns it; a rating may be any number from 1 to 5.
        seconds: that it took; NaN where unknown.
        order: when, as a number that grows.
        right: whether a golden question was answered rightly; None for others.
    """

    rater: str
    kind: Kind
    pictures: tuple[str, ...]
    value: Any
    team: str = ""
    role: Role = "main"
    about: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = math.nan
    order: float = 0.0
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class Gathered:
    """Judgements that count, practice left out.

    Attributes:
        stale: pictures whose file has changed or gone since they were judged, and how many
            judgements were about them; those are left out.
    """

    judgements: tuple[Judgement, ...]
    stale: Mapping[str, int] = field(default_factory=dict)

    def of(self, kind: Kind) -> list[Judgement]:
        return [one for one in self.judgements if one.kind == kind]


def gather(
    source: Path, *, images: Path | None = None, scale: tuple[float, float] | None = None
) -> Gathered:
    """Read a file of answers: of `qinsight label`, CSV, or Label Studio's JSON export.

    CSV: a row for each judgement, with `rater`, `path` and `rating`; or `rater`, `a`, `b` and
    `better`; if wanted `team` and `seconds`.

    Args:
        images: where the pictures lie; None: the file's own folder.
        scale: lowest and highest rating of a CSV or JSON file, mapped to 1 to 5.

    Raises:
        ConfigError, LabelsError: the file is none of these, or not as described.
    """
    if source.suffix.lower() == ".json":
        return Gathered(tuple(_from_label_studio(source, images or source.parent, scale)))
    if source.suffix.lower() in (".csv", ".jsonl", ".parquet"):
        return Gathered(tuple(_from_table(source, scale)))
    return _from_store(source, images or source.parent)


def _from_store(source: Path, folder: Path) -> Gathered:
    store = Store(source, must_exist=True)
    try:
        names = {rater.number: rater for rater in store.raters()}
        answers = [a for a in store.answers() if a.question.role != "practice"]
    finally:
        store.close()
    digests: dict[str, str] = {}
    stale: dict[str, int] = {}
    found = []
    for answer in answers:
        question = answer.question
        changed = [
            p.path for p in question.pictures if _digest(folder, p.path, digests) != p.digest
        ]
        for path in changed:
            stale[path] = stale.get(path, 0) + 1
        if changed:
            continue
        rater = names[question.rater]
        found.append(
            Judgement(
                rater.name,
                question.kind,
                tuple(picture.path for picture in question.pictures),
                answer.value,
                team=rater.team,
                role=question.role,
                about=question.about,
                seconds=answer.seconds,
                order=answer.answered,
                right=is_right(question, answer.value) if question.role == "golden" else None,
            )
        )
    return Gathered(tuple(found), stale)


def _digest(folder: Path, path: str, known: dict[str, str]) -> str:
    if path not in known:
        try:
            known[path] = digest_of(folder / path)
        except ImageError:
            known[path] = ""
    return known[path]


# CSV


def _from_table(source: Path, scale: tuple[float, float] | None) -> Iterable[Judgement]:
    header = read_records(source)[0][1]
    if COMPARISONS.fits(header):
        table = read_table(source, COMPARISONS)
        words = [cell.lower() for cell in table.cells(_ANSWER)]
        table.refuse(
            [word not in _SIDES for word in words],
            "the answer is unknown",
            "write a, b or similar",
            show=(*PAIRS.pictures, _ANSWER),
        )
        sides = zip(*(table.cells(role) for role in PAIRS.pictures), strict=True)
        return _judged(table, "pair", list(sides), [_SIDES[word] for word in words])
    table = read_table(source, RATINGS)
    values = _on_scale(table, [_number(cell) for cell in table.cells("rating")], scale)
    return _judged(table, "rating", [(cell,) for cell in table.cells("file")], values)


def _judged(
    table: Table, kind: Kind, pictures: Sequence[tuple[str, ...]], values: Sequence[Any]
) -> Iterable[Judgement]:
    raters = table.cells("rater")
    table.refuse([not name for name in raters], "nobody is named", "fill the column rater")
    blank = ("",) * len(raters)
    rows = zip(
        raters,
        pictures,
        values,
        table.column("team") or blank,
        table.column("seconds") or blank,
        strict=True,
    )
    for order, (rater, own, value, team, seconds) in enumerate(rows):
        yield Judgement(
            rater, kind, own, value, team=team, seconds=_number(seconds), order=float(order)
        )


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _on_scale(
    table: Table, ratings: Sequence[float], scale: tuple[float, float] | None
) -> list[float]:
    known = [rating for rating in ratings if math.isfinite(rating)]
    seen = f"ratings run from {min(known):g} to {max(known):g}" if known else "no rating is one"
    if scale is None:
        raise LabelsError(
            f"labels {table.source}: {seen}, but on which scale is not stated: give the lowest and "
            "the highest possible rating, as in --scale 1:5"
        )
    low, high = scale
    table.refuse(
        [not low <= rating <= high for rating in ratings],
        f"the rating is no number from {low:g} to {high:g} ({seen})",
        "correct it, or the scale",
        show=("file", "rating"),
    )
    return [1 + 4 * (rating - low) / (high - low) for rating in ratings]


def to_csv(judgements: Sequence[Judgement], kind: Kind) -> str:
    """Ratings or pairs as `gather` reads them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = ["path", "rating"] if kind == "rating" else ["a", "b", "better"]
    writer.writerow(["rater", "team", *columns, "seconds"])
    for one in judgements:
        if one.kind == kind and one.role != "golden":
            value = one.value if kind == "rating" else _WORDS[one.value]
            seconds = "" if math.isnan(one.seconds) else f"{one.seconds:.2f}"
            writer.writerow([one.rater, one.team, *one.pictures, value, seconds])
    return text.getvalue()


# Label Studio


def _from_label_studio(
    source: Path, folder: Path, scale: tuple[float, float] | None
) -> Iterable[Judgement]:
    """Its JSON export: results of the tags Rating (`rating`) and Pairwise (`pairwise`)."""
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
        mapped = 1 + 4 * (rating - scale[0]) / (scale[1] - scale[0])
        return "rating", (_local(names[0], folder),), mapped
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


def export(gathered: Gathered, target: Path, folder: str) -> list[Path]:
    """Write judgements to .json (Label Studio) or .csv; pairs go to `NAME-pairs.csv` beside it.

    Raises:
        ConfigError: it is neither, or cannot be written.
    """
    if target.suffix.lower() == ".json":
        write_into(to_label_studio(gathered.judgements, folder).encode(), target, overwrite=True)
        return [target]
    if target.suffix.lower() != ".csv":
        raise ConfigError(f"export {target}: name it .csv, or .json for Label Studio")
    written = []
    kinds: tuple[tuple[Kind, Path], ...] = (
        ("rating", target),
        ("pair", target.with_name(f"{target.stem}-pairs.csv")),
    )
    for kind, path in kinds:
        if gathered.of(kind):
            write_into(to_csv(gathered.judgements, kind).encode(), path, overwrite=True)
            written.append(path)
    return written
