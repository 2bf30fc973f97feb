"""What one picture may cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

from qinsight_plugin.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Attributes:
        pixels: the most that a picture may have; its header tells, before it is decoded.
        seconds: the longest that decoding one may take; then its process is killed.
        memory: MiB of address space that decoding may take beyond what its process starts with.
            Enforced on Linux only.
    """

    pixels: int = 50_000_000
    seconds: float = 10.0
    memory: int = 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(f"the limit of {field.name} must be above 0")
