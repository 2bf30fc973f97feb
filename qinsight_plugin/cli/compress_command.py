"""`qinsight compress`: pictures or video in, the smallest files that still look as good out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qinsight_plugin.cli.inputs import expand
from qinsight_plugin.cli.options import paths_argument, progress

if TYPE_CHECKING:
    from qinsight_plugin.compression.outcome import Outcome
    from qinsight_plugin.compression.presets import Preset
    from qinsight_plugin.video.target import CompressedVideo

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm", ".y4m"})

file = click.Path(dir_okay=False, path_type=Path)


@click.command("compress")
@paths_argument
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where results go, as DIR/NAME.ext, and the report.",
)
@click.option(
    "--preset",
    default="high",
    show_default=True,
    metavar="NAME",
    help="visually-lossless, high, medium or low.",
)
@click.option(
    "--formats",
    default="jpeg,webp,avif",
    show_default=True,
    metavar="LIST",
    help="Encoders to try on pictures; the smallest result is taken. Also jxl and heic.",
)
@click.option("--each", is_flag=True, help="Write a file in each format, not only the smallest.")
@click.option(
    "--floor",
    "floors",
    multiple=True,
    metavar="SCORER=X",
    help="Another floor than the preset's, for any full-reference scorer.",
)
@click.option("--driver", metavar="SCORER", help="The floor that drives the search.")
@click.option("--max-drop", type=float, metavar="X", help="The most that the score may fall.")
@click.option("--min-source", type=float, metavar="X", help="Leave alone what scores less.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="End a search this close over the driver's floor, in its units.  [default: exact]",
)
@click.option("--metadata", type=click.Choice(["keep", "strip"]), default="keep", help="EXIF, XMP.")
@click.option(
    "--profile",
    type=click.Choice(["keep", "srgb"]),
    default="keep",
    help="Keep the ICC profile, or convert to sRGB.",
)
@click.option("--codec", metavar="NAME", help="For video: x264, x265 or svt-av1.")
@click.option("--scenes", is_flag=True, help="For video: a quality factor for each scene.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--cache", type=file, metavar="FILE", help="Remember probes there, across runs.")
@click.option(
    "--learn", type=file, metavar="FILE", help="Prior curves of your own: used, and updated."
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes.  [default: number of cores]"
)
@click.option("--jsonl", is_flag=True, help="The report's lines on standard output.")
def command(paths: tuple[str, ...], folder: Path, jsonl: bool, **options: Any) -> int:
    """Make pictures and videos as small as they may be and still look as good.

    PATH is a picture, a video, or a folder of pictures (searched with its sub-folders). For each
    picture and format the lowest quality factor is searched at which the decoded result meets the
    preset; the smallest result is written. The original is copied where nothing is smaller, and
    where it is so poor that nothing tells what to keep. What DIR/qinsight-report.jsonl says is done
    is not done again, so a run that was killed goes on when the same command is given again. Videos
    are not in it; where their original is better nothing is written. Exit code 3: some file failed.

    \b
    Examples:
      qinsight compress photos/ -o web/
      qinsight compress a.png -o out/ --preset visually-lossless --formats avif,jxl
      qinsight compress photos/ -o web/ --floor ssimulacra2=80 --metadata strip
      qinsight compress clip.mp4 -o out/ --codec svt-av1
    """
    from qinsight_plugin.cli.main import EXIT_ERROR

    videos = [path for path in paths if Path(path).suffix.lower() in VIDEO_SUFFIXES]
    pictures = [path for path in paths if path not in videos]
    preset = chosen_preset(**options)
    if "-" in paths:
        raise click.UsageError("Standard input has no name to write its result under.")
    if videos and not options["codec"]:
        raise click.UsageError("Name the codec for videos: --codec x264, x265 or svt-av1.")
    shown = Shown(jsonl)
    if pictures:
        compress_pictures(pictures, folder, preset, shown, options)
    if videos:
        compress_videos(videos, folder, preset, shown, options)
    shown.end()
    return EXIT_ERROR if shown.failed else 0


def chosen_preset(
    preset: str,
    floors: Iterable[str],
    driver: str | None,
    max_drop: float | None,
    min_source: float | None,
    tolerance: float | None,
    **_: Any,
) -> Preset:
    """The preset, with what was said otherwise."""
    from qinsight_plugin.compression.presets import find_preset, with_floors

    given = {}
    for floor in floors:
        scorer, separator, text = floor.rpartition("=")
        try:
            given[scorer] = float(text)
        except ValueError:
            separator = ""
        if not separator or not scorer:
            raise click.UsageError(f"--floor {floor} is not SCORER=NUMBER.")
    chosen = with_floors(find_preset(preset), given, driver)
    numbers = {"max_drop": max_drop, "min_source": min_source, "tolerance": tolerance}
    told: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
    return dataclasses.replace(chosen, **told)


def compress_pictures(
    paths: list[str], folder: Path, preset: Preset, shown: Shown, options: dict[str, Any]
) -> None:
    from qinsight_plugin.compression.folder import FolderRun, Settings, plan
    from qinsight_plugin.compression.outcome import failure
    from qinsight_plugin.compression.priors import SHIPPED

    learn: Path | None = options["learn"]
    settings = Settings(
        preset,
        tuple(name for name in options["formats"].split(",") if name.strip()),
        options["metadata"],
        options["profile"],
        options["each"],
        learn if learn is not None and learn.exists() else SHIPPED,
        options["cache"],
    )
    run = FolderRun(
        folder,
        settings,
        overwrite=options["overwrite"],
        workers=options["workers"],
        learn=learn,
    )
    inputs = [
        item
        for item in expand(paths, skip=(folder,))
        if item.root is None or not run.is_result(Path(item.path))
    ]
    planned = iter(plan([(i.path, i.root) for i in inputs if i.error is None], folder))
    tasks = [failure(i.path, i.error) if i.error else next(planned) for i in inputs]
    for outcome in progress(run.outcomes(tasks), len(tasks), "Compressing"):
        shown.add(outcome)


def compress_videos(
    paths: list[str], folder: Path, preset: Preset, shown: Shown, options: dict[str, Any]
) -> None:
    """One after the other: encoders use every core."""
    from qinsight_plugin.compression.outcome import failure, taken_error
    from qinsight_plugin.errors import ConfigError, QInsightError
    from qinsight_plugin.video.target import VideoCompressor, target_name

    compressor = VideoCompressor(
        options["codec"], preset, scenes=options["scenes"], metadata=options["metadata"]
    )
    for path in paths:
        target = target_name(Path(path), folder)
        try:
            done = compressor.compress(Path(path), target, overwrite=options["overwrite"])
            shown.add(video_outcome(done))
        except FileExistsError:
            shown.add(failure(path, taken_error(target)))
        except ConfigError:  # a full disk stops the run
            raise
        except QInsightError as error:
            shown.add(failure(path, error))


def video_outcome(done: CompressedVideo) -> Outcome:
    from qinsight_plugin.compression.outcome import Outcome

    values = {name: round(quality.mean, 4) for name, quality in done.quality.items()}
    lows = {f"{name} p10": round(quality.low, 4) for name, quality in done.quality.items()}
    factors = ", ".join(map(str, done.quality_factors))
    return Outcome(
        done.source,
        "kept" if done.kept else "compressed",
        {done.path: done.bytes_after} if done.path else {},
        f"{done.codec} CRF {factors}" if factors else "",
        None,
        done.bytes_before,
        done.bytes_after,
        score_before=done.score_before,
        values={**values, **lows},
        certificate=done.certificate,
        kept=done.kept,
        probes=done.probes,
        seconds=round(done.seconds, 3),
        notes=(f"{done.encodes} encodes, the last took {done.encode_seconds:.1f} s",),
    )


class Shown:
    """The rows of a run on standard output, and its sum at the end on standard error."""

    def __init__(self, jsonl: bool) -> None:
        self._jsonl = jsonl
        self._before = self._after = self._files = self._probes = 0
        self.failed = 0

    def add(self, outcome: Outcome) -> None:
        if self._jsonl:
            click.echo(json.dumps(dataclasses.asdict(outcome)))
        else:
            click.echo(row(outcome))
        if outcome.error is not None:
            self.failed += 1
            return
        self._files += 1
        self._before += outcome.bytes_before or 0
        self._after += outcome.bytes_after or 0
        self._probes += 0 if outcome.state == "done before" else outcome.probes

    def end(self) -> None:
        saved = self._before - self._after
        share = f" ({saved / self._before:.0%})" if self._before else ""
        failed = f", {self.failed} failed" if self.failed else ""
        click.echo(
            f"{self._files} files{failed}: {self._before:,} bytes -> {self._after:,}, saved "
            f"{saved:,}{share}; {self._probes} probes",
            err=True,
        )


def row(outcome: Outcome) -> str:
    """One line for people."""
    if outcome.error is not None:
        return f"{outcome.source}: {outcome.error}"
    arrow = outcome.source
    if outcome.outputs:
        arrow += f" -> {', '.join(outcome.outputs)}"
    if outcome.kept:
        return f"{arrow}: original kept, {outcome.kept}"
    scores = "".join(f", {name} {value:.4g}" for name, value in outcome.values.items())
    if outcome.score_before is not None and outcome.score_after is not None:
        scores += f", score {outcome.score_before:.2f} -> {outcome.score_after:.2f}"
    before, after = outcome.bytes_before or 0, outcome.bytes_after or 0
    share = f" (-{1 - after / before:.0%})" if before else ""
    factor = "" if outcome.quality_factor is None else f" {outcome.quality_factor}"
    state = " (done before)" if outcome.state == "done before" else ""
    return (
        f"{arrow}{state}: {outcome.format}{factor}, {before:,} -> {after:,} bytes"
        f"{share}{scores}; {outcome.probes} probes, {outcome.seconds:.1f} s"
    )
