"""The application: routes, and what stands around them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from qinsight_plugin import __version__, errors
from qinsight_plugin.errors import ImageError, QInsightError
from qinsight_plugin.records import Gate, Report, Verdict
from qinsight_plugin.report import to_row

from .problems import Problem, problem_of
from .schemas import (
    COMPARE_FIELDS,
    SCORE_FIELDS,
    About,
    Compared,
    Scores,
    State,
    Trouble,
    Verdicts,
    body,
    problems,
)
from .service import Service
from .settings import Settings
from .watching import Watching

STALLED_SECONDS = 30.0
"""Without an answer, though pictures wait: then the scorer hangs, and another server is better."""

PAGE = Path(__file__).parent / "page" / "index.html"

_DESCRIPTION = """How good pictures look, as people would rate them, from 1 (bad) to 5 (excellent);
and whether they pass the rules of this site."""

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


def create_app(settings: Settings | None = None, service: Service | None = None) -> FastAPI:
    """The server as an ASGI application, which ends what it started when it is shut down.

    Args:
        settings: what whoever runs it decides.
        service: made from them already.

    Raises:
        QInsightError: as `Service`.
    """
    served = service or Service(settings or Settings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.close)

    app = FastAPI(
        title="qinsight",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        # Both pages load programs from other hosts.
        docs_url=None,
        redoc_url=None,
        license_info={"name": "Apache-2.0"},
    )
    app.add_middleware(Watching, metrics=served.metrics)
    _add_error_handlers(app)
    _add_questions(app, served)
    _add_state(app, served)
    _add_page(app)
    return app


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


def _add_questions(app: FastAPI, service: Service) -> None:
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


def _add_state(app: FastAPI, service: Service) -> None:
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


def _add_page(app: FastAPI) -> None:
    page = PAGE.read_text("utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes('script', page)}",
            f"style-src {_hashes('style', page)}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def _hashes(tag: str, page: str) -> str:
    """What a Content-Security-Policy lets run: what stands in the page, to the letter."""
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts]
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(QInsightError)
    async def known(_: Request, error: QInsightError) -> Response:
        return problem_of(error).response()

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        return Problem(error.status_code, str(error.detail), error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:])
        return Problem(400, f"{where}: {found['msg']}").response()

    schema = app.openapi

    def with_trouble() -> dict[str, Any]:
        told = schema()
        told["components"]["schemas"]["Trouble"] = Trouble.model_json_schema()
        return told

    app.openapi = with_trouble  # type: ignore[method-assign]
