"""What watching costs and what it sees: `python -m tests.watching WHAT FOLDER [MIN_SCORE [FALL]]`.

`python -m tests.watching picture FILE.png` draws the README's timeline.

FOLDER holds clean photographs (.png), over which a generated camera sways. MIN_SCORE is 3 unless
given, FALL not asked for. WHAT is one of

    load     720p30 for a minute over HTTP, 5 frames a second: CPU seconds of the watching process
    faults   blur, JPEG 10, dark, in clips of the first eight: how long until the event
    clean    ten minutes of footage: events that should not be
    memory   20,000 frames: resident memory along the way
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from qinsight_plugin.degradations import gain, gaussian_blur, jpeg
from qinsight_plugin.records import Gate
from qinsight_plugin.watch.alarms import Event
from qinsight_plugin.watch.feeds import Frame
from qinsight_plugin.watch.watching import Policy, watch

from .conftest import Pixels
from .live_stream import FPS, LiveServer, Play, encoded, footage

RATE = 5.0
FAULTS = {
    "blur": lambda p, rng: gaussian_blur(p, 3, rng),
    "JPEG 10": lambda p, rng: jpeg(p, 10, rng),
    "dark": lambda p, rng: gain(p, 0.12, rng),
}


def photographs(folder: Path, width: int, height: int) -> list[Pixels]:
    """A fifth larger than the frames."""
    found = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as file:
            picture = file.convert("RGB")
        scale = 1.2 * max(width / picture.width, height / picture.height)
        size = (round(picture.width * scale), round(picture.height * scale))
        found.append(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)))
    return found


def load(folder: Path, policy: Policy) -> None:
    """The watching is done by the command line, in a process that does nothing else."""
    seconds = 60
    frame = footage(photographs(folder, 1280, 720)[0], 1280, 720)
    piece = encoded((frame(n) for n in range(10 * FPS)), crf=23)
    # FPS frames are sent in the time of 30: 720p30.
    script = [Play(piece, 10 * FPS / 30) for _ in range(seconds * 30 // (10 * FPS) + 1)]
    with LiveServer(script) as server:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        options = (
            "--rate",
            str(RATE),
            "--min-score",
            str(policy.gate.min_score),
            "--duration",
            str(seconds),
        )
        done = subprocess.run(
            [sys.executable, "-m", "qinsight_plugin", "watch", server.address, *options],
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(done.stdout + done.stderr, end="")
    print(f"{cpu:.1f} CPU seconds in {seconds} s: {cpu / seconds:.2f} of a core, start included")


def faults(folder: Path, policy: Policy) -> None:
    rng = np.random.default_rng(0)
    late: dict[str, list[float]] = {name: [] for name in FAULTS}
    unseen: dict[str, int] = dict.fromkeys(FAULTS, 0)
    clips = photographs(folder, 640, 360)[:8]
    for photograph in clips:
        frame = footage(photograph, 640, 360)
        for name, spoil in FAULTS.items():
            onset = 4 * FPS + 3  # between two samples

            def picture(number: int, frame=frame, spoil=spoil, onset=onset) -> Pixels:  # type: ignore[no-untyped-def]
                clean: Pixels = frame(number)
                return spoil(clean, rng) if number >= onset else clean

            with tempfile.TemporaryDirectory() as name_of_folder:
                path = Path(name_of_folder, "clip.mp4")
                path.write_bytes(encoded((picture(n) for n in range(9 * FPS)), "mp4"))
                events = [e for s in watch(path, rate=RATE, policy=policy) for e in s.events]
            raised = [event.seconds for event in events if event.kind == "degraded"]
            if raised:
                late[name].append(raised[0] - onset / FPS)
            else:
                unseen[name] += 1
    for name, delays in late.items():
        print(
            f"{name}: reported in {len(delays)} of {len(clips)} clips, after "
            f"{min(delays, default=np.nan):.2f} to {max(delays, default=np.nan):.2f} s "
            f"(T is {policy.lasting} s, a sample {1 / RATE} s)"
        )


class Generated:
    """Frames that are made as they are asked for, without a codec."""

    name, live = "generated", False

    def __init__(self, clips: list[Pixels], width: int, height: int, count: int) -> None:
        self._clips, self._size, self._count = clips, (width, height), count

    def frames(self) -> Iterator[Frame]:
        cameras = [footage(clip, *self._size) for clip in self._clips]
        share = -(-self._count // len(cameras))
        for number in range(self._count):
            camera = cameras[number // share]
            yield Frame(
                number / FPS,
                lambda camera=camera, number=number: np.ascontiguousarray(camera(number)),  # type: ignore[misc]
                self._size,
                f"frame {number}",
            )


def clean(folder: Path, policy: Policy) -> None:
    """Encoded and decoded, as footage is."""
    clips = photographs(folder, 640, 360)
    each = 600 / len(clips)
    events: list[Event] = []
    scores: list[float] = []
    short, least = 0, policy.gate.min_score or 0.0
    for photograph in clips:
        frame = footage(photograph, 640, 360)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, "clip.mp4")
            path.write_bytes(encoded((frame(n) for n in range(round(each * FPS))), "mp4"))
            for sample in watch(path, rate=RATE, policy=policy):
                events += sample.events
                assert sample.report is not None
                scores.append(sample.report.value)
                short += sample.report.value < least
    print(
        f"{len(clips)} scenes, {len(scores) / RATE / 60:.1f} minutes, {len(scores)} samples, "
        f"scores {min(scores):.2f} to {max(scores):.2f}, {short} under {least}: "
        f"{len(events)} events"
    )


def memory(folder: Path, policy: Policy) -> None:
    from qinsight_plugin.watch.timeline import Timeline

    feed = Generated(photographs(folder, 320, 180), 320, 180, 20_000)
    timeline, began = Timeline(), time.monotonic()
    for number, sample in enumerate(watch(feed, rate=None, policy=policy), 1):
        timeline.add(sample)
        if number in (500, 1_000, 2_000, 5_000, 10_000, 15_000, 20_000):
            print(json.dumps({"frames": number, "resident MiB": round(resident(), 1)}), flush=True)
    print(f"{time.monotonic() - began:.0f} s, {len(timeline.spans)} spans kept")


def picture(path: Path, policy: Policy) -> None:
    """Thirty seconds, of which the middle ten are dark."""
    import skimage.data

    from qinsight_plugin.watch.timeline import Timeline

    frame = footage(skimage.data.astronaut(), 400, 300)
    timeline = Timeline()
    with tempfile.TemporaryDirectory() as name:
        clip = Path(name, "clip.mp4")
        shown = (frame(n) if not 10 <= n / FPS < 20 else frame(n) // 8 for n in range(30 * FPS))
        clip.write_bytes(encoded(shown, "mp4"))
        for sample in watch(clip, rate=RATE, policy=policy):
            timeline.add(sample)
    timeline.draw(path, "clip.mp4", policy.gate.min_score)
    for event in timeline.events:
        print(event)
    means = [span.mean for span in timeline.spans]
    print(f"{max(means):.1f} to {min(means):.1f}")


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    known = {"load": load, "faults": faults, "clean": clean, "memory": memory, "picture": picture}
    least, *fall = [float(number) for number in sys.argv[3:]] or [3.0]
    known[what](folder, Policy(Gate(min_score=least), fall=fall[0] if fall else None))


if __name__ == "__main__":
    main()
