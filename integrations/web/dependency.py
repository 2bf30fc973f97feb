"""A gate for the uploads of other people's FastAPI and Starlette applications."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException, UploadFile

from qinsight_plugin.errors import BusyError, ConfigError
from qinsight_plugin.records import Report, Verdict
from qinsight_plugin.serving import Engine, Picture, shared_engine

from .settings import MIB, Settings


@dataclass(frozen=True, slots=True)
class Accepted:
    """An upload that passed.

    Attributes:
        data: the file.
        name: what its sender calls it.
        report, verdict: what was found; a verdict may hold reasons and still accept.
    """

    data: bytes
    name: str
    report: Report
    verdict: Verdict


class ImageGate:
    """A FastAPI dependency: lets an uploaded picture through to the route, or answers 422 with the
    reasons. Pictures are decoded in processes that can be killed; they start with the first one::

        gate = ImageGate(min_score=3.2)

        @app.post("/avatar")
        async def avatar(picture: Annotated[Accepted, Depends(gate)]): ...

    The form's field is called `image`. In Starlette, `await gate(form["image"])`. An answer of 429
    says that too many pictures are being worked on; 413, that this one is too large.

    Args:
        policy: a file with the rules.
        min_score: the only rule, instead.
        max_bytes: of a file.
        engine: with limits of one's own; the one that the process shares when None.

    Raises:
        ConfigError: there is no rule, or an impossible one.
    """

    def __init__(
        self,
        policy: str | Path | None = None,
        *,
        min_score: float | None = None,
        max_bytes: int = 20 * MIB,
        engine: Engine | None = None,
    ) -> None:
        found = Settings(
            policy=None if policy is None else Path(policy), min_score=min_score
        ).gate()
        if found is None:
            raise ConfigError("a gate needs a policy or a min_score")
        self._gate = found
        self._max_bytes = max_bytes
        self._engine = engine

    async def __call__(self, image: UploadFile) -> Accepted:
        data = await image.read(self._max_bytes + 1)
        name = image.filename or "image"
        if len(data) > self._max_bytes:
            raise HTTPException(413, f"the picture has more than {self._max_bytes} bytes")
        engine = self._engine
        if engine is None:  # loading takes a while: not in the event loop
            engine = await asyncio.to_thread(shared_engine)
        try:
            (asked,) = engine.submit([Picture(data, name)])
        except BusyError as error:
            headers = {"Retry-After": str(error.retry_after)}
            raise HTTPException(429, str(error), headers) from error
        report = await asyncio.wrap_future(asked)
        ((report, verdict),) = await asyncio.to_thread(engine.conclude, [report], self._gate)
        assert verdict is not None
        if not verdict.accepted:
            raise HTTPException(422, {"reasons": list(verdict.reasons)})
        return Accepted(data, name, report, verdict)
