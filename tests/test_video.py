"""Video: real ffmpeg, real encoders, small clips made of photographs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from qinsight_plugin.cli.main import cli
from qinsight_plugin.compression.presets import Preset
from qinsight_plugin.encoders import videos
from qinsight_plugin.encoders.videos import find_ffmpeg
from qinsight_plugin.errors import (
    ConfigError,
    EncoderError,
    EncoderMissingError,
    FloorUnreachedError,
    MissingExtraError,
    QInsightError,
    VideoError,
)
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.video import ffmpeg, target
from qinsight_plugin.video.clip import Clip, count_frames, frames, open_clip
from qinsight_plugin.video.ladder import Ladder, Rendition, Rung, hull, make_ladder, playlist
from qinsight_plugin.video.sample_search import least_low
from qinsight_plugin.video.samples import Yardstick, pieces, pooled, spread, take_samples
from qinsight_plugin.video.scenes import Scene, find_scenes, split
from qinsight_plugin.video.target import VideoCompressor, target_name

from .conftest import Run

RATE, SIZE = 24, (192, 108)
QUICK = Preset({"ssimulacra2": 60.0, "ssim": 0.5}, min_source=1.0)


@pytest.fixture(scope="session")
def program() -> str:
    try:
        return find_ffmpeg()
    except QInsightError as error:
        pytest.skip(f"needs ffmpeg: {error}")


def write_clip(program: str, path: Path, seconds: float, *options: str, sound: bool = True) -> Path:
    """Pans over two photographs, one after the other, nearly without loss."""
    photographs = [skimage.data.astronaut(), skimage.data.coffee()]
    count = round(seconds * RATE)
    raw = bytearray()
    for index in range(count):
        scene, place = divmod(2 * index / count, 1)
        picture = PILImage.fromarray(photographs[int(scene)])
        left = place * (picture.width - 400)
        raw += picture.resize(SIZE, box=(left, 60, left + 400, 285)).tobytes()
    tone = ("-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}") if sound else ()
    codec = options or (
        "-c:v",
        "libx264",
        "-crf",
        "4",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
    )
    subprocess.run(
        [program, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s",
         f"{SIZE[0]}x{SIZE[1]}", "-r", str(RATE), "-i", "-", *tone, *codec, str(path)],
        input=bytes(raw), check=True,
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def clip(program: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(program, tmp_path_factory.mktemp("clip") / "clip.mp4", 6)


def sound_of(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return len(container.streams.audio)


def test_a_clip_is_what_ffmpeg_made(clip: Path) -> None:
    looked = open_clip(clip)
    assert (looked.width, looked.height, float(looked.rate)) == (*SIZE, RATE)
    assert looked.seconds == pytest.approx(6, abs=0.1)
    assert count_frames(clip) == 144
    (one,) = frames(clip, [70])
    assert one.shape == (108, 192, 3)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["x264", "x265", "svt-av1"])
def test_the_finished_file_meets_its_floor(clip: Path, tmp_path: Path, codec: str) -> None:
    target = tmp_path / "out" / "clip.mp4"
    done = VideoCompressor(codec, QUICK).compress(clip, target)
    assert done.path == str(target)
    assert done.bytes_after == target.stat().st_size < done.bytes_before
    # Measured anew, on other frames than the search and the verification looked at.
    quality = Yardstick(clip, 17).quality(target, Pipeline("ssimulacra2"))
    assert quality.mean > 58.5
    assert done.quality["ssimulacra2"].mean >= 60
    assert done.quality["ssimulacra2"].low >= least_low(60, (0, 100))
    assert count_frames(target) == 144
    assert sound_of(target) == 1
    assert [path.name for path in target.parent.iterdir()] == ["clip.mp4"]


@pytest.mark.slow
def test_scene_by_scene(clip: Path, tmp_path: Path) -> None:
    assert find_scenes(clip) == [Scene(0, 72), Scene(72, 144)]
    target = tmp_path / "clip.mp4"
    done = VideoCompressor("x264", QUICK, scenes=True).compress(clip, target)
    assert len(done.quality_factors) == 2
    assert count_frames(target) == 144
    assert done.quality["ssimulacra2"].mean >= 60
    assert sound_of(target) == 1


@pytest.mark.slow
def test_the_command_line(qinsight: Run, clip: Path, tmp_path: Path) -> None:
    arguments = ("compress", clip, "-o", tmp_path, "--codec", "x264?preset=ultrafast",
                 "--floor", "ssimulacra2=60", "--min-source", "1")  # fmt: skip
    done = qinsight(*arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"clip\.mp4: x264\?preset=ultrafast CRF \d+, [\d,]+ -> [\d,]+ bytes", done.stdout
    )
    again = qinsight(*arguments)
    assert again.returncode == 3
    assert "is there already: say --overwrite" in again.stdout
    (tmp_path / "junk.mp4").write_bytes(b"no video at all")
    for name, why in (("junk.mp4", "is no video that can be read"), ("gone.mkv", "does not exist")):
        done = qinsight("compress", tmp_path / name, "-o", tmp_path / "o", "--codec", "x264")
        assert (done.returncode, why in done.stdout) == (3, True)
        assert "Traceback" not in done.stderr
    assert qinsight("compress", clip, "-o", tmp_path).returncode == 2  # no codec named


def test_what_was_filmed_on_its_side_is_compared_upright(
    clip: Path, program: str, tmp_path: Path
) -> None:
    turned, encoded = tmp_path / "turned.mp4", tmp_path / "encoded.mkv"
    copy = ["-i", str(clip), "-t", "1", "-c", "copy", str(turned)]
    subprocess.run([program, "-loglevel", "error", "-display_rotation", "90", *copy], check=True)
    assert (open_clip(turned).width, open_clip(turned).height) == (SIZE[1], SIZE[0])
    ffmpeg.encode(program, turned, ["-c:v", "ffv1"], encoded)
    same = next(frames(encoded)).astype(int) - next(frames(turned))
    assert np.abs(same).mean() < 1
    assert next(frames(turned, size=(54, 96))).shape == (96, 54, 3)


@pytest.mark.slow
def test_where_a_video_was_made_is_stripped_when_asked(
    qinsight: Run, clip: Path, program: str, tmp_path: Path
) -> None:
    tagged = tmp_path / "tagged.mp4"
    subprocess.run(
        [program, "-loglevel", "error", "-i", str(clip), "-c", "copy", "-metadata",
         "title=at home", str(tagged)], check=True,
    )  # fmt: skip
    for choice in ("keep", "strip"):
        out = tmp_path / choice
        done = qinsight("compress", tagged, "-o", out, "--codec", "x264?preset=ultrafast",
                        "--floor", "ssimulacra2=60", "--min-source", "1",
                        "--metadata", choice)  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert (b"at home" in (out / "tagged.mp4").read_bytes()) == (choice == "keep")


def test_a_shortfall_always_leads_to_another_crf(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that lie well over the floor hide a whole that lies a little under it."""
    shortfalls = iter([0.01, 0.0])
    tried: list[int] = []

    def shortfall(job: Any, finished: Path) -> float:
        tried.extend(job._factors)
        return next(shortfalls)

    monkeypatch.setattr(target._Job, "_shortfall", shortfall)
    VideoCompressor("x264?preset=ultrafast", QUICK).compress(clip, tmp_path / "clip.mp4")
    assert tried[1] < tried[0]


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_file(clip: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qinsight_plugin", "compress", str(clip), "-o", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--codec", "svt-av1?preset=2"], stderr=subprocess.PIPE, start_new_session=True
    )
    for _ in range(600):
        if list(tmp_path.glob(".qinsight-*/*.mkv")):
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error.decode()
    assert list(tmp_path.iterdir()) == []


def test_what_eight_bits_cannot_keep_is_refused(program: str, tmp_path: Path) -> None:
    deep = ("-c:v", "ffv1", "-pix_fmt", "yuv420p10le")
    with pytest.raises(VideoError, match="10 bits a sample"):
        open_clip(write_clip(program, tmp_path / "deep.mkv", 0.2, *deep, sound=False))
    # By a filter: newer versions of ffmpeg do not take the output's option for it.
    pq = ("-vf", "setparams=color_trc=smpte2084", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    with pytest.raises(VideoError, match=r"HDR \(PQ\)"):
        open_clip(write_clip(program, tmp_path / "hdr.mp4", 0.2, *pq, sound=False))


def test_a_file_without_frames_is_refused(program: str, tmp_path: Path) -> None:
    sound = tmp_path / "sound.mkv"
    subprocess.run(
        [program, "-loglevel", "error", "-f", "lavfi", "-i", "sine=duration=1", str(sound)],
        check=True,
    )
    with pytest.raises(VideoError, match="holds no video"):
        open_clip(sound)
    empty = write_clip(program, tmp_path / "whole.mp4", 0.5, sound=False)
    headless = tmp_path / "none.mkv"
    subprocess.run(
        [program, "-loglevel", "error", "-i", str(empty), "-frames:v", "0", "-c:v", "ffv1",
         str(headless)], check=False, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with pytest.raises(VideoError):
        open_clip(headless)


@pytest.mark.slow
def test_a_floor_out_of_reach_says_the_best(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(FloorUnreachedError, match=r"best reached is \d"):
        VideoCompressor(
            "x264?preset=ultrafast", Preset({"ssimulacra2": 99.9}, min_source=1.0)
        ).compress(clip, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_no_ffmpeg_and_no_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtraError, match=r"needs ffmpeg.*\[video\]"):
        find_ffmpeg()
    monkeypatch.setenv(videos.FFMPEG_VARIABLE, str(tmp_path / "ffmpeg"))
    with pytest.raises(EncoderMissingError, match="no program that runs"):
        find_ffmpeg()
    # An ffmpeg of someone's own, without SVT-AV1.
    own = tmp_path / "ffmpeg"
    own.write_text("#!/bin/sh\necho ' ------'\necho ' V....D libx264  H.264'\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(EncoderMissingError, match="was built without libsvtav1: install Debian's"):
        videos.SPECS[2].load({})
    assert videos.SPECS[0].load({}).codec == "libx264"


def test_ffmpegs_own_words_are_passed_on(program: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="ffmpeg failed: "):
        ffmpeg.encode(program, tmp_path / "gone.mp4", ["-c:v", "libx264"], tmp_path / "a.mkv")


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    failing = tmp_path / "ffmpeg"
    failing.write_text(
        "#!/bin/sh\necho 'av_interleaved_write_frame(): No space left on device' >&2\nexit 1\n"
    )
    failing.chmod(0o755)
    with pytest.raises(ConfigError, match="no space left on the disk"):
        ffmpeg.run(str(failing), [], "encoding")


@given(st.floats(0.5, 20_000))
def test_pieces_lie_in_the_video_and_apart(seconds: float) -> None:
    found = pieces(seconds)
    assert found[0][0] >= 0
    assert found[-1][0] + found[-1][1] <= seconds + 1e-6
    assert all(a + length <= b + 1e-6 for (a, length), (b, _) in pairwise(found))
    if seconds >= 720:
        assert sum(length for _, length in found) == pytest.approx(20 * np.ceil(seconds / 720))


def test_samples_hold_the_frames_of_the_source(clip: Path, program: str, tmp_path: Path) -> None:
    sample = take_samples(program, open_clip(clip), tmp_path)
    source = np.stack([frame[::4, ::4] for frame in frames(clip)]).astype(int)
    for frame in frames(sample):
        assert np.abs(source - frame[::4, ::4]).mean((1, 2, 3)).min() < 1  # another colour path


@given(st.integers(1, 2000), st.integers(1, 40))
def test_frames_are_spread_evenly(total: int, count: int) -> None:
    found = spread(total, count)
    assert found == sorted(set(found))
    assert len(found) == min(total, count)
    assert 0 <= found[0] <= found[-1] < total


def test_pooling_looks_at_the_bad_end() -> None:
    assert pooled([1, 2, 3, 4, 5]).low == pytest.approx(1.4)
    assert pooled([1, 2, 3, 4, 5], higher_is_better=False).low == pytest.approx(4.6)


def test_cuts_are_found_and_flicker_is_not() -> None:
    still = np.full(200, 2.0)
    still[100] = 80
    assert split(still) == [Scene(0, 100), Scene(100, 200)]
    assert split(np.full(200, 60.0)) == [Scene(0, 200)]  # all is motion
    still[110] = 80  # too short a scene
    assert split(still) == [Scene(0, 100), Scene(100, 200)]
    assert Scene(0, 100).middle(25) == (1.0, 2.0)


def rendition(kbps: float, quality: float, height: int = 360, factor: int = 30) -> Rendition:
    return Rendition(height * 16 // 9, height, factor, kbps, quality)


@given(st.lists(st.tuples(st.floats(10, 1e4), st.floats(0, 100)), min_size=1, max_size=30))
def test_no_rendition_lies_over_the_hull(points: list[tuple[float, float]]) -> None:
    """Against scipy's interpolation along the hull."""
    all_of_them = [rendition(*point) for point in points]
    kept = hull(all_of_them)
    assert set(kept) <= set(all_of_them)
    rates = np.log([p.kbps for p in kept])
    qualities = [p.quality for p in kept]
    assert sorted(qualities) == qualities
    for point in all_of_them:
        assert point.quality <= np.interp(np.log(point.kbps), rates, qualities) + 1e-4


@pytest.mark.slow
def test_a_ladder(qinsight: Run, clip: Path, tmp_path: Path) -> None:
    import json

    plot, hls = tmp_path / "ladder.png", tmp_path / "master.m3u8"
    arguments = (
        "--codec",
        "x264?preset=veryfast",
        "--heights",
        "108,72,54",
        "--bandwidths",
        "5,60,400",
    )
    done = qinsight("ladder", clip, *arguments, "--plot", plot, "--hls", hls, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for rung in found["rungs"]:
        best = rung["rendition"]
        fitting = [p["quality"] for p in found["points"] if p["kbps"] <= rung["bandwidth"]]
        assert best is None if not fitting else best["quality"] >= max(fitting)
    with PILImage.open(plot) as picture:
        assert picture.width == 1000
    text = hls.read_text()
    assert text.startswith("#EXTM3U\n")
    bands = [int(band) for band in re.findall(r":BANDWIDTH=(\d+)", text)]
    assert bands == sorted(bands)
    assert qinsight("ladder", clip, *arguments, "--hls", hls).returncode == 2  # it is there


def test_a_playlist_is_written_even_where_the_plot_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, low = Clip(Path("a.mp4"), 640, 360, Fraction(25), 10.0, 1e6), rendition(90, 50)
    made = Ladder(clip, "x264", "ssimulacra2", (low,), (low,), (Rung(100, low),))
    hls, plot = tmp_path / "master.m3u8", tmp_path / "folder" / "plot.png"
    plot.parent.mkdir()

    def make(*_: object, **__: object) -> Ladder:
        plot.parent.rmdir()  # it was there when the command began
        return made

    monkeypatch.setattr("qinsight_plugin.video.ladder.make_ladder", make)
    done = CliRunner().invoke(cli, ["ladder", "a.mp4", "--hls", str(hls), "--plot", str(plot)])
    assert isinstance(done.exception, ConfigError)
    assert "cannot be written" in str(done.exception)
    assert hls.read_text().startswith("#EXTM3U\n")


def test_a_playlist_lists_each_rendition_once() -> None:
    clip = Clip(Path("a.mp4"), 640, 360, Fraction(25), 10.0, 1e6)
    low, high = rendition(90, 50), rendition(900, 80, 720, 22)
    rungs = (Rung(50, None), Rung(100, low), Rung(200, low), Rung(1000, high))
    text = playlist(Ladder(clip, "x264", "ssimulacra2", (low, high), (low, high), rungs))
    assert text.count("#EXT-X-STREAM-INF") == 2
    assert "BANDWIDTH=100000,AVERAGE-BANDWIDTH=90000,RESOLUTION=640x360,FRAME-RATE=25.000" in text
    with pytest.raises(EncoderError, match="no rendition"):
        playlist(Ladder(clip, "x264", "ssimulacra2", (), (), (Rung(1, None),)))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda clip: make_ladder(clip, []), "bandwidths over 0"),
        (lambda clip: make_ladder(clip, [100], codec="vp9"), "no encoder of videos is named 'vp9'"),
        (lambda clip: make_ladder(clip, [100], scorer="student"), "cannot judge renditions"),
        (lambda clip: VideoCompressor("x264", Preset({"student": 3.0})), "looks at no reference"),
    ],
)
def test_nonsense_is_refused(clip: Path, make: object, why: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=why):
        make(clip)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ladder", "--heights", "nan"),
        ("ladder", "--bandwidths", "100,inf"),
        ("ladder", "--bandwidths", "many"),
        ("eval-compress", "--floors", "high"),
    ],
)
def test_numbers_that_are_none_are_wrong_usage(
    qinsight: Run, clip: Path, arguments: tuple[str, ...]
) -> None:
    done = qinsight(arguments[0], clip, *arguments[1:])
    assert (done.returncode, "is not a list of numbers" in done.stderr) == (2, True), done.stderr


def test_the_result_is_mp4_where_the_source_was_like_it() -> None:
    assert target_name(Path("x/a.MOV"), Path("o")) == Path("o/a.mp4")
    assert target_name(Path("x/a.webm"), Path("o")) == Path("o/a.mkv")
