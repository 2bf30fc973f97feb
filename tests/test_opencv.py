"""OpenCV frames, read by OpenCV itself."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from qinsight_plugin.integrations.opencv import score_frame

import qinsight_plugin
from qinsight_plugin.errors import ImageDecodeError

from .conftest import Pixels


def test_a_frame_scores_as_its_file(photo: Path) -> None:
    frame = cv2.imread(str(photo))
    assert frame is not None
    assert score_frame(frame).value == qinsight_plugin.score(photo).value


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_gray_and_transparent_frames_are_taken(
    tmp_path: Path, astronaut: Pixels, mode: str
) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(astronaut).convert(mode).save(path)
    frame = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert frame is not None
    assert score_frame(frame).value == qinsight_plugin.score(path).value


def test_sixteen_bits_are_scaled(astronaut: Pixels) -> None:
    deep = astronaut.astype(np.uint16) * 257
    assert score_frame(deep).value == score_frame(astronaut).value


def test_a_file_that_opencv_could_not_read_is_an_error() -> None:
    with pytest.raises(ImageDecodeError):
        score_frame(cv2.imread("none.png"))
