"""What a ComfyUI node and the OpenCV path take over the bare scorer, at a megapixel:
`python -m tests.overhead [ROUNDS]`, on a machine that does nothing else.

A round asks all three about one new picture, so that no answer is remembered.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from qinsight_plugin.integrations.opencv import score

import qinsight_plugin as qi

from .comfy_harness import Harness
from .conftest import ROOT

SIZE = (1152, 864)
WARM_UP = 5


def milliseconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    call()
    return 1000 * (clock() - begin)


def measure(rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of each round."""
    host = Harness(Path(tempfile.mkdtemp()), {"qinsight": ROOT / "integrations" / "comfyui"})
    node = host.nodes["QInsightScore"]
    photograph = np.asarray(Image.fromarray(skimage.data.astronaut()).resize(SIZE))
    taken: dict[str, list[float]] = {"bare": [], "node": [], "opencv": []}
    with host.imported():
        for number in range(rounds + WARM_UP):
            picture = photograph.copy()
            picture[number, number] ^= 255
            tensor = torch.from_numpy((picture.astype(np.float32) + 0.25)[None] / 255)
            frame = np.ascontiguousarray(picture[..., ::-1])
            calls: dict[str, Callable[[], object]] = {
                "bare": lambda picture=picture: qi.score(picture),  # type: ignore[misc]
                "node": lambda tensor=tensor: node.execute([tensor], ["student"]),  # type: ignore[misc]
                "opencv": lambda frame=frame: score(frame),  # type: ignore[misc]
            }
            for name, call in calls.items():
                taken[name].append(milliseconds(call, clock))
    return {name: values[WARM_UP:] for name, values in taken.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    for label, clock in (("time", time.perf_counter), ("CPU time", time.process_time)):
        taken = measure(rounds, clock)
        bare = np.array(taken["bare"])
        for name in ("node", "opencv"):
            over = np.array(taken[name]) - bare
            low, middle, high = np.quantile(over, [0.25, 0.5, 0.75])
            print(
                f"{name}: {middle:.2f} ms [{low:.2f}, {high:.2f}] of {label} over the bare "
                f"scorer's {np.median(bare):.2f}; medians and quartiles of {rounds} rounds"
            )


if __name__ == "__main__":
    main()
