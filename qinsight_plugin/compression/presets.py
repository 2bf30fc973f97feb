"""What is good enough, by names that people know, and defined in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qinsight_plugin.errors import ConfigError

DRIVER = "ssimulacra2"


@dataclass(frozen=True, slots=True)
class Preset:
    """Floors that a compressed picture must reach.

    Attributes:
        floors: full-reference scorer -> its floor, against the source. The first one drives the
            search; the others are checked on what it finds, and raise the quality if need be. Of a
            scorer whose lower numbers are better, the highest that passes.
        max_drop: the most that the student's score may fall under the source's, in MOS; gains count
            as none. None: it is not asked.
        min_source: a source that the student scores below this is left alone.
        tolerance: a pick this close over the driver's floor ends the search, in its units; 0 asks
            for the lowest quality factor that passes.
    """

    floors: Mapping[str, float]
    max_drop: float | None = None
    min_source: float = 2.0
    tolerance: float = field(default=0.0)


PRESETS = {
    "visually-lossless": Preset({DRIVER: 90.0, "ms-ssim": 0.997, "ssim": 0.90}, 0.2),
    "high": Preset({DRIVER: 70.0, "ms-ssim": 0.985, "ssim": 0.90}, 0.4),
    "medium": Preset({DRIVER: 50.0, "ms-ssim": 0.97, "ssim": 0.90}, 0.8),
    "low": Preset({DRIVER: 30.0, "ms-ssim": 0.95}, 2.0),
}
"""The driver's floors are where SSIMULACRA2's author puts these words (and "visually lossless").

MS-SSIM's are the lowest that it takes where SSIMULACRA2 reaches its floor, over 26 pristine
photographs (20 of CID22-512, 6 of Kodak) and five encoders: 0.9972, 0.985, 0.9695 and 0.9501 of 24
to 128 curves each. So they bind only where SSIMULACRA2 lets through what it lets through on no
photograph. SSIM, at the scale of the picture, of 0.90 is a line that only "low" may cross. The
student's drops are about the largest on 24 photographs of Kodak, see README.md beside this file.
"""


def find_preset(name: str | Preset) -> Preset:
    """A preset by name; one that is made by hand is checked.

    Raises:
        ConfigError: no such name, or numbers that allow anything.
    """
    if isinstance(name, str):
        if name not in PRESETS:
            raise ConfigError(f"no preset is named {name!r}; there are: {', '.join(PRESETS)}")
        return PRESETS[name]
    if not name.floors:
        raise ConfigError("a preset needs a full-reference floor: a score alone can be fooled")
    for scorer, floor in name.floors.items():
        if not math.isfinite(floor):
            raise ConfigError(f"the floor of {scorer} is {floor}, which is no number to reach")
    if not (name.max_drop is None or name.max_drop >= 0) or not name.tolerance >= 0:
        raise ConfigError(
            f"max_drop {name.max_drop} and tolerance {name.tolerance} must each be 0 or more"
        )
    return name


def with_floors(preset: Preset, floors: Mapping[str, float], driver: str | None) -> Preset:
    """A preset with other floors, and perhaps another driver of the search.

    Raises:
        ConfigError: the driver has no floor.
    """
    merged = {**preset.floors, **floors}
    if driver is not None:
        if driver not in merged:
            raise ConfigError(f"{driver} cannot drive the search without a floor: give one")
        merged = {driver: merged.pop(driver), **merged}
    return replace(preset, floors=merged)
