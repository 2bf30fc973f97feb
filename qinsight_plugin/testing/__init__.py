"""Stand-ins for the vision-language model, for plugin authors and our own tests.

They are models of the published classes, small enough to build and run on a CPU in a test. Their
answers mean NOTHING about real pictures.
"""

from qinsight_plugin.testing.lessons import (
    Lesson,
    brightness_lessons,
    brightness_of,
    picture_of,
)
from qinsight_plugin.testing.teaching import teach, tiny_reasoner
from qinsight_plugin.testing.tiny import ARCHITECTURES, tiny_checkpoint

__all__ = [
    "ARCHITECTURES",
    "Lesson",
    "brightness_lessons",
    "brightness_of",
    "picture_of",
    "teach",
    "tiny_checkpoint",
    "tiny_reasoner",
]
