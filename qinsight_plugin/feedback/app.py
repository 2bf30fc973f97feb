"""The page's server: hands out questions and pictures, takes answers.

A link's token says who asks. A person may have one window at a time: two would get the same
questions, and two people with one link would answer in one name.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field, FiniteFloat

from qinsight_plugin.errors import ConfigError, ImageError, MissingExtraError
from qinsight_plugin.feedback.adjustments import adjustment
from qinsight_plugin.feedback.asking import Asker
from qinsight_plugin.feedback.questions import Question, check_answer
from qinsight_plugin.feedback.showing import as_png, digest_of, pixels_of, serve
from qinsight_plugin.feedback.store import Rater

PAGE = Path(__file__).parent / "page"
LONGEST_SECONDS = 3600.0
"""A question that is open longer was not looked at all the time."""

_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
_FRESH = {"Cache-Control": "no-cache"}
_POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"


Number: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
"""A question's, as SQLite can hold it."""


class Given(BaseModel):
    """An answer as the page sends it; again and again, until it is told that it was kept."""

    window: str
    question: Number
    value: Any
    seconds: FiniteFloat


class Opened(BaseModel):
    window: str


class Windows:
    """Which window each person looks at: the one that was opened last."""

    def __init__(self) -> None:
        self._of: dict[int, str] = {}
        self._lock = threading.Lock()

    def open(self, rater: int, window: str) -> None:
        with self._lock:
            self._of[rater] = window

    def is_current(self, rater: int, window: str) -> bool:
        with self._lock:
            return self._of.setdefault(rater, window) == window


def make_app(asker: Asker) -> FastAPI:
    """The application; `asker` and its store are safe to use from the threads that serve it."""
    app = FastAPI(title="qinsight label", docs_url=None, redoc_url=None, openapi_url=None)
    store, windows = asker.store, Windows()

    def rater_of(token: str) -> Rater:
        for rater in store.raters():
            if rater.token == token:
                return rater
        raise HTTPException(404, "This link is not known: ask for yours again.")

    def state(rater: Rater) -> dict[str, Any]:
        progress = asker.progress(rater.number)
        return {
            "rater": rater.name,
            "questions": [told(question, rater) for question in asker.outlook(rater.number)],
            "done": progress.done,
            "total": progress.total,
            "rest": asker.study.rest,
        }

    def own_question(rater: Rater, number: int) -> Question:
        question = store.question(number)
        if question is None or question.rater != rater.number:
            raise HTTPException(404, "There is no such question.")
        return question

    def shown_file(rater: Rater, number: int, index: int) -> Path:
        question = own_question(rater, number)
        if index not in range(len(question.pictures)):
            raise HTTPException(404, "There is no such picture.")
        picture = question.pictures[index]
        file = asker.folder / picture.path
        if digest_of(file) != picture.digest:
            raise HTTPException(410, f"{picture.path} has changed since it was asked about.")
        return file

    @app.middleware("http")
    async def headers(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"  # links hold who someone is
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.exception_handler(ConfigError)
    def not_kept(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 507)

    @app.exception_handler(RequestValidationError)
    def not_read(_: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own handler repeats the input, and fails where that is no JSON, as NaN is not.
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"detail": "; ".join(told)}, 422)

    @app.exception_handler(ImageError)
    @app.exception_handler(MissingExtraError)
    def not_shown(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 410)

    @app.get("/")
    def root() -> Response:
        return Response("Open your own link, please: it was printed where qinsight label runs.\n")

    @app.get("/r/{token}")
    def page(token: str) -> FileResponse:
        rater_of(token)
        return FileResponse(PAGE / "index.html", headers=_FRESH)

    @app.get("/page/{name}")
    def part(name: str) -> FileResponse:
        if name not in ("label.css", "label.js", "viewer.js"):
            raise HTTPException(404)
        return FileResponse(PAGE / name, headers=_FRESH)

    @app.post("/api/{token}/open")
    def opened(token: str, body: Opened) -> dict[str, Any]:
        rater = rater_of(token)
        windows.open(rater.number, body.window)
        return state(rater)

    @app.post("/api/{token}/answer")
    def answer(token: str, body: Given) -> dict[str, Any]:
        rater = rater_of(token)
        question = own_question(rater, body.question)
        value = checked(question, body.value)
        if not windows.is_current(rater.number, body.window):
            raise HTTPException(409, "Your link was opened in another window.")
        seconds = min(max(body.seconds, 0.0), LONGEST_SECONDS)
        store.answer(question.number, value, seconds)
        return state(rater)

    @app.post("/api/{token}/undo")
    def undo(token: str, body: Opened) -> dict[str, Any]:
        rater = rater_of(token)
        if not windows.is_current(rater.number, body.window):
            raise HTTPException(409, "Your link was opened in another window.")
        store.withdraw_last(rater.number)
        return state(rater)

    @app.get("/picture/{token}/{number}/{index}")
    def picture(token: str, number: Number, index: int) -> Response:
        served = serve(shown_file(rater_of(token), number, index))
        return Response(served.data, media_type=served.media_type, headers=_KEPT)

    @app.get("/adjusted/{token}/{number}")
    def adjusted(token: str, number: Number, value: float) -> Response:
        rater = rater_of(token)
        question = own_question(rater, number)
        file = shown_file(rater, number, 0)
        checked(question, value)
        changed = adjustment(question.about["parameter"])(pixels_of(file), value)
        served = as_png(changed)
        return Response(served.data, media_type=served.media_type, headers=_KEPT)

    return app


def checked(question: Question, value: Any) -> Any:
    try:
        return check_answer(question, value)
    except ConfigError as error:
        raise HTTPException(422, str(error)) from error


def told(question: Question, rater: Rater) -> dict[str, Any]:
    """A question as the page gets it: not which role it plays, but for practice, whose truth is
    told."""
    practice = question.role == "practice"
    return {
        "number": question.number,
        "kind": question.kind,
        "practice": practice,
        "about": dict(question.about),
        "truth": question.truth if practice else None,
        "pictures": [
            f"/picture/{rater.token}/{question.number}/{k}" for k in range(len(question.pictures))
        ],
    }
