"""The pictures of a report: small copies, and beside each its quality map."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from qinsight_plugin.batch.remote import fetch, is_url
from qinsight_plugin.decode import decode
from qinsight_plugin.errors import ImageError, QInsightError
from qinsight_plugin.overlay import overlay

if TYPE_CHECKING:
    from qinsight_plugin.pipeline import Pipeline
    from qinsight_plugin.records import Pixels

SIDE = 256
_DECODED_PIXELS = 4 * SIDE * SIDE


def with_pictures(row: dict[str, Any], pipeline: Pipeline | None) -> dict[str, Any]:
    """The row with `thumbnail` and `map`, data URLs, and a `note` where one is missing and why.

    Args:
        pipeline: what draws the map; None: no maps.
    """
    source = row["source"]
    data = fetch(source) if is_url(source) else source
    try:
        if isinstance(data, ImageError):
            raise data
        shown = {"thumbnail": data_url(decode(data, max_pixels=_DECODED_PIXELS).pixels)}
        if pipeline is not None:
            shown |= drawn_map(pipeline, data, row)
    except QInsightError as error:
        return row | {"note": str(error)}
    return row | shown


def drawn_map(pipeline: Pipeline, data: str | bytes, row: dict[str, Any]) -> dict[str, str]:
    spec = pipeline.scorer.spec
    if spec.version != row["scorer_version"]:
        return {"note": f"no map: {pipeline.name} here is {spec.version}, not the run's version"}
    image = pipeline.decode(data)
    (score,) = pipeline.score_images([image])
    if score.quality_map is None:
        return {"note": "no map: the scorer draws none"}
    low, high = spec.range if spec.higher_is_better else spec.range[::-1]
    return {"map": data_url(overlay(image.pixels, score.quality_map, low, high))}


def data_url(pixels: Pixels) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
