"""Photographs that ship in packages, and the command line as a process."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from click.testing import CliRunner
from PIL import Image as PILImage

from qinsight_plugin.cli.main import cli

Pixels = npt.NDArray[np.uint8]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Machines are noisy: time is for `qinsight bench`, not for a test to fail by.
hypothesis.settings.register_profile(
    "house", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("house")

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def run_command(
    *arguments: str | os.PathLike[str],
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`qinsight ARGUMENTS` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "qinsight_plugin", *(os.fspath(a) for a in arguments)],
        input=stdin,
        capture_output=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.fixture(scope="session")
def qinsight() -> Run:
    return run_command


@pytest.fixture(scope="session")
def astronaut() -> Pixels:
    """A good photograph, 512x512."""
    pixels: Pixels = skimage.data.astronaut()
    return pixels


@pytest.fixture
def photo(tmp_path: Path, astronaut: Pixels) -> Path:
    """The same as a PNG file."""
    path = tmp_path / "photo.png"
    PILImage.fromarray(astronaut).save(path)
    return path


@pytest.fixture(scope="session")
def everything_loaded(tmp_path_factory: pytest.TempPathFactory, astronaut: Pixels) -> None:
    """All that a gate imports: Python itself may lie where only root can read."""
    folder = tmp_path_factory.mktemp("loaded")
    PILImage.fromarray(astronaut).save(folder / "a.png")
    move = ("--move-rejected", str(folder / "out"))
    CliRunner().invoke(cli, ["gate", str(folder), "--min-score", "5", *move])
    assert list((folder / "out").iterdir())


@pytest.fixture
def own(everything_loaded: None) -> Iterator[Path]:
    """A folder of one's own, without root's power to ignore permissions."""
    is_root, nobody = os.geteuid() == 0, 65534
    with tempfile.TemporaryDirectory() as name:
        if is_root:
            os.chown(name, nobody, nobody)
            os.seteuid(nobody)
        try:
            yield Path(name)
        finally:
            if is_root:
                os.seteuid(0)
                # What could not be listed meanwhile must not be remembered as empty.
                importlib.invalidate_caches()


@pytest.fixture(scope="session")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that answers in Q-Insight's form, by brightness; made once for all processes."""
    from filelock import FileLock

    from qinsight_plugin.testing import tiny_reasoner

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reasoner"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            tiny_reasoner(folder.with_name("reasoner-in-the-making")).rename(folder)
    return folder


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the third-party plugin package of these tests."""
    folder = tmp_path_factory.mktemp("site")
    flags = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    # A copy, since building leaves its traces beside the source.
    source = shutil.copytree(TESTS / "plugin_package", tmp_path_factory.mktemp("src") / "plugin")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, "--target", str(folder), str(source)],
        check=True,
        capture_output=True,
    )
    return folder
