"""A run over many files that is killed by SIGKILL at random moments: `python -m tests.kills
[FILES] [KILLS]`. Prints how many rows there are in the end, and how many files.

The parent is killed and nothing else: what it started must notice by itself.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset
import skimage.data
from PIL import Image

SIDE = 96
QUALITIES = (10, 30, 60, 95)


def make_pictures(folder: Path, count: int) -> None:
    """Crops of three photographs as JPEG, 500 to a sub-folder; every hundredth file is junk."""
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 500:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 100 == 99:
            path.write_bytes(b"junk")
            continue
        whole = photographs[number % 3]
        top, left = (rng.integers(0, extent - SIDE) for extent in whole.shape[:2])
        crop = Image.fromarray(whole[top : top + SIDE, left : left + SIDE])
        crop.save(path, quality=QUALITIES[number % 4])


def start(folder: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "qinsight_plugin", "batch", str(folder), "-o", str(out)]
    return subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def run_with_kills(folder: Path, out: Path, kills: int, seed: int, *more: str) -> list[int]:
    """Kill the command that often while it works, then let it end. Returns the parts that were
    done at each kill."""
    rng, seen = random.Random(seed), []
    for number in range(kills):
        process = start(folder, out, *more)
        before = parts(out)
        wanted = rng.randint(1, 4 if number else 1)
        while process.poll() is None and parts(out) < before + wanted:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5))
        if process.poll() is not None:
            raise RuntimeError(f"it was done before kill {number + 1}: take more files")
        process.kill()
        process.wait()
        seen.append(parts(out))
    process = start(folder, out, *more)
    if process.wait() not in (0, 3):  # 3: some files are junk
        raise RuntimeError(f"the last run ended with {process.returncode}")
    return seen


def sources(out: Path) -> list[str]:
    table = pyarrow.dataset.dataset(out, format="parquet").to_table(columns=["source"])
    return table.column("source").to_pylist()  # type: ignore[no-any-return]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "pictures"), Path(name, "out.parquet")
        make_pictures(folder, count)
        begin = time.monotonic()
        seen = run_with_kills(folder, out, kills, random.randrange(1 << 30))
        taken = time.monotonic() - begin
        found, files = sources(out), {str(path) for path in folder.rglob("*.jpg")}
        total = parts(out)
    print(
        f"{len(files)} files, killed with {', '.join(map(str, seen))} of {total} parts done: "
        f"{len(found)} rows, {len(found) - len(set(found))} twice, {len(files - set(found))} "
        f"missing, {len(set(found) - files)} of no file; {taken:.0f} s"
    )


if __name__ == "__main__":
    main()
