"""What the rows of a run depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qinsight_plugin.records import Gate


@dataclass(frozen=True, slots=True)
class Settings:
    """How the pictures of a run are scored and judged.

    Attributes:
        scorer: `NAME` or `NAME:ARGUMENT`; see `qinsight plugins`.
        gate: rules to judge by; None: no verdicts.
    """

    scorer: str = "student"
    gate: Gate | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` is the inverse."""
        gate = None if self.gate is None else dataclasses.asdict(self.gate)
        return {"scorer": self.scorer, "gate": gate}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Settings:
        gate = told["gate"]
        return cls(told["scorer"], None if gate is None else Gate(**gate))
