"""The application: its routes, its page, and how errors are told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from qinsight_plugin import __version__
from qinsight_plugin.errors import QInsightError

from .problems import Problem, problem_of
from .routes import add_questions, add_state
from .schemas import Trouble
from .service import Service
from .settings import Settings
from .watching import Watching

PAGE = Path(__file__).parent / "page" / "index.html"

_DESCRIPTION = """How good pictures look, as people would rate them, from 1 (bad) to 5 (excellent);
and whether they pass the rules of this site."""


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
    add_questions(app, served)
    add_state(app, served)
    _add_page(app)
    return app


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
