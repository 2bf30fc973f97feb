"""OpenCV frames, which are BGR where everything else is RGB; whichever `cv2` is there will do."""

from __future__ import annotations

from .drawing import draw
from .frames import score
from .loop import Gate
from .quality import QualityQInsight

__all__ = ["Gate", "QualityQInsight", "draw", "score"]
