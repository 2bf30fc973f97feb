"""What can be tuned: a Python function, a command, a camera. Each is a `Render`.

They are made where the study runs and called in another process, so they hold nothing open until
they are called.
"""

from __future__ import annotations

import importlib
import math
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, described

SETTLE = 5
"""Frames that a camera is given to follow its controls."""


def find(path: str) -> Callable[..., Any]:
    """What `package.module:name` names; modules of the current folder included.

    Raises:
        ConfigError: there is no such thing, or its module does not load.
    """
    module, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(
            f"cannot import {path!r}: {described(error)}; write package.module:name"
        ) from error
    if not callable(found):
        raise ConfigError(f"{path!r} is not a function: name one")
    function: Callable[..., Any] = found
    return function


@dataclass(frozen=True, slots=True)
class Command:
    """A program that reads a scene's file and writes a picture.

    Attributes:
        line: split as a shell would, but no shell runs it: `{scene}` and `{output}` stand for the
            two files, and the names of parameters in braces for their values.
        suffix: of the picture that it writes.
    """

    line: str
    suffix: str = ".png"

    def check(self, names: Mapping[str, Any]) -> None:
        """Raises ConfigError where the command and the space do not fit together."""
        try:
            words = self.words(names, "scene", "output")
        except (LookupError, ValueError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"command {self.line!r}: {error} is no parameter of the space, {{scene}} or "
                "{output}, or the line cannot be split"
            ) from error
        if not words or "{output}" not in self.line:
            raise ConfigError(f"command {self.line!r} must name the file to write: {{output}}")
        for name in names:
            if "{" + name not in self.line:
                raise ConfigError(f"command {self.line!r} does not use {{{name}}} of the space")

    def words(self, params: Mapping[str, Any], scene: object, output: object) -> list[str]:
        told = {**params, "scene": scene, "output": output}
        return [word.format(**told) for word in shlex.split(self.line)]

    def __call__(self, params: Mapping[str, Any], scene: Any) -> bytes | None:
        with tempfile.TemporaryDirectory(prefix="qinsight-") as folder:
            output = Path(folder, "picture" + self.suffix)
            done = subprocess.run(
                self.words(params, scene, output),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if line.strip()]
                raise RuntimeError(
                    f"the command failed with exit code {done.returncode}"
                    + (f": {said[-1].strip()}" if said else "")
                )
            return output.read_bytes() if output.exists() else None


@dataclass(slots=True)
class Camera:
    """A camera in the loop: sets its controls, lets it settle, takes a frame.

    A control is what OpenCV calls `CAP_PROP_<NAME>`: exposure, gain, wb_temperature, focus, ...
    The scene is whatever stands before the camera.

    Attributes:
        device: its number, or a path such as /dev/video0.
        fixed: controls that are set once, such as auto_exposure, auto_wb and autofocus.
        driver: makes the capture of a device; cv2.VideoCapture, or anything with its methods
            isOpened, set, get, read and release.
        settle: frames thrown away after a control was set.
    """

    device: int | str
    fixed: Mapping[str, float] = field(default_factory=dict)
    driver: str = "cv2:VideoCapture"
    settle: int = SETTLE
    _capture: Any = None

    def __call__(self, params: Mapping[str, Any], scene: Any) -> Any:
        if self._capture is None:
            self._open()
        for name, value in params.items():
            self._set(name, float(value))
        for _ in range(self.settle):
            self._capture.grab()
        taken, frame = self._capture.read()
        if not taken or frame is None:
            self._capture.release()
            self._capture = None  # opened anew at the next call
            raise RuntimeError(f"camera {self.device} gave no frame: is it still connected?")
        return frame[..., ::-1]  # OpenCV's BGR

    def _open(self) -> None:
        capture = find(self.driver)(self.device)
        if not capture.isOpened():
            raise RuntimeError(
                f"camera {self.device} cannot be opened: check that it is connected and that no "
                "other program uses it"
            )
        self._capture = capture
        for name, value in self.fixed.items():
            self._set(name, float(value))

    def _set(self, name: str, value: float) -> None:
        control = control_number(name)
        if not self._capture.set(control, value):
            raise RuntimeError(f"the camera's driver refuses {name} = {value:g}")
        now = self._capture.get(control)
        if not math.isclose(now, value, rel_tol=0.05, abs_tol=1):
            raise RuntimeError(f"the camera's driver refuses {name} = {value:g}: it is {now:g}")


def control_number(name: str) -> int:
    """OpenCV's number of a control.

    Raises:
        ConfigError: OpenCV knows no such control.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = require("cv2", package="opencv-python", extra="opencv", purpose="tuning a camera")
    number = getattr(cv2, f"CAP_PROP_{name.upper()}", None)
    if number is None:
        raise ConfigError(f"there is no camera control {name!r}: see OpenCV's CAP_PROP_ names")
    return int(number)
