"""Answers from the store, a table or Label Studio -> `Gathered`, and back to files."""

from __future__ import annotations

from pathlib import Path

from qinsight_plugin.errors import ConfigError, ImageError
from qinsight_plugin.feedback.judgement_table import from_table, to_csv
from qinsight_plugin.feedback.judgements import Gathered, Judgement
from qinsight_plugin.feedback.label_studio import from_label_studio, to_label_studio
from qinsight_plugin.feedback.questions import Kind, is_right
from qinsight_plugin.feedback.showing import digest_of
from qinsight_plugin.feedback.store import Store
from qinsight_plugin.sorting import write_into


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
        return Gathered(tuple(from_label_studio(source, images or source.parent, scale)))
    if source.suffix.lower() in (".csv", ".jsonl", ".parquet"):
        return Gathered(tuple(from_table(source, scale)))
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
