"""The engine behind a server: bounded, killable, each picture answered once."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import qinsight_plugin as qi
from qinsight_plugin.errors import (
    BusyError,
    ConfigError,
    ImageDecodeError,
    ImageTooCostlyError,
    ImageTooLargeError,
    ImageUnsupportedError,
    PluginError,
    ServingError,
)
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.records import Gate
from qinsight_plugin.scorers.student import SPEC
from qinsight_plugin.serving import Engine, Events, Limits, Picture
from qinsight_plugin.serving.decoders import DecoderPool
from qinsight_plugin.serving.frames import receive, send

from .abuse import png
from .conftest import Pixels
from .serving import jpegs, until


class Book(Events):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.batches: list[int] = []

    def decoder_ended(self, reason: str) -> None:
        self.ended.append(reason)

    def scored(self, seconds: float, pictures: int) -> None:
        self.batches.append(pictures)


@contextmanager
def pool(limits: Limits, book: Book, processes: int = 1) -> Iterator[DecoderPool]:
    made = DecoderPool(processes, limits, book)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def engine(**options: object) -> Iterator[Engine]:
    made = Engine(**{"decoders": 1, **options})  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


@given(
    message=st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
    payload=st.binary(max_size=300_000),
)
@settings(max_examples=25)
def test_what_is_sent_is_received(message: dict[str, object], payload: bytes) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", 0) as source, open(writing, "wb", 0) as sink:  # noqa: PTH123
        sender = threading.Thread(target=send, args=(sink, message, payload))
        sender.start()
        received, data = receive(source)
        assert received == message
        assert bytes(data) == payload
        sender.join()


def test_a_pipe_that_ends_is_told_from_an_empty_message() -> None:
    with pytest.raises(EOFError):
        receive(io.BytesIO(b"\0\0"))


@pytest.mark.slow
def test_a_decoding_process_gives_what_decoding_here_gives(
    tmp_path: Path, astronaut: Pixels
) -> None:
    large = tmp_path / "large.jpg"
    Image.fromarray(astronaut).resize((2000, 1500)).save(large, exif=b"Exif\0\0" + bytes(20))
    gray = tmp_path / "gray.png"
    Image.fromarray(astronaut).convert("LA").save(gray)
    here = Pipeline()
    with pool(Limits(), Book()) as decoders:
        for path in (large, gray):
            image, expected = decoders.decode(path.read_bytes(), "x", SPEC), here.decode(path)
            np.testing.assert_array_equal(image.pixels, expected.pixels)
            for name in ("width", "height", "reduction", "format", "notes"):
                assert getattr(image, name) == getattr(expected, name)
        for data, error in (
            (b"", ImageDecodeError),
            (b"junk", ImageDecodeError),
            (large.read_bytes()[:5000], ImageDecodeError),
            (b"%PDF-1.7", ImageUnsupportedError),
            (png(40_000, 40_000), ImageTooLargeError),
        ):
            with pytest.raises(error, match=r"^pic"):
                decoders.decode(data, "pic", SPEC)


@pytest.mark.slow
def test_what_takes_too_much_time_or_memory_is_ended_and_the_next_is_served(
    astronaut: Pixels,
) -> None:
    book, small = Book(), jpegs(1)[0]
    with pool(Limits(memory=40), book) as decoders:
        assert decoders.decode(small, "small", SPEC).width == 512
        with pytest.raises(ImageTooCostlyError, match="memory"):
            decoders.decode(png(4_000, 4_000, rows=4_000), "bomb", SPEC)
        assert decoders.decode(small, "small", SPEC).width == 512
    assert book.ended == ["memory"]
    with pool(Limits(seconds=0.01), book) as decoders:
        buffer = io.BytesIO()
        Image.fromarray(astronaut).resize((2500, 2500)).save(buffer, "PNG", compress_level=1)
        with pytest.raises(ImageTooCostlyError, match=r"within 0\.01 s"):
            decoders.decode(buffer.getvalue(), "slow", SPEC)
    assert book.ended == ["memory", "time"]


@pytest.mark.slow
def test_a_decoder_that_was_killed_while_idle_blames_no_picture() -> None:
    book, small = Book(), jpegs(1)[0]
    with pool(Limits(), book) as decoders:
        for _ in range(3):
            decoders.decode(small, "small", SPEC)
            decoder = decoders._idle.queue[0]
            assert decoder._process is not None
            os.kill(decoder._process.pid, signal.SIGKILL)
            decoder._process.wait()
        assert decoders.decode(small, "small", SPEC).width == 512
    assert book.ended == ["died"] * 3


def test_a_kernel_that_grants_no_large_pipe_does_not_keep_decoders_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does so for users who have many already, who need not be root: 33 decoders do."""

    def refusing(descriptor: int, command: int, *rest: int) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return original(descriptor, command, *rest)

    original = fcntl.fcntl
    monkeypatch.setattr(fcntl, "fcntl", refusing)
    with pool(Limits(), Book()) as decoders:
        assert decoders._idle.queue[0]._process is not None


@pytest.mark.slow
def test_a_server_that_ails_rejects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no decoder starts, there is an error, and no report that a gate could judge."""
    with engine() as made:
        picture = Picture(jpegs(1)[0])
        assert made.submit([picture])[0].result().error is None
        monkeypatch.setattr(sys, "executable", "/bin/false")
        decoder = made._pool._idle.queue[0]
        assert decoder._process is not None
        decoder._process.kill()
        decoder._process.wait()
        with pytest.raises(ServingError, match="do not start"):
            made.submit([picture])[0].result()
        monkeypatch.undo()
        assert made.submit([picture])[0].result().error is None


PLUGIN = """
import numpy
from qinsight_plugin import hookimpl
from qinsight_plugin.records import Image

@hookimpl
def qinsight_decode_image(source, limit):
    if source.startswith(b"FLAT"):
        side = int(source[4:])
        black = numpy.zeros((side, side, 3), numpy.uint8)
        return Image(black, "", side, side, 1, "FLAT", (f"{limit}",))
"""


@pytest.mark.slow
def test_a_plugin_decodes_there_too_and_its_failure_bears_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flat.py").write_text(PLUGIN)
    about = tmp_path / "flat-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: flat\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[qinsight]\nflat = flat\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pool(Limits(pixels=1_000_000), Book()) as decoders:
        image = decoders.decode(b"FLAT64", "x", SPEC)
        assert (image.format, image.width, image.notes) == ("FLAT", 64, ("1000000",))
        with pytest.raises(PluginError, match=r"^plugin flat: qinsight_decode_image failed: Val"):
            decoders.decode(b"FLATx", "x", SPEC)


@pytest.mark.slow
def test_reports_are_those_of_the_library_whatever_the_batches() -> None:
    files = jpegs(6)
    expected = list(qi.score_many(files))
    book = Book()
    with engine(batch=4, lanes=1, events=book) as made:
        pictures = [Picture(data, f"{n}.jpg") for n, data in enumerate(files)]
        pictures.insert(3, Picture(png(20, 20, rows=20), "tiny.png"))
        pictures.insert(1, Picture(b"junk", "junk"))
        reports = [future.result() for future in made.submit(pictures)]
        assert [r.source for r in reports] == [p.name for p in pictures]
        scored = [r for r in reports if r.error is None]
        assert [r.score for r in scored] == [r.score for r in expected]
        failed = {r.source: r.error_type for r in reports if r.error}
        assert failed == {"junk": "ImageDecodeError", "tiny.png": "ImageTooSmallError"}
        assert max(book.batches) <= 4
        assert sum(book.batches) == 7

        reference = Picture(files[0], "reference")
        (report,) = [f.result() for f in made.submit([Picture(files[1])], reference)]
        assert report.reference_score == expected[0].score
        told = made.submit_comparison(pictures[0], reference).result()
        assert told.better == "similar"
        with pytest.raises(ImageDecodeError, match=r"^junk"):
            made.submit_comparison(pictures[0], pictures[1]).result()
        with pytest.raises(ConfigError, match="margin"):
            made.submit_comparison(pictures[0], reference, -1).result()
        verdicts = made.conclude(reports, Gate(min_score=1))
        assert [v.accepted for _, v in verdicts if v] == [r.error is None for r in reports]


@pytest.mark.slow
def test_the_queue_is_bounded_all_or_nothing_and_what_is_cancelled_leaves() -> None:
    picture = Picture(jpegs(1, 1600)[0])
    with engine(capacity=8, lanes=1) as made:
        inside = made.submit([picture] * 6)
        with pytest.raises(BusyError, match="6 of at most 8") as error:
            made.submit([picture] * 3)
        assert 1 <= error.value.retry_after <= 60
        assert made.inside <= 6
        cancelled = [future for future in inside if future.cancel()]
        assert cancelled  # the last ones cannot have begun
        rest = [future.result() for future in inside if future not in cancelled]
        assert all(report.error is None for report in rest)
        until(lambda: not made.inside)
        assert [f.result().error for f in made.submit([picture] * 8)] == [None] * 8
        assert made.stalled == 0


@pytest.mark.slow
def test_closing_waits_for_what_was_accepted() -> None:
    pictures = [Picture(data) for data in jpegs(6)]
    with engine() as made:
        futures: list[Future[qi.Report]] = made.submit(pictures)
    assert all(future.done() and future.result().error is None for future in futures)


@pytest.mark.parametrize("field", ["pixels", "seconds", "memory"])
def test_limits_are_above_zero(field: str) -> None:
    with pytest.raises(ConfigError, match=f"limit of {field}"):
        Limits(**{field: 0})
    assert json.dumps(getattr(Limits(), field))
