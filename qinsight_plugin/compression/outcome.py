"""A row of a run's report: what became of one file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinsight_plugin.compression.picture import Compressed
from qinsight_plugin.errors import ConfigError, QInsightError


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the report; JSON values only.

    Attributes:
        source: the file.
        outputs: what is written: names and sizes in bytes.
        state: "compressed", "kept", "done before" or "failed".
        version: of the source file and the settings, which a resumed run compares.
        the rest: see `Compressed`.
    """

    source: str
    state: str
    outputs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    format: str = ""
    quality_factor: int | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    score_before: float | None = None
    score_after: float | None = None
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    certificate: str = ""
    kept: str = ""
    probes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: str | None = None
    error_type: str | None = None
    version: str = ""

    def is_there(self) -> bool:
        """Whether all that was to be written lies where it was to be."""
        return all(
            Path(name).is_file() and Path(name).stat().st_size == size
            for name, size in self.outputs.items()
        )

    @property
    def saved(self) -> int:
        return (self.bytes_before or 0) - (self.bytes_after or 0)


def taken_error(target: Path) -> ConfigError:
    return ConfigError(
        f"{target} is there already: say --overwrite to replace it, or choose another folder"
    )


def failure(source: str, error: QInsightError) -> Outcome:
    return Outcome(source, "failed", error=str(error), error_type=type(error).__name__)


def outcome_of(result: Compressed) -> Outcome:
    return Outcome(
        result.source,
        "kept" if result.kept else "compressed",
        format=result.format,
        quality_factor=result.quality_factor,
        bytes_before=result.original_bytes,
        bytes_after=len(result.data),
        score_before=result.score_before,
        score_after=result.score_after,
        values={name: round(value, 6) for name, value in result.values.items()},
        certificate=result.certificate,
        kept=result.kept,
        probes=result.probes,
        seconds=round(result.seconds, 3),
        notes=result.notes,
    )


def read_report(path: Path) -> dict[tuple[str, str], Outcome]:
    """What earlier runs have done; a line that a killed run left unfinished is skipped.

    Raises:
        ConfigError: the report cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}): move it away to begin anew") from error
    done = {}
    fields = {field.name for field in dataclasses.fields(Outcome)}
    for line in lines:
        try:
            row: dict[str, Any] = json.loads(line)
            outcome = Outcome(**{key: row[key] for key in fields})
        except (ValueError, KeyError, TypeError):
            continue
        done[outcome.source, outcome.version] = outcome
    return done
