"""What a study found, as a folder: report.html with plots and pictures, and best.json."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.tune import plots

if TYPE_CHECKING:
    from qinsight_plugin.records import Image
    from qinsight_plugin.tune.objective import Outcome
    from qinsight_plugin.tune.study import Tuned

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto }}
table {{ border-collapse: collapse }} td, th {{ padding: .2rem .8rem; text-align: right }}
th:first-child, td:first-child {{ text-align: left }} tr + tr {{ border-top: 1px solid #ddd }}
img {{ max-width: 100% }} .pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: .5rem }}
figure {{ margin: 0 }} .no {{ color: #a00 }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{outcomes}
<h2>The setting</h2>
{settings}
<h2>Before and after</h2>
{pictures}
<h2>How it was found</h2>
{plots}
{failures}
</html>
"""


def write(tuned: Tuned, folder: Path, goals: Sequence[str]) -> Path:
    """Write the report; the page's path.

    Raises:
        ConfigError: the folder cannot be written to.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(tuned.pairs):
            save(pair.before, folder / f"before-{number}.jpg")
            save(pair.after, folder / f"after-{number}.jpg")
        drawn = plots.draw_all(tuned.study, goals, folder)
        (folder / "best.json").write_text(json.dumps(document(tuned), indent=1) + "\n", "utf-8")
        page = folder / "report.html"
        page.write_text(render(tuned, drawn), "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {folder}: {error.strerror}") from error
    return page


def document(tuned: Tuned) -> dict[str, Any]:
    held_out = tuned.held_out
    return {
        "recommended": tuned.recommended,
        "best": tuned.best,
        "on_scenes": {"default": asdict(tuned.default), "best": asdict(tuned.outcome)},
        "held_out": None if held_out is None else asdict(held_out),
        "front": [{"params": params, "values": values} for params, values in tuned.front],
        "trials": tuned.trials,
        "failed": tuned.failed,
        "stopped": tuned.stopped,
    }


def summary(tuned: Tuned) -> str:
    """One sentence or two."""
    said = f"{tuned.stopped}, {tuned.failed} of {tuned.trials} failed."
    if tuned.best == tuned.space.defaults:
        return f"{said} Nothing better than the default setting was found."
    if tuned.held_out is None:
        return f"{said} Nothing was held out: how it does on other scenes is not known."
    if tuned.held_out.objection:
        return f"{said} Keep the default setting: of the best one {tuned.held_out.objection}."
    return f"{said} The best setting holds on scenes that it was not tuned on."


def render(tuned: Tuned, drawn: Sequence[str]) -> str:
    rows: list[tuple[str, Outcome | None]] = [
        ("scenes, default", tuned.default),
        ("scenes, best", tuned.outcome),
    ]
    if tuned.held_out is not None:
        rows += [
            ("held out, default", tuned.held_out.default),
            ("held out, best", tuned.held_out.best),
        ]
    heads = ("", "mean score", "worst decile", "bounds overstepped", "quality", "s a picture")
    keys = ("mean", "worst", "excess", "quality", "seconds")
    cells = [
        (name, *(f"{getattr(o, key):.3f}" for key in keys)) for name, o in rows if o is not None
    ]
    defaults = tuned.space.defaults
    settings = [(name, shown(defaults[name]), shown(value)) for name, value in tuned.best.items()]
    pictures = "\n".join(
        f'<div class="pair">{figure(f"before-{n}.jpg", f"default: {pair.looks[0].score:.2f}")}'
        f"{figure(f'after-{n}.jpg', f'best: {pair.looks[1].score:.2f}')}</div>"
        for n, pair in enumerate(tuned.pairs)
    )
    trusted = tuned.held_out is not None and not tuned.held_out.objection
    failed = [t for t in tuned.study.trials if t.user_attrs.get("error")]
    failures = [(str(trial.number), trial.user_attrs["error"]) for trial in failed[:50]]
    return _PAGE.format(
        title=html.escape(f"Tuning: {tuned.study.study_name}"),
        summary=f'<span class="{"" if trusted else "no"}">{html.escape(summary(tuned))}</span>',
        outcomes=table(heads, cells),
        settings=table(("parameter", "default", "best"), settings),
        pictures=pictures,
        plots="\n".join(figure(name, "") for name in drawn),
        failures="<h2>Failed trials</h2>" + table(("trial", "why"), failures) if failures else "",
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + row(heads, "th") + "".join(row(r, "td") for r in rows) + "</table>"


def figure(name: str, caption: str) -> str:
    return (
        f'<figure><img src="{html.escape(name)}" alt="{html.escape(caption or name)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def save(image: Image, path: Path) -> None:
    from PIL import Image as PILImage

    picture = PILImage.fromarray(image.pixels)
    picture.thumbnail((1024, 1024))
    picture.save(path, quality=90)
