"""Pipelines and a camera to tune; in a module, since other processes import them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import skimage.data

from .conftest import Pixels

CAP_PROP_EXPOSURE, CAP_PROP_FOCUS, CAP_PROP_GAIN = 15, 28, 14  # OpenCV's numbers


def photograph() -> Pixels:
    pixels: Pixels = skimage.data.astronaut()[:256, 128:384]
    return pixels


def develop(params: Mapping[str, Any], scene: Pixels) -> Pixels:
    """Adds noise, less the nearer `quiet` is to 0.7."""
    rng = np.random.default_rng(0)
    sigma = 60 * abs(params["quiet"] - 0.7)
    return np.clip(scene + rng.normal(0, sigma, scene.shape), 0, 255).astype(np.uint8)


def slowly(params: Mapping[str, Any], scene: Pixels) -> Pixels:
    time.sleep(0.05)
    return develop(params, scene)


def misbehave(params: Mapping[str, Any], scene: Pixels) -> Any:
    """What `how` says; "well" does as it should."""
    how = params["how"]
    if how == "raises":
        raise ValueError("no\nlight")
    if how == "nothing":
        return None
    if how == "nan":
        return np.full((64, 64, 3), np.nan)
    if how == "shape":
        return np.zeros((64, 64, 7), np.uint8)
    if how == "size":
        return scene[:-2]
    if how == "hangs":
        time.sleep(60)
    if how == "dies":
        os._exit(7)
    return scene


class Camera:
    """As cv2.VideoCapture, of a camera whose exposure is too short by default.

    Its pictures follow a control after three frames, as those of real ones do.
    """

    def __init__(self, device: int | str) -> None:
        self._there = device != 9
        self._controls = {CAP_PROP_EXPOSURE: 50.0, CAP_PROP_GAIN: 10.0}
        self._seen = [dict(self._controls)] * 4

    def isOpened(self) -> bool:  # noqa: N802
        return self._there

    def set(self, control: int, value: float) -> bool:
        if control not in self._controls:
            return False
        self._controls[control] = min(value, 200.0)  # as drivers clamp, without a word
        return True

    def get(self, control: int) -> float:
        return self._controls.get(control, 0.0)

    def grab(self) -> bool:
        self._seen = [*self._seen[1:], dict(self._controls)]
        return True

    def read(self) -> tuple[bool, Pixels | None]:
        self.grab()
        controls = self._seen[0]
        light = controls[CAP_PROP_EXPOSURE] * 2 ** (controls[CAP_PROP_GAIN] / 20) / 141
        rng = np.random.default_rng(0)
        levels = photograph()[..., ::-1] * light
        levels = levels + rng.normal(0, 0.3 * controls[CAP_PROP_GAIN], levels.shape)
        return True, np.clip(levels, 0, 255).astype(np.uint8)

    def release(self) -> None:
        self._there = False
