"""Do suggested edits bring faulty photographs closer to the clean ones, and leave clean ones be?

    python -m tests.suggesting FOLDER [FROM TO]     # clean photographs, the first 30 if not told

Each gets one known fault in turn: too dark (two stops), low contrast (spread times 0.4), a colour
cast (red over blue by a factor of 2.2, or under it, as incandescent light has it under a balance
for daylight; both up or down by 1.4: magenta, green), noise (sigma 15). Closeness is
SSIMULACRA2 against the clean photograph. No suggestion counts as no improvement.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from qinsight_plugin.degradations import gaussian_noise, to_pixels, underexposure
from qinsight_plugin.fidelity.ssimulacra2 import Ssimulacra2
from qinsight_plugin.srgb import LINEAR
from qinsight_plugin.tune import edits, suggest

from .conftest import Pixels

FAULTS = ("too dark", "low contrast", "colour cast", "noise")
CASTS = ((0.4, -0.4), (-0.4, 0.4), (0.35, 0.35), (-0.35, -0.35))  # warm, cool, magenta, green


def spoil(pixels: Pixels, fault: str, index: int) -> Pixels:
    rng = np.random.default_rng(index)
    if fault == "too dark":
        return underexposure(pixels, 2, rng)
    if fault == "low contrast":
        return to_pixels(pixels.mean() + 0.4 * (pixels - pixels.mean()))
    if fault == "noise":
        return gaussian_noise(pixels, 15, rng)
    red, blue = np.exp(CASTS[index // 4 % len(CASTS)])
    return edits.developed((LINEAR[pixels] * (red, 1, blue)).astype(np.float32))


def load(path: Path) -> Pixels:
    with Image.open(path) as file:
        picture = file.convert("RGB")
        picture.thumbnail((384, 384), Image.Resampling.LANCZOS)
        return np.asarray(picture)


def main() -> None:
    start, stop = map(int, sys.argv[2:4] or ("0", "30"))
    paths = sorted(Path(sys.argv[1]).glob("*.png"))[start:stop]
    better: dict[str, list[bool]] = {fault: [] for fault in FAULTS}
    gains: dict[str, list[float]] = {fault: [] for fault in FAULTS}
    untouched = []
    for index, path in enumerate(paths, start):
        clean = load(path)
        left = suggest(clean)
        untouched.append(not left.edits)
        measure = Ssimulacra2(clean)
        fault = FAULTS[index % len(FAULTS)]
        faulty = spoil(clean, fault, index)
        found = suggest(faulty)
        gain = measure.score(found.edited) - measure.score(faulty)
        better[fault].append(gain > 0)
        gains[fault].append(gain)
        said = ", ".join(f"{e.edit} {e.strength:+g} ({e.worth:.2f})" for e in found.edits)
        of_clean = ", ".join(f"{e.edit} {e.strength:+g} ({e.worth:.2f})" for e in left.edits)
        print(f"{path.name} {fault}: {gain:+.1f}; {said or 'nothing'}; clean: {of_clean or '-'}")
    for fault in FAULTS:
        print(
            f"{fault}: closer in {sum(better[fault])} of {len(better[fault])}, "
            f"SSIMULACRA2 {np.mean(gains[fault]):+.1f} on average"
        )
    every = [one for fault in FAULTS for one in better[fault]]
    print(f"closer: {sum(every)} of {len(every)}")
    print(f"clean ones left alone: {sum(untouched)} of {len(untouched)}")


if __name__ == "__main__":
    main()
