"""`Checks` as one HTML file with its pictures in it, and as lines of text."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

import PIL.Image

from qinsight_plugin.errors import ImageError
from qinsight_plugin.feedback.checks import BIN, Checks
from qinsight_plugin.feedback.showing import pixels_of
from qinsight_plugin.labels import Labels
from qinsight_plugin.records import SEVERITIES

SIDE = 132
SHOWN = 6
"""Pictures of a group; more would make the file heavy and tell no more."""

_STYLE = """
body { color: #222; font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { border-top: 1px solid #ddd; font-size: 1.15rem; margin: 2rem 0 .5rem;
  padding-top: 1rem; }
.bad { color: #a40000; } .good { color: #1a6b1a; }
figure { display: inline-block; margin: 0 8px 8px 0; vertical-align: top; width: 132px; }
figcaption { color: #666; font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: 2px 14px 2px 0; text-align: right; } td:first-child, th:first-child {
  text-align: left; }
.bar { background: #4a6f8a; display: inline-block; height: .8rem; } img { display: block; }
.row { border-bottom: 1px solid #eee; margin-bottom: 8px; }
"""


def findings(checks: Checks, labels: Labels) -> Iterator[tuple[bool, str]]:
    """Whether all is well, and what was found, one line each."""
    if labels.split is None:
        yield True, f"{len(checks.duplicates)} groups of near-duplicates; there is no split"
    else:
        yield (
            not checks.leaks,
            f"{len(checks.leaks)} groups of near-duplicates are in more than one split"
            + (": what is learnt by heart would pass for skill" if checks.leaks else ""),
        )
    ends = ", ".join(f"{low:g} to {low + BIN:g}" for low in checks.thin)
    yield not checks.thin, f"the scale is {f'thin at {ends}' if ends else 'covered from 1 to 5'}"
    if checks.unlabelled is not None:
        missing = sum(map(len, checks.unlabelled))
        yield (
            not checks.unlabelled,
            f"{len(checks.unlabelled)} kinds of picture in the folder have no label "
            f"({missing} pictures)",
        )
    seen = {name for name, _ in checks.distortions}
    yield bool(seen), f"distortions that the scorer sees: {', '.join(sorted(seen)) or 'none'}"
    sure = [bias for bias in checks.biases if bias.sure]
    told = "; ".join(f"{bias.part} by {bias.bias:+.2f}" for bias in sure)
    yield not sure, f"the scorer is biased on {told}" if sure else "no part has a sure bias"


def write_page(checks: Checks, labels: Labels, folder: Sequence[Path], title: str) -> str:
    """The page. `folder` are the pictures that `Checks.unlabelled` counts."""

    def own(index: int) -> str:
        split = f", {labels.split[index]}" if labels.split else ""
        return figure(labels.paths[index], f"{labels.mos[index]:.2f}{split}")

    def other(index: int) -> str:
        return figure(folder[index], "")

    parts = [f"<h1>{escape(title)}: {len(labels.paths)} pictures</h1><ul>"]
    for good, line in findings(checks, labels):
        parts.append(f'<li class="{"good" if good else "bad"}">{escape(line)}</li>')
    parts.append("</ul>")
    parts += _section("Near-duplicates across splits", checks.leaks, own)
    parts += _section(
        "Near-duplicates", [g for g in checks.duplicates if g not in checks.leaks], own
    )
    parts.append(f"<h2>The scale</h2>{_bars(checks, labels)}")
    parts += _section("Content, by looks", checks.content, own)
    if checks.unlabelled is not None:
        parts += _section("In the folder, without a label", checks.unlabelled, other)
    parts.append(f"<h2>Distortions that the scorer sees</h2>{_distortions(checks)}")
    if checks.disagreement:
        parts += _section("People disagree", [checks.disagreement], own)
    parts.append(f"<h2>Score minus rating</h2>{_biases(checks)}")
    for bias in (bias for bias in checks.biases if bias.sure):
        parts += _section(f"{bias.part}: {bias.bias:+.2f}", [bias.pictures], own)
    head = f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title>'
    return f"{head}<style>{_STYLE}</style>{''.join(parts)}\n"


def figure(path: Path, caption: str) -> str:
    try:
        picture = PIL.Image.fromarray(pixels_of(path, 4 * SIDE * SIDE))
    except ImageError as error:
        return f"<figure>{escape(str(error))}</figure>"
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    words = escape(path.name) + (f"<br>{escape(caption)}" if caption else "")
    return (
        f'<figure><img alt="{escape(path.name)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _section(
    title: str, groups: Sequence[Sequence[int]], draw: Callable[[int], str]
) -> Iterator[str]:
    yield f"<h2>{escape(title)}</h2>"
    if not groups:
        yield "<p>None.</p>"
    for group in groups[:24]:
        more = f"<p>{len(group)} pictures</p>" if len(group) > SHOWN else ""
        yield f'<div class="row">{more}{"".join(draw(k) for k in group[:SHOWN])}</div>'
    if len(groups) > 24:
        yield f"<p>And {len(groups) - 24} more groups.</p>"


def _bars(checks: Checks, labels: Labels) -> str:
    most = max(checks.bins.values()) or 1
    rows = "".join(
        f"<tr><td>{low:g} to {low + BIN:g}</td><td>{count}</td>"
        f'<td style="text-align:left"><i class="bar" style="width:{300 * count / most:.0f}px"></i>'
        "</td></tr>"
        for low, count in checks.bins.items()
    )
    return f"<table>{rows}</table>"


def _distortions(checks: Checks) -> str:
    names = sorted({name for name, _ in checks.distortions})
    head = "".join(f"<th>{severity}</th>" for severity in SEVERITIES)
    rows = ""
    for name in names:
        cells = "".join(f"<td>{checks.distortions.get((name, s), 0)}</td>" for s in SEVERITIES)
        rows += f"<tr><td>{escape(name)}</td>{cells}</tr>"
    return f"<table><tr><th></th>{head}</tr>{rows}</table>" if names else "<p>None.</p>"


def _biases(checks: Checks) -> str:
    rows = "".join(
        f'<tr class="{"bad" if bias.sure else ""}"><td>{escape(bias.part)}</td><td>{bias.n}</td>'
        f"<td>{bias.bias:+.2f}</td><td>{bias.low:+.2f} to {bias.high:+.2f}</td></tr>"
        for bias in checks.biases
    )
    return f"<table><tr><th></th><th>n</th><th>mean</th><th>95 %</th></tr>{rows}</table>"
