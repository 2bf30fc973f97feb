"""What an engine tells whoever keeps its books."""

from __future__ import annotations


class Events:
    """Override what you want to know. Called from several threads; must neither block nor raise."""

    def decoded(self, seconds: float) -> None:
        """A picture was decoded, or found impossible to decode."""

    def waited(self, seconds: float) -> None:
        """The scorer took a picture up, so long after it was accepted, decoding left out."""

    def scored(self, seconds: float, pictures: int) -> None:
        """The scorer answered a batch."""

    def decoder_ended(self, reason: str) -> None:
        """A decoding process ended: "time", "memory" or "died" (killed by someone else, or by the
        picture)."""
