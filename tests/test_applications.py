"""The examples of the integrations, run as a user would: real servers, a real worker."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image, ImageFilter

import qinsight_plugin as qi
from qinsight_plugin.errors import ConfigError

from .faults import free_port
from .serving import MULTIPART, multipart, until

MODULE = "qinsight_plugin.integrations"


def jpeg(blur: float) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(skimage.data.astronaut()).filter(ImageFilter.GaussianBlur(blur))
    picture.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


GOOD, BAD = jpeg(0), jpeg(6)


@contextmanager
def running(*command: str | Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """A program, stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(60)


def send(url: str, field: str, data: bytes) -> tuple[int, Any]:
    body = multipart((field, "me.jpg", data))
    request = urllib.request.Request(url, body, {"Content-Type": MULTIPART})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


@pytest.mark.slow
def test_a_fastapi_application_takes_only_good_pictures() -> None:
    pytest.importorskip("uvicorn")
    port = free_port()
    with running("uvicorn", f"{MODULE}.web.example:app", "--port", str(port)):
        until(lambda: listens(port))
        url = f"http://127.0.0.1:{port}/avatar"
        told = {"stored": "me.jpg", "bytes": len(GOOD), "score": qi.score(GOOD).value}
        assert send(url, "image", GOOD) == (200, told)
        status, answer = send(url, "image", BAD)
        assert status == 422
        assert "below the minimum of 3.2" in answer["detail"]["reasons"][0]
        status, answer = send(url, "image", b"junk")
        assert status == 422
        assert answer["detail"]["reasons"][0].startswith(
            "cannot be scored: me.jpg is not a picture"
        )
        assert send(url, "image", bytes(21 * 2**20))[0] == 413


@pytest.mark.slow
def test_a_django_site_takes_only_good_pictures() -> None:
    pytest.importorskip("django")
    port = free_port()
    with running(f"{MODULE}.django.example", "runserver", "--noreload", str(port)):
        until(lambda: listens(port))
        url = f"http://127.0.0.1:{port}/photos"
        assert send(url, "photo", GOOD) == (200, {"stored": "me.jpg"})
        status, answer = send(url, "photo", BAD)
        assert status == 422
        assert "below the minimum of 3.2" in answer["photo"][0]
        assert send(url, "photo", b"junk")[0] == 422


@pytest.mark.slow
def test_a_celery_worker_gates_in_the_background(tmp_path: Path) -> None:
    pytest.importorskip("celery")
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(GOOD)
    bad.write_bytes(BAD)
    (tmp_path / "junk.jpg").write_bytes(b"junk")
    example, env = f"{MODULE}.celery.example", {"QINSIGHT_QUEUE": str(tmp_path / "queue")}
    worker = ("celery", "--app", example, "worker", "--concurrency", "1", "--loglevel", "ERROR")
    with running(*worker, env=env):
        done = subprocess.run(
            [sys.executable, "-m", example, good, bad, tmp_path / "junk.jpg"],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["accepted"] for row in rows] == [True, False, False]
    assert rows[0]["score"] == qi.score(good).value
    assert rows[0]["source"] == str(good)
    assert rows[2]["error_type"] == "ImageDecodeError"


def test_the_queue_of_the_celery_example_is_the_users_own(tmp_path: Path) -> None:
    pytest.importorskip("celery")
    env = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    env.pop("QINSIGHT_QUEUE", None)
    code = f"from {MODULE}.celery.example import folder; print(folder)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    queue = Path(done.stdout.strip())
    assert queue == tmp_path / ".cache" / "qinsight" / "queue"
    assert queue.stat().st_mode & 0o777 == 0o700


def test_a_django_validator_is_kept_by_migrations(tmp_path: Path) -> None:
    pytest.importorskip("django")
    from django.db.migrations.writer import MigrationWriter
    from qinsight_plugin.integrations.django import QualityValidator

    validator = QualityValidator(min_score=3.2)
    written, _ = MigrationWriter.serialize(validator)
    assert written == (
        "qinsight_plugin.integrations.django.validators.QualityValidator(min_score=3.2)"
    )
    assert validator == QualityValidator(min_score=3.2)
    assert validator != QualityValidator(min_score=3.3)
    for wrong in ({}, {"policy": "a", "min_score": 3.0}):
        with pytest.raises(ConfigError, match="and not both"):
            QualityValidator(**wrong)
