"""What whoever runs the server decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.gate import check_gate, load_policy
from qinsight_plugin.records import Gate
from qinsight_plugin.serving import Limits

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Attributes:
        scorer: `NAME` or `NAME:ARGUMENT`.
        policy: a file with the rules of `/v1/gate`; read again on reload.
        min_score: the only rule, where there is no policy. With neither, each request brings its
            own.
        key_file: holds API keys, one a line; None: everyone may ask.
        limits: what one picture may cost.
        capacity: most pictures at work or waiting; what comes on top is answered 429.
        batch, lanes, decoders: see `Engine`.
        max_request: bytes of a request's body.
        max_pictures: in one request; never more than `capacity`.
        body_seconds: in which a body must have arrived.
        bodies_memory: bytes of all bodies together that are held at a time.
        fetch_from: hosts, or host:port, from which pictures are fetched; none: no fetching.
        fetch_seconds: in which all that a request names must have been fetched.
    """

    scorer: str = "student"
    policy: Path | None = None
    min_score: float | None = None
    key_file: Path | None = None
    limits: Limits = field(default_factory=Limits)
    capacity: int = 64
    batch: int = 8
    lanes: int | None = None
    decoders: int | None = None
    max_request: int = 20 * MIB
    max_pictures: int = 16
    body_seconds: float = 30.0
    bodies_memory: int = 256 * MIB
    fetch_from: tuple[str, ...] = ()
    fetch_seconds: float = 10.0

    @property
    def most_pictures(self) -> int:
        """That a request may hold and the queue can take."""
        return min(self.max_pictures, self.capacity)

    def gate(self) -> Gate | None:
        """
        Raises:
            ConfigError: the policy cannot be read, or is impossible.
        """
        if self.policy is not None:
            if self.min_score is not None:
                raise ConfigError("give a policy or a minimum score, not both")
            return load_policy(self.policy)
        return None if self.min_score is None else check_gate(Gate(min_score=self.min_score))

    def keys(self) -> tuple[str, ...]:
        """
        Raises:
            ConfigError: the file cannot be read, or holds no key.
        """
        if self.key_file is None:
            return ()
        try:
            lines = self.key_file.read_text("utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"key file {str(self.key_file)!r} cannot be read: {error}") from error
        keys = tuple(line.strip() for line in lines if line.strip() and line.strip()[0] != "#")
        if not keys:
            raise ConfigError(f"key file {str(self.key_file)!r} holds no key: one a line is wanted")
        for key in keys:
            if len(key) < 16 or not key.isascii():
                raise ConfigError(
                    f"key file {str(self.key_file)!r}: a key has 16 or more ASCII characters; "
                    "`openssl rand -hex 24` makes one"
                )
        return keys
