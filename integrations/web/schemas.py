"""The answers as OpenAPI describes them; a test holds real ones against these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from qinsight_plugin.records import ACR_LEVELS

from .problems import MEDIA_TYPE
from .uploads import IMAGE, REFERENCE, A, B

_EXAMPLE: dict[str, Any] = {
    "source": "photo.jpg",
    "score": 4.14,
    "uncertainty": 0.27,
    "levels": [0.0, 0.01, 0.13, 0.56, 0.3],
    "distortions": [],
    "reasoning": None,
    "cost": None,
    "explanation": "4.1 ± 0.3: nothing wrong on the whole, worst in the top right",
    "error": None,
    "error_type": None,
    "scorer": "student",
    "scorer_version": "sha256:0123456789abcdef",
    "width": 512,
    "height": 512,
    "format": "JPEG",
    "notes": [],
    "blocks": {},
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Found(Strict):
    """A distortion and its severity, in Q-Insight's words."""

    name: str
    severity: str


class Spent(Strict):
    """What it took a model that writes."""

    replies: int
    unreadable: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class QualityMap(Strict):
    """What the picture would score if it looked everywhere as it does there, row by row."""

    width: int
    height: int
    values: list[float]


class Scored(Strict):
    """All that is known of one picture. It has a score or an error."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EXAMPLE})

    source: str = Field(description="the file's name")
    score: float | None = Field(description="MOS from 1 (bad) to 5 (excellent), for the student")
    uncertainty: float | None = Field(description="standard deviation of the error to expect")
    levels: list[float] | None = Field(
        description=f"probabilities of the levels {', '.join(ACR_LEVELS)}"
    )
    distortions: list[Found] | None
    reasoning: str | None
    cost: Spent | None
    explanation: str | None = Field(description="the score in words")
    error: str | None = Field(description="why there is no score, in one line")
    error_type: str | None
    scorer: str
    scorer_version: str = Field(description="changes whenever scores may")
    reference_score: float | None = None
    reference_uncertainty: float | None = None
    reference_levels: list[float] | None = None
    reference_distortions: list[Found] | None = None
    reference_reasoning: str | None = None
    reference_cost: Spent | None = None
    width: int
    height: int
    format: str
    notes: list[str]
    blocks: dict[str, Any] = Field(description="what plugins add")
    map: QualityMap | None = Field(None, description="only where ?map=true asks for it")


class Judged(Scored):
    """The same, and what the gate decided."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                **_EXAMPLE,
                "score": 2.1,
                "explanation": "2.1 ± 0.4: serious blur",
                "accepted": False,
                "reasons": ["score 2.1 is below the minimum of 3.2"],
                "sentence": "This picture was not accepted: it is too blurred; choose a sharper "
                "one.",
            }
        },
    )

    accepted: bool
    reasons: list[str]
    sentence: str = Field(description='the reasons for whoever uploaded it; "" where accepted')


class Scores(Strict):
    results: list[Scored] = Field(description="in the order of the pictures")


class Verdicts(Strict):
    results: list[Judged] = Field(description="in the order of the pictures")


class Compared(Strict):
    """Which of two pictures is better."""

    better: Literal["A", "B", "similar"]
    probability: float | None = Field(description="that people prefer A")
    margin: float | None = Field(description="scores this close are called similar")
    a: Scored
    b: Scored
    reasoning: str | None = Field(description="of a scorer that is shown both at once")


class Trouble(Strict):
    """RFC 9457."""

    title: str
    status: int
    detail: str = Field(description="what failed, on what, and what to do, in one line")


class About(Strict):
    """What this server does."""

    version: str
    scorer: str
    scorer_version: str
    policy: dict[str, Any] | None = Field(description="the rules of /v1/gate")
    max_request: int = Field(description="bytes of a request's body")
    max_pixels: int = Field(description="of a picture")
    max_pictures: int = Field(description="in a request")
    fetches_from: list[str] = Field(description="hosts from which pictures are fetched")


class State(Strict):
    status: str


_WHEN = {
    400: "the request is not what was asked for",
    401: "an API key is wanted: `Authorization: Bearer KEY`",
    403: "this server fetches nothing",
    408: "the body did not arrive in time",
    413: "the request is too large",
    415: "the body is of another kind",
    422: "no picture can be used",
    429: "the queue is full; `Retry-After` says when to try again",
    500: "a plugin or the scorer failed",
    503: "pictures wait, and none is answered",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer so."""
    schema = {"$ref": "#/components/schemas/Trouble"}
    return {
        status: {"description": _WHEN[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def body(*, fetches: bool, raw: bool, **fields: str) -> dict[str, Any]:
    """The `requestBody` of a route, for its `openapi_extra`.

    Args:
        fetches: whether addresses are taken, too.
        raw: whether the body may be one picture.
        fields: the names of the files; "one", "many" or "optional".
    """
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    address = {"type": "string", "format": "uri"}

    def shape(item: dict[str, Any]) -> dict[str, Any]:
        properties = {
            name: {"type": "array", "items": item, "minItems": 1} if kind == "many" else item
            for name, kind in fields.items()
        }
        needed = [name for name, kind in fields.items() if kind != "optional"]
        return {
            "type": "object",
            "properties": properties,
            "required": needed,
            "additionalProperties": False,
        }

    content: dict[str, Any] = {"multipart/form-data": {"schema": shape(file)}}
    if raw:
        # OpenAPI 3.1: bytes have no schema.
        content |= {"application/octet-stream": {}, "image/jpeg": {}}
    if fetches:
        example = dict.fromkeys(fields, "https://example.org/photo.jpg")
        content["application/json"] = {"schema": shape(address), "example": example}
    return {"requestBody": {"required": True, "content": content}}


SCORE_FIELDS = {IMAGE: "many", REFERENCE: "optional"}
COMPARE_FIELDS = {A: "one", B: "one", REFERENCE: "optional"}
