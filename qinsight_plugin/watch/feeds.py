"""Where frames come from. A feed yields them as they come, and says when each was to be seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qinsight_plugin.errors import VideoError
from qinsight_plugin.video.clip import import_av

if TYPE_CHECKING:
    from qinsight_plugin.records import Source

PICTURES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp")
ANSWER_SECONDS = 10.0
"""What a server may take to answer, and between two pieces of a stream."""


@dataclass(frozen=True, slots=True)
class Frame:
    """
    Attributes:
        seconds: since the feed began: in a file by its clock, else by ours.
        source: makes what is scored; frames that are not looked at are never converted.
        size: width and height; None where it is not known before.
        name: what to call it.
    """

    seconds: float
    source: Callable[[], Source]
    size: tuple[int, int] | None
    name: str


class Feed(Protocol):
    """
    Attributes:
        live: frames are gone if nobody looks at them, and it may come back after it ended.
    """

    name: str
    live: bool

    def frames(self) -> Iterator[Frame]:
        """Until it ends; may be called again.

        Raises:
            VideoError: it cannot be opened, or broke off.
        """
        ...


def open_feed(source: str | int | Path, driver: Callable[[Any], Any] | None = None) -> Feed:
    """The feed that a source names: a number or /dev/video*: a camera; an address; a folder; a
    file.

    Args:
        driver: makes the capture of a camera; None: OpenCV's.

    Raises:
        VideoError: there is no such file or folder.
    """
    text = str(source)
    if isinstance(source, int) or text.isdecimal() or text.startswith("/dev/video"):
        return CameraFeed(int(text) if text.isdecimal() else text, driver)
    if "://" in text:
        return StreamFeed(text)
    path = Path(text)
    if path.is_dir():
        return FolderFeed(path)
    if not path.is_file():
        raise VideoError(f"{text} does not exist: name a file, a folder, a camera or an address")
    return StreamFeed(text)


class StreamFeed:
    """A video file or an address, by PyAV."""

    def __init__(self, address: str, timeout: float = ANSWER_SECONDS) -> None:
        self.name = without_password(address)
        self._address = address
        scheme, separator, _ = address.partition("://")
        self._remote = bool(separator) and scheme != "file"
        # Of what comes over HTTP only the container can tell, once it is open.
        self.live = self._remote and (scheme in LIVE_SCHEMES or scheme.startswith("http"))
        self._timeout = timeout

    def frames(self) -> Iterator[Frame]:
        av = import_av()
        options = {"analyzeduration": "1000000"} if self.live else {}  # seconds matter there
        if self._address.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        began = time.monotonic()
        try:
            with av.open(
                self._address, timeout=self._timeout if self._remote else None, options=options
            ) as container:
                if not container.streams.video:
                    raise VideoError(f"{self.name} holds no video: give another one")
                stream = container.streams.video[0]
                stream.thread_type = "SLICE" if self.live else "AUTO"  # frames add delay
                rate = float(stream.average_rate or stream.guessed_rate or 25)
                first: float | None = None
                for index, frame in enumerate(decoded(container, stream)):
                    stamp = index / rate if frame.time is None else frame.time
                    first = stamp if first is None else first
                    seconds = time.monotonic() - began if self.live else stamp - first
                    yield Frame(
                        seconds, Converted(frame), (frame.width, frame.height), f"frame {index}"
                    )
        except av.ExitError as error:
            raise VideoError(
                f"{self.name} did not answer for {self._timeout:g} s: check the address"
            ) from error
        except (av.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VideoError(f"{self.name} cannot be read: {reason}") from error


def without_password(address: str) -> str:
    """As it may be shown and logged."""
    scheme, separator, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else address


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames; what a damaged packet held is left out."""
    av = import_av()
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            continue


class Converted:
    """RGB pixels of a PyAV frame, when asked for."""

    __slots__ = ("_frame",)

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __call__(self) -> Source:
        pixels: Source = self._frame.to_ndarray(format="rgb24")
        return pixels


class CameraFeed:
    """A camera, by OpenCV, or by any class with the methods of its VideoCapture."""

    live = True

    def __init__(self, device: int | str, driver: Callable[[Any], Any] | None = None) -> None:
        self.name = f"camera {device}"
        self._device, self._driver = device, driver

    def frames(self) -> Iterator[Frame]:
        from qinsight_plugin.tune.pipelines import find

        capture = (self._driver or find("cv2:VideoCapture"))(self._device)
        began = time.monotonic()
        try:
            if not capture.isOpened():
                raise VideoError(
                    f"{self.name} cannot be opened: check that it is connected and that no other "
                    "program uses it"
                )
            index = 0
            while True:
                taken, picture = capture.read()
                if not taken or picture is None:
                    raise VideoError(f"{self.name} gave no frame: check that it is connected")
                height, width = picture.shape[:2]
                seconds = time.monotonic() - began
                # OpenCV's BGR. A driver may use its buffer again, hence the copy.
                pixels = picture[..., ::-1].copy()
                yield Frame(seconds, lambda p=pixels: p, (width, height), f"frame {index}")  # type: ignore[misc]
                index += 1
        finally:
            capture.release()


class FolderFeed:
    """A folder that is being filled: each new picture once, when it has stopped growing."""

    live = False

    def __init__(self, folder: Path, poll: float = 0.5, idle: float | None = None) -> None:
        self.name = str(folder)
        self._folder, self._poll, self._idle = folder, poll, idle

    def frames(self) -> Iterator[Frame]:
        began = quiet = time.monotonic()
        done: set[str] = set()
        sizes: dict[str, tuple[int, int]] = {}
        while self._idle is None or time.monotonic() - quiet < self._idle:
            listed = self._listed()
            done &= listed.keys()  # so that it does not grow with a folder that is emptied
            ready = [n for n, size in listed.items() if n not in done and sizes.get(n) == size]
            sizes = listed
            for name in sorted(ready, key=lambda name: (listed[name][1], name)):
                done.add(name)
                path = str(self._folder / name)
                quiet = time.monotonic()
                yield Frame(quiet - began, lambda path=path: path, None, path)  # type: ignore[misc]
            if not ready:
                time.sleep(self._poll)

    def _listed(self) -> dict[str, tuple[int, int]]:
        """Name -> size and time of change."""
        found = {}
        try:
            for path in self._folder.iterdir():
                if path.suffix.lower() in PICTURES and not path.name.startswith("."):
                    try:
                        status = path.stat()
                    except FileNotFoundError:  # removed meanwhile
                        continue
                    found[path.name] = (status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise VideoError(f"cannot list {self._folder}: {error.strerror}") from error
        return found
