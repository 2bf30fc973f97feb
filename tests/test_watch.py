"""Watching: samples, events, and streams that do all that streams do."""

from __future__ import annotations

import io
import itertools
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qinsight_plugin.errors import ConfigError, VideoError
from qinsight_plugin.hookspecs import hookimpl
from qinsight_plugin.plugins import default_host
from qinsight_plugin.records import Gate
from qinsight_plugin.watch.alarms import Alarm, Smoother, Usual
from qinsight_plugin.watch.feeds import FolderFeed, Frame, StreamFeed, without_password
from qinsight_plugin.watch.sampling import Pace, sampled
from qinsight_plugin.watch.timeline import Timeline
from qinsight_plugin.watch.watching import Policy, Sample, watch

from .conftest import Pixels, Run
from .live_stream import FPS, Fault, LiveServer, Play, encoded, footage

pytest.importorskip("av")

POLICY = Policy(Gate(min_score=3.0), lasting=1.0)


def dark(pixels: Pixels) -> Pixels:
    return (pixels * 0.08).astype(np.uint8)


# Events.


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 6))
def test_an_event_comes_once_a_state_has_lasted(states: list[bool], lasting: int) -> None:
    """Against the definition: the last `lasting` seconds, both ends included, all alike."""
    alarm, active = Alarm("degraded", "recovered", float(lasting)), False
    since_event = 0
    for second, bad in enumerate(states):
        event = alarm.update(float(second), bad, not bad)
        run = states[max(since_event, second - lasting) : second + 1]
        due = len(run) == lasting + 1 and all(one != active for one in run)
        assert (event is not None) == due
        if event is not None:
            active, since_event = not active, second + 1
            assert event.kind == ("degraded" if active else "recovered")
            assert event.since == second - lasting


def test_what_is_neither_bad_nor_good_changes_nothing() -> None:
    alarm = Alarm("degraded", "recovered", 1)
    for second in range(3):
        alarm.update(second, True, False)
    assert alarm.active
    for second in range(3, 9):
        assert alarm.update(second, False, False) is None
    assert alarm.active


@given(
    st.lists(st.floats(1, 5), min_size=1, max_size=30), st.integers(1, 4).map(lambda n: 2 * n - 1)
)
def test_the_running_median_is_that_of_scipy(values: list[float], window: int) -> None:
    smoother = Smoother(window)
    ours = [smoother.add(float(k), value).value for k, value in enumerate(values)]
    # SciPy's window is centred; before the first value there is none.
    theirs = scipy.ndimage.median_filter(values, window, origin=window // 2, mode="nearest")
    assert ours[window - 1 :] == pytest.approx(theirs[window - 1 :])


def test_a_change_that_shows_now_is_dated_back() -> None:
    smoother = Smoother(3)
    for second, value in enumerate((4.0, 4.1, 2.0, 2.1)):
        found = smoother.add(second, value)
    assert (found.value, found.below) == (2.1, 2)


@given(st.lists(st.floats(1, 5), min_size=5, max_size=200), st.floats(0.1, 5))
def test_what_is_usual_is_the_median_of_the_last_minute(values: list[float], step: float) -> None:
    usual = Usual()
    for number, value in enumerate(values):
        usual.add(number * step, value)
    last = (len(values) - 1) * step
    minute = [value for number, value in enumerate(values) if number * step >= last - 60]
    assert usual.value == (np.median(minute) if len(minute) >= 5 else None)


# Sampling.


@given(st.floats(0.5, 30), st.integers(1, 120))
def test_a_file_is_sampled_at_the_rate(rate: float, fps: int) -> None:
    pace = Pace(rate, None)
    due = sum(pace.is_due(number / fps) for number in range(10 * fps))
    assert due == pytest.approx(10 * min(rate, fps), abs=1 + 0.01 * rate)


def test_a_budget_lowers_the_rate() -> None:
    pace = Pace(10, 0.25)
    times = []
    for number in range(3000):
        if pace.is_due(number / 100):
            times.append(number / 100)
            pace.spent(0.1)  # seconds: 0.4 between frames keep to a quarter of a core
    assert np.diff(times)[-20:] == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(("rate", "budget"), [(0, None), (-1, None), (1, 0), (float("nan"), None)])
def test_an_impossible_pace_is_refused(rate: float, budget: float | None) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        Pace(rate, budget)


class Fast:
    """A live feed of a hundred frames a second, once."""

    name, live = "fast", True

    def __init__(self) -> None:
        self._left = iter(range(60))

    def frames(self) -> Iterator[Frame]:
        for number in self._left:
            time.sleep(0.01)
            yield Frame(0.0, lambda: b"", (1, 1), str(number))
        raise VideoError("fast broke off")


def test_a_slow_watcher_gets_the_newest_frame_and_every_one_is_counted() -> None:
    taken = []
    for one in sampled(Fast(), Pace(None, None)):
        if one.frame is None:
            break
        taken.append(one)
        time.sleep(0.05)
    assert one.problem == "fast broke off"
    assert sum(t.dropped + 1 for t in taken) == 60
    assert sum(t.dropped for t in taken) > 20
    numbers = [int(t.frame.name) for t in taken if t.frame is not None]
    assert numbers == sorted(numbers)


# Files.


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, astronaut: Pixels) -> Path:
    """Nine seconds, of which the middle three are dark."""
    frame = footage(astronaut, 320, 240)
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = (dark(frame(n)) if 3 * FPS <= n < 6 * FPS else frame(n) for n in range(9 * FPS))
    path.write_bytes(encoded(frames, "mp4"))
    return path


def test_a_fault_in_a_file_is_reported_and_its_end_too(clip: Path) -> None:
    told = []

    class Sink:
        @hookimpl
        def qinsight_report_ready(self, report: object, verdict: object) -> None:
            told.append((report, verdict))

    host, sink = default_host(), Sink()
    host.add(sink, "sink", "this test")
    try:
        samples = list(watch(clip, policy=POLICY))
    finally:
        host.manager.unregister(sink)
    assert len(samples) == len(told) == 45
    assert sum(sample.skipped for sample in samples) == 9 * FPS - 45 - 4  # those after the last
    events = [event for sample in samples for event in sample.events]
    assert [event.kind for event in events] == ["degraded", "recovered"]
    for event, began in zip(events, (3, 6), strict=True):
        assert event.since == pytest.approx(began, abs=0.001)
        assert began + 1 <= event.seconds <= began + 1.2 + 0.001  # T, and one sample


@pytest.mark.slow
def test_a_file_played_in_real_time_takes_its_time(clip: Path) -> None:
    began = time.monotonic()
    samples = list(watch(clip, policy=POLICY, realtime=True, duration=2))
    assert 1.5 < time.monotonic() - began < 20
    assert all(sample.seconds < 2 for sample in samples)


@pytest.mark.parametrize("name", ["none.mp4", "text.mp4", "empty.mp4"])
def test_what_is_no_video_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_text("")
    with pytest.raises(VideoError) as caught:
        list(watch(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_an_impossible_policy_is_refused_before_the_first_frame(clip: Path) -> None:
    with pytest.raises(ConfigError, match="min_score"):
        watch(clip, policy=Policy(Gate(min_score=float("nan"))))
    with pytest.raises(ConfigError, match="lasting"):
        Policy(lasting=-1)


# Folders.


@pytest.mark.slow
def test_a_folder_that_is_being_filled(tmp_path: Path, astronaut: Pixels) -> None:
    """A picture is looked at once it is whole, once; junk is reported and passed over."""
    whole = io.BytesIO()
    Image.fromarray(astronaut[:128, :128]).save(whole, "PNG")

    def fill() -> None:
        (tmp_path / "a.png").write_bytes(whole.getvalue())
        with (tmp_path / "b.png").open("wb") as file:
            for start in range(0, len(whole.getvalue()), 4096):
                file.write(whole.getvalue()[start : start + 4096])
                file.flush()
                time.sleep(0.02)
        (tmp_path / "c.png").write_bytes(b"junk")
        (tmp_path / "notes.txt").write_text("no picture")

    thread = threading.Thread(target=fill)
    thread.start()
    feed = FolderFeed(tmp_path, poll=0.3, idle=2.5)
    reports = [sample.report for sample in watch(feed) if sample.report is not None]
    thread.join()
    assert sorted(Path(report.source).name for report in reports) == ["a.png", "b.png", "c.png"]
    errors = {Path(report.source).name: report.error for report in reports}
    assert errors["a.png"] is errors["b.png"] is None
    assert errors["c.png"] is not None


class Clip:
    """Two frames a second: 5 seconds as it is, 5 darkened, 5 as it is."""

    name, live = "clip", False

    def __init__(self, picture: Pixels) -> None:
        self._picture = picture

    def frames(self) -> Iterator[Frame]:
        for number in range(30):
            shown = dark(self._picture) if 10 <= number < 20 else self._picture
            yield Frame(number / 2, lambda shown=shown: shown, (512, 512), str(number))  # type: ignore[misc]


def test_a_fall_under_the_usual_is_an_event_whatever_the_score(astronaut: Pixels) -> None:
    def events(policy: Policy) -> list[tuple[str, float, float]]:
        samples = watch(Clip(astronaut), rate=None, policy=policy)
        return [(e.kind, e.since, e.seconds) for s in samples for e in s.events]

    assert events(Policy(lasting=1.0)) == []
    fallen = events(Policy(lasting=1.0, fall=0.5))
    # Certain once it has lasted a second, and half of the median's window has seen it.
    assert fallen == [("degraded", 5.0, 6.0), ("recovered", 10.0, 11.0)]


def test_a_duration_of_nothing_and_a_scorer_with_a_reference_are_refused(clip: Path) -> None:
    with pytest.raises(ConfigError, match="duration must be above 0 seconds, not -1"):
        watch(clip, duration=-1)
    with pytest.raises(ConfigError, match="scorer ssim needs a reference"):
        watch(clip, scorer="ssim")


def test_a_fall_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="fall must be 0 or more, not nan"):
        Policy(fall=float("nan"))


# Cameras.


class Camera:
    """As cv2.VideoCapture: no camera is at hand where tests run. Comes back when opened again."""

    opened = 0

    def __init__(self, device: object) -> None:
        self._there = device != 9
        self._left = 40
        type(self).opened += 1

    def isOpened(self) -> bool:  # noqa: N802
        return self._there

    def read(self) -> tuple[bool, Pixels | None]:
        time.sleep(0.01)
        self._left -= 1
        picture = np.full((64, 64, 3), (255, 0, 0), np.uint8)  # blue, in OpenCV's order
        return (True, picture) if self._left > 0 else (False, None)

    def release(self) -> None:
        pass


@pytest.mark.slow
def test_a_camera_that_is_pulled_out_and_put_back() -> None:
    Camera.opened = 0
    samples = list(watch(0, driver=Camera, rate=None, duration=2.5, policy=Policy(lasting=0.1)))
    kinds = [event.kind for sample in samples for event in sample.events]
    assert Camera.opened >= 2
    assert kinds[:2] == ["lost", "returned"]


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(VideoError, match="camera 9 cannot be opened"):
        list(watch(9, driver=Camera))


# Streams.


def played(astronaut: Pixels, seen: list[str]) -> Iterator[Play | Fault]:
    """One thing after the other, each until the watcher has seen it."""
    a, b = footage(astronaut, 320, 240), footage(astronaut, 400, 304)

    seconds = itertools.count()

    def play(frame: Callable[[int], Pixels]) -> Play:
        first = next(seconds) * FPS  # a clock that jumps back would confuse who joins
        return Play(encoded((frame(first + n) for n in range(FPS)), first=first), 1)

    def until(
        kind: str, frame: Callable[[int], Pixels] | None, times: int = 1
    ) -> Iterator[Play | Fault]:
        while seen.count(kind) < times:
            yield Fault("silence", 0.2) if frame is None else play(frame)

    yield play(a)
    yield from until("resized", b)
    yield from until("lost", None)
    yield from until("returned", a)
    yield Fault("drop", 2)
    yield from until("returned", a, 2)
    yield from until("frozen", lambda _: a(0))
    yield from until("moving", a)
    yield from until("degraded", lambda number: dark(a(number)))
    yield from until("recovered", a)


@pytest.mark.slow
def test_a_stream_is_followed_through_all_that_goes_wrong(astronaut: Pixels) -> None:
    policy = Policy(Gate(min_score=3.0), lasting=1, freeze=1)
    seen: list[str] = []
    with LiveServer(played(astronaut, seen)) as server:
        for sample in watch(StreamFeed(server.address, timeout=5), policy=policy, duration=300):
            seen += [event.kind for event in sample.events]
            if "recovered" in seen:
                break
    assert "recovered" in seen
    assert server.connections >= 2
    assert seen.count("lost") == seen.count("returned") >= 2


@pytest.mark.slow
def test_an_address_that_never_answers() -> None:
    """It accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        with pytest.raises(VideoError, match=r"did not answer for 0\.5 s: check the address"):
            list(watch(StreamFeed(address, timeout=0.5)))
        assert time.monotonic() - began < 15
    with pytest.raises(VideoError, match="cannot be read"):
        list(watch(StreamFeed(address, timeout=0.5)))  # now nobody listens


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://me:secret@cam:554/1", "rtsp://cam:554/1"),
        ("http://cam/a@b", "http://cam/a@b"),
        ("clip.mp4", "clip.mp4"),
    ],
)
def test_a_password_is_not_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown
    assert StreamFeed(address).name == shown


# What comes out.


def made(seconds: float, value: float) -> Sample:
    from qinsight_plugin.records import Report, Score

    return Sample(seconds, Report("a", "student", Score(value)), value, None, (), False, 1, 2, 0.01)


@given(st.lists(st.floats(1, 5), min_size=1, max_size=300))
def test_a_timeline_keeps_mean_and_extremes_in_little_memory(values: list[float]) -> None:
    timeline = Timeline(most=16)
    for second, value in enumerate(values):
        timeline.add(made(float(second), value))
    spans = timeline.spans
    assert len(spans) <= 16
    assert min(span.low for span in spans) == min(values)
    assert max(span.high for span in spans) == max(values)
    mean = sum(span.mean * span.count for span in spans) / sum(span.count for span in spans)
    assert mean == pytest.approx(np.mean(values))


def test_prometheus_reads_the_metrics() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    from qinsight_plugin.watch.metrics import Metrics

    metrics = Metrics("camera 0", 0)
    try:
        for second in range(3):
            metrics.add(made(float(second), 4.0))
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as answer:
            text = answer.read().decode()
        with pytest.raises(ConfigError, match="cannot listen"):
            Metrics("camera 1", metrics.port)
    finally:
        metrics.close()
    found = {
        (sample.name, sample.labels.get("fate")): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["qinsight_score", None] == 4
    assert found["qinsight_frames_total", "scored"] == 3
    assert found["qinsight_frames_total", "dropped"] == 6


@pytest.mark.slow
def test_the_command_writes_lines_and_a_plot(tmp_path: Path, clip: Path, qinsight: Run) -> None:
    pytest.importorskip("matplotlib")
    lines, plot = tmp_path / "log.jsonl", tmp_path / "plot.png"
    arguments = ("--min-score", "3", "--for", "1", "--jsonl", lines, "--plot", plot)
    done = qinsight("watch", clip, *arguments, "--metrics", "0")
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["degraded", "recovered"]
    assert "45 frames looked at, 0 dropped" in done.stderr
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sum("score" in row for row in rows) == 45
    assert [row["event"] for row in rows if "event" in row] == ["degraded", "recovered"]
    with Image.open(plot) as drawn:
        assert drawn.size == (1200, 400)
    missing: Any = qinsight("watch", tmp_path / "none.mp4")
    assert missing.returncode == 3
    assert missing.stderr.count("\n") == 1
