"""How far a shipped int8 student is from the float32 one on distorted pictures: `python -m
tests.eight_bits FOLDER [PICTURES] [INT8.ONNX FLOAT32.ONNX]`, with pristine pictures that neither
was trained on; `large-int8` and `large` name the larger student's.

Each picture's central window, as it is and in all of `eval-distortions`'s variants and levels. The
intervals are those of the bootstrap over pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.stats

from qinsight_plugin.decode import decode
from qinsight_plugin.degradations import degrade
from qinsight_plugin.examine import cases, spaced, window
from qinsight_plugin.records import Image
from qinsight_plugin.scorers.student import SPEC, StudentScorer, weights_named

Differences = npt.NDArray[np.float64]


def differences(scorers: list[StudentScorer], path: Path, seed: int) -> Differences:
    """int8 less float32 in MOS, of each of `cases`, in their order."""
    rng = np.random.default_rng(seed)
    pixels = window(decode(path, max_pixels=SPEC.max_pixels).pixels)
    found = []
    for case in cases(rng, every_variant=True):
        seen = pixels
        if case.level:
            seen = degrade(pixels, case.distortion, case.variant, case.level, rng)
        image = Image(seen, path.name, seen.shape[1], seen.shape[0])
        exact, rounded = (scorer.score([image])[0].value for scorer in scorers)
        found.append(rounded - exact)
    return np.array(found)


def row(name: str, found: Differences) -> str:
    """found: [pictures, cases]."""
    off = np.abs(found)
    mean = scipy.stats.bootstrap((off.mean(1),), np.mean, rng=0).confidence_interval
    figures = f"{off.mean():.3f} [{mean.low:.3f}, {mean.high:.3f}]"
    return (
        f"{name:<12} {found.size:>5}  {figures}  {np.quantile(off, 0.95):.3f}"
        f"  {off.max():.3f}  {found.mean():+.3f}"
    )


def main(folder: str, count: str = "16", int8: str = "int8", float32: str = "") -> None:
    scorers = [StudentScorer(weights_named(name)) for name in (float32, int8)]
    paths = sorted(Path(folder).iterdir())
    chosen = [paths[index] for index in spaced(len(paths), int(count))]
    found = np.stack([differences(scorers, path, seed) for seed, path in enumerate(chosen)])
    kind = np.array([case.distortion for case in cases(np.random.default_rng(0), True)])
    print(f"{len(chosen)} pictures; int8 less float32, in MOS")
    print(f"{'':<12} {'n':>5}  {'mean':<20}  p95    most   bias")
    for name in dict.fromkeys(kind):
        print(row(name, found[:, kind == name]))
    print(row("all", found))


if __name__ == "__main__":
    main(*sys.argv[1:])
