"""Uploads that a gate rejects are not valid."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.utils.deconstruct import deconstructible

from qinsight_plugin.errors import BusyError, ConfigError
from qinsight_plugin.gate import check_gate, load_policy
from qinsight_plugin.records import Gate
from qinsight_plugin.serving import Picture, shared_engine


@deconstructible
class QualityValidator:
    """Refuses a picture that is not good enough, with the gate's reasons as messages::

        photo = models.ImageField(validators=[QualityValidator(min_score=3.2)])

    The picture is decoded in a process that can be killed, within the limits of
    `qinsight_plugin.serving.Limits`; one to which a rule cannot be applied is refused unless the
    policy says otherwise. When too many are being looked at, the message says to try again.

    Args:
        policy: a file with the rules, read at the first picture.
        min_score: the only rule, instead.
        scorer: `NAME` or `NAME:ARGUMENT`.

    Raises:
        ConfigError: there is no rule, or two kinds, or an impossible one.
    """

    code = "quality"

    def __init__(
        self,
        policy: str | None = None,
        min_score: float | None = None,
        scorer: str = "student",
    ) -> None:
        if (policy is None) == (min_score is None):
            raise ConfigError("a QualityValidator needs a policy or a min_score, and not both")
        self.policy = policy
        self.scorer = scorer
        self._gate = None if policy else check_gate(Gate(min_score=min_score))
        self.min_score = min_score

    def __call__(self, value: Any) -> None:
        """
        Args:
            value: a Django file; it is left at its beginning, as Django expects it.
        """
        if self._gate is None:
            self._gate = load_policy(str(self.policy))
        value.seek(0)
        picture = Picture(value.read(), str(value.name or "picture"))
        value.seek(0)
        engine = shared_engine(self.scorer)
        try:
            (asked,) = engine.submit([picture])
        except BusyError as error:
            message = "Too many pictures are being looked at: try again in a moment."
            raise ValidationError(message, "busy") from error
        ((_, verdict),) = engine.conclude([asked.result()], self._gate)
        if verdict is not None and not verdict.accepted:
            raise ValidationError([ValidationError(r, self.code) for r in verdict.reasons])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QualityValidator):
            return NotImplemented
        return self._settings() == other._settings()

    def __hash__(self) -> int:
        return hash(self._settings())

    def _settings(self) -> tuple[str | None, float | None, str]:
        return (self.policy, self.min_score, self.scorer)
