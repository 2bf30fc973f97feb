"""The routes: what may be asked of a service, and how the answers look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from qinsight_plugin import __version__, errors
from qinsight_plugin.errors import ImageError
from qinsight_plugin.records import Gate, Report, Verdict
from qinsight_plugin.report import to_row

from .problems import Problem
from .schemas import (
    COMPARE_FIELDS,
    SCORE_FIELDS,
    About,
    Compared,
    Scores,
    State,
    Verdicts,
    body,
    problems,
)
from .service import Service

STALLED_SECONDS = 30.0
"""Without an answer, though pictures wait: then the scorer hangs, and another server is better."""

_KEY = HTTPBearer(auto_error=False, description="one of the server's API keys")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_KEY)]
Map = Annotated[bool, Query(description="add the quality map, as numbers")]
MinScore = Annotated[
    float,
    Query(description="the only rule: a score of so much", allow_inf_nan=False, examples=[3.2]),
]
Margin = Annotated[
    float | None,
    Query(ge=0, allow_inf_nan=False, description="scores this close are called similar"),
]


def _key_wanted(service: Service) -> list[Any]:
    """The dependencies of a route that is not for everyone."""

    def check(credentials: Credentials) -> None:
        if not service.keys.admit(credentials.credentials if credentials else ""):
            raise Problem(
                401,
                "an API key is wanted: Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )

    return [Depends(check)] if service.keys else []


def _rules(service: Service) -> Any:
    """What gives `/v1/gate` its rules: the server, or each request where the server has none."""

    def own(request: Request) -> Gate | None:
        if "min_score" in request.query_params:
            raise Problem(400, "this server has a policy of its own: leave min_score out")
        return service.gate

    def brought(min_score: MinScore) -> Gate:
        return Gate(min_score=min_score)

    return Depends(brought if service.gate is None else own)


def add_questions(app: FastAPI, service: Service) -> None:
    """`/v1/score`, `/v1/gate` and `/v1/compare`."""
    wanted, rules_of_gate = _key_wanted(service), _rules(service)
    fetches = bool(service.settings.fetch_from)
    common = problems(400, 401, 403, 408, 413, 415, 429, 500)
    scoring = body(fetches=fetches, raw=True, **SCORE_FIELDS)
    comparing = body(fetches=fetches, raw=False, **COMPARE_FIELDS)

    @app.post(
        "/v1/score",
        dependencies=wanted,
        response_model=Scores,
        responses={**common, 422: {"model": Scores, **problems(422)[422]}},
        openapi_extra=scoring,
        summary="Score one or several pictures",
    )
    async def score(request: Request, map: Map = False) -> Response:
        """One result a picture, in order. A picture that cannot be scored has an error in place of
        its score; where none can be, the status is 422, or 500 if that is not the pictures'
        fault."""
        concluded = await service.score(request)
        return JSONResponse({"results": _rows(concluded, map)}, _status(concluded))

    @app.post(
        "/v1/gate",
        dependencies=wanted,
        response_model=Verdicts,
        responses={**common, **problems(422)},
        openapi_extra=scoring,
        summary="Accept or reject one or several pictures",
    )
    async def gate(request: Request, rules: Any = rules_of_gate, map: Map = False) -> Response:
        """As `/v1/score`, with the verdict of the server's policy. A rejection is no error: the
        status is 200. A picture that cannot be scored is rejected, unless the policy says
        otherwise."""
        concluded = await service.score(request, rules)
        return JSONResponse({"results": _rows(concluded, map)})

    @app.post(
        "/v1/compare",
        dependencies=wanted,
        response_model=Compared,
        responses={**common, **problems(422)},
        openapi_extra=comparing,
        summary="Which of two pictures is better",
    )
    async def compare(request: Request, margin: Margin = None) -> Response:
        """By their scores, and how sure that is; or in the words of a scorer that is shown both."""
        told = await service.compare(request, margin)
        return JSONResponse(
            {
                "better": told.better,
                "probability": told.probability,
                "margin": told.margin,
                "a": to_row(told.a),
                "b": to_row(told.b),
                "reasoning": told.preference.reasoning if told.preference else None,
            }
        )


def _rows(
    concluded: Sequence[tuple[Report, Verdict | None]], with_map: bool
) -> list[dict[str, Any]]:
    rows = []
    for report, verdict in concluded:
        row = to_row(report, verdict)
        drawn = report.score.quality_map if with_map and report.score else None
        if drawn is not None:
            height, width = drawn.shape
            values = [round(float(value), 2) for value in drawn.ravel()]
            row["map"] = {"width": width, "height": height, "values": values}
        rows.append(row)
    return rows


def _status(concluded: Sequence[tuple[Report, Verdict | None]]) -> int:
    kinds = [report.error_type for report, _ in concluded]
    if None in kinds:
        return 200
    blameless = all(issubclass(getattr(errors, str(kind), object), ImageError) for kind in kinds)
    return 422 if blameless else 500


def add_state(app: FastAPI, service: Service) -> None:
    """`/healthz`, `/readyz`, `/metrics` and `/v1/about`."""
    wanted = _key_wanted(service)

    @app.get("/healthz", response_model=State, summary="Whether the process runs")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get(
        "/readyz",
        response_model=State,
        responses=problems(503),
        summary="Whether it scores",
    )
    async def readyz() -> Response:
        """It answers once the scorer is loaded and has scored; while it shuts down, it takes no
        connections. A full queue is no reason not to be ready."""
        if service.engine.stalled > STALLED_SECONDS:
            raise Problem(503, f"no picture was answered for {service.engine.stalled:.0f} s")
        return JSONResponse({"status": "ready"})

    @app.get(
        "/metrics",
        dependencies=wanted,
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **problems(401),
        },
        summary="For Prometheus",
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get(
        "/v1/about",
        dependencies=wanted,
        response_model=About,
        responses=problems(401),
        summary="What this server does",
    )
    async def about() -> Response:
        settings, pipeline = service.settings, service.engine.pipeline
        told = About(
            version=__version__,
            scorer=pipeline.name,
            scorer_version=pipeline.scorer.spec.version,
            policy=None if service.gate is None else asdict(service.gate),
            max_request=settings.max_request,
            max_pixels=settings.limits.pixels,
            max_pictures=settings.most_pictures,
            fetches_from=list(settings.fetch_from),
        )
        return JSONResponse(told.model_dump())
