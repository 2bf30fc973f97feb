"""Makes the README's picture of a report: `python -m tests.report_picture`, with a Chromium.

Windows of three photographs, as they are and spoilt in four ways, are scored, judged and reported.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
import skimage.filters
import skimage.util
from PIL import Image

from qinsight_plugin.batch import Settings, Worker, open_job
from qinsight_plugin.batch.local import run
from qinsight_plugin.records import Gate

from .conftest import Pixels
from .pictures import FOLDER
from .test_run_report import CHROMIUM

SIDE = 224


def spoilt(window: Pixels, kind: str, rng: np.random.Generator) -> Pixels:
    if kind == "blur":
        blurred = skimage.filters.gaussian(window, rng.uniform(0.8, 4), channel_axis=-1)
        return skimage.util.img_as_ubyte(blurred)  # type: ignore[no-any-return]
    if kind == "noise":
        noisy = skimage.util.random_noise(window, var=rng.uniform(0.001, 0.03), rng=rng)
        return skimage.util.img_as_ubyte(noisy)  # type: ignore[no-any-return]
    if kind == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(window).save(buffer, "JPEG", quality=int(rng.integers(5, 60)))
        return np.asarray(Image.open(buffer))
    if kind == "dark":
        return (window * rng.uniform(0.1, 0.6)).astype(np.uint8)
    return window


def make(folder: Path, count: int) -> None:
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    rng = np.random.default_rng(3)
    folder.mkdir()
    for number in range(count):
        whole = photographs[number % 3]
        top, left = (rng.integers(0, extent - SIDE) for extent in whole.shape[:2])
        window = whole[top : top + SIDE, left : left + SIDE]
        kind = rng.choice(["as-it-is", "as-it-is", "blur", "noise", "jpeg", "dark"])
        Image.fromarray(spoilt(window, kind, rng)).save(folder / f"{number:03}-{kind}.png")


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("this needs Chromium")
    with tempfile.TemporaryDirectory() as name:
        make(Path(name, "uploads"), 240)
        settings = Settings(gate=Gate(min_score=2.9))
        with Worker(settings) as worker:
            version = worker.scorer_version
        out = Path(name, "uploads.parquet")
        list(run(open_job(f"{name}/uploads", str(out), settings, version), workers=2))
        command = ["qinsight", "report", str(out), "-o", f"{name}/report.html"]
        subprocess.run(command, check=True)
        page = Path(name, "report.html")
        page.write_text(page.read_text().replace(f"{name}/", ""))  # nobody's uploads lie there
        flags = ("--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1180,1060")
        shot = f"--screenshot={name}/report.png"
        subprocess.run([CHROMIUM, *flags, shot, f"file://{name}/report.html"], check=True)
        with Image.open(f"{name}/report.png") as picture:
            picture.convert("RGB").save(FOLDER / "report.jpg", quality=82)


if __name__ == "__main__":
    main()
