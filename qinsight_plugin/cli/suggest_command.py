"""`qinsight suggest`: small edits that would make a photograph look better, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.inputs import expand
from qinsight_plugin.cli.options import paths_argument, scorer_option

if TYPE_CHECKING:
    from qinsight_plugin.tune.suggestions import Suggestions


@click.command("suggest")
@paths_argument
@scorer_option
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write a picture of before and after for each that can be improved.",
)
@click.option("--min-gain", type=click.FloatRange(min=0), help="What an edit must be worth.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, for editors.")
def command(
    paths: tuple[str, ...], scorer: str, folder: Path | None, min_gain: float | None, as_json: bool
) -> int:
    """Suggest small edits: exposure, contrast, white balance, saturation, denoise, sharpen.

    Each edit is shown with what it adds to the score. Nothing is suggested where none is worth it;
    no file is changed. Exit code 3: some picture could not be used.

    \b
    Examples:
      qinsight suggest photo.jpg
      qinsight suggest photos/ -o edits/ --json > edits.jsonl
    """
    from qinsight_plugin.cli.main import EXIT_ERROR
    from qinsight_plugin.errors import ImageError
    from qinsight_plugin.tune.suggestions import MIN_GAIN, suggest

    failed = False
    for item in expand(paths):
        try:
            if item.error is not None:
                raise item.error
            least = MIN_GAIN if min_gain is None else min_gain
            found = suggest(item.source, scorer=scorer, min_gain=least)
        except ImageError as error:
            failed = True
            line = json.dumps({"source": item.path, "error": str(error)})
            click.echo(line if as_json else f"{item.path}: {error}")
            continue
        shown = save_pair(found, folder) if folder is not None and found.edits else None
        click.echo(json.dumps(document(found, shown)) if as_json else words(found, shown))
    return EXIT_ERROR if failed else 0


def document(found: Suggestions, shown: Path | None) -> dict[str, Any]:
    return {
        "source": found.source,
        "before": round(found.before, 3),
        "after": round(found.after, 3),
        "edits": [
            {
                "edit": edit.edit,
                "strength": edit.strength,
                "unit": edit.unit,
                "gain": round(edit.gain, 3),
                "worth": round(edit.worth, 3),
            }
            for edit in found.edits
        ],
        "picture": None if shown is None else str(shown),
    }


def words(found: Suggestions, shown: Path | None) -> str:
    if not found.edits:
        return f"{found.source}: {found.before:.2f}, nothing to suggest"
    lines = [f"{found.source}: {found.before:.2f} -> {found.after:.2f}"]
    lines += [
        f"  {edit.edit} {edit.strength:+g} {edit.unit}".rstrip()
        + f": score {edit.gain:+.2f}, worth {edit.worth:.2f}"
        for edit in found.edits
    ]
    if shown is not None:
        lines.append(f"  {shown}")
    return "\n".join(lines)


def save_pair(found: Suggestions, folder: Path) -> Path:
    """Before and after, side by side.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    from PIL import Image

    from qinsight_plugin.errors import ConfigError

    pictures = [Image.fromarray(pixels) for pixels in (found.original, found.edited)]
    for picture in pictures:
        picture.thumbnail((1024, 1024))
    width, height = pictures[0].size
    pair = Image.new("RGB", (2 * width + 8, height), "white")
    pair.paste(pictures[0], (0, 0))
    pair.paste(pictures[1], (width + 8, 0))
    stem = Path(found.source).stem.strip("<>")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{stem}-before-after.jpg"
        for number in range(1, 10_000):
            if not path.exists():
                break
            path = folder / f"{stem}-before-after-{number}.jpg"
        pair.save(path, quality=90)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from error
    return path
