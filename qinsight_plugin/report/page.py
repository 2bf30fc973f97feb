"""A report as one HTML file that needs no network: data in, a page that draws them out."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def page(title: str, data: Mapping[str, Any]) -> str:
    """The page. `data` are JSON values, as `page.js` reads them; text in them may be hostile, as
    names of uploads are: it can neither end the script nor become markup."""
    here = files(__package__)
    # Everything that could end a script element, or begin a comment in one, begins so.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "{{title}}": html.escape(title),
        "{{style}}": (here / "page.css").read_text("utf-8"),
        "{{script}}": (here / "page.js").read_text("utf-8"),
        "{{data}}": text,
    }
    made = (here / "page.html").read_text("utf-8")
    for mark, part in parts.items():
        made = made.replace(mark, part)
    return made
