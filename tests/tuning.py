"""Does tuning the reference ISP by the student make its pictures truer to the clean photographs?

    python -m tests.tuning TRAIN HELD_OUT OUT.jsonl [SEED ...]   # two folders of clean photographs
    python -m tests.tuning OUT.jsonl                           # the table of what was measured

Twelve photographs of each folder become noisy raw pictures (`raw.photographed`: exposure and white
balance right, 800 electrons in a full well). Three seeds of TPE, of random search, and of TPE with
the bounds off search on the first twelve. SSIMULACRA2 against the clean photographs, which no
search sees, is measured of the best setting so far after 25, 50, 100 and 150 trials.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qinsight_plugin.fidelity.ssimulacra2 import Ssimulacra2
from qinsight_plugin.tune import isp, tune
from qinsight_plugin.tune.bounds import UNBOUNDED
from qinsight_plugin.tune.objective import Objective
from qinsight_plugin.tune.raw import Raw, Shot, photographed

from .conftest import Pixels

SIDE, SCENES, SEEDS = 384, 12, (0, 1, 2)
SHOT = Shot(photons=800, read=5)
SEARCHES = {
    "tpe": ("tpe", Objective()),
    "random": ("random", Objective()),
    "no bounds": ("tpe", Objective(UNBOUNDED, leash=0)),
}
MARKS = (25, 50, 100, 150)

Scene = tuple[Pixels, Raw]


def scenes(folder: Path, stream: int) -> list[Scene]:
    """Clean photographs, SIDE pixels square, and what a sensor makes of them."""
    made = []
    for index, path in enumerate(sorted(folder.glob("*.png"))[:SCENES]):
        with Image.open(path) as file:
            side = min(file.size)
            square = file.convert("RGB").crop((0, 0, side, side))
        clean = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        rng = np.random.default_rng([stream, index])
        made.append((clean, photographed(clean, SHOT, rng, path.name)))
    return made


def fidelity(params: Any, pictures: Sequence[Scene]) -> list[float]:
    return [Ssimulacra2(clean).score(isp.render(params, raw)) for clean, raw in pictures]


def measure(train: Path, held_out: Path, out: Path, seeds: Sequence[int]) -> None:
    seen, unseen = scenes(train, 0), scenes(held_out, 1)
    with out.open("a") as file:

        def write(**row: object) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        default = isp.SPACE.defaults
        write(search="default", train=fidelity(default, seen), held_out=fidelity(default, unseen))
        for seed in seeds:
            for name, (sampler, objective) in SEARCHES.items():
                started = time.perf_counter()
                tuned = tune(
                    isp.render,
                    isp.SPACE,
                    [raw for _, raw in seen],
                    held_out=[raw for _, raw in unseen],
                    trials=MARKS[-1],
                    sampler=sampler,
                    objective=objective,
                    seed=seed,
                )
                seconds = time.perf_counter() - started
                for mark in MARKS:
                    ended = [t for t in tuned.study.trials[:mark] if t.values]
                    best = max(ended, key=lambda trial: float(trial.value))
                    write(
                        search=name,
                        seed=seed,
                        trials=mark,
                        params=best.params,
                        quality=best.value,
                        score=best.user_attrs["outcome"]["mean"],
                        train=fidelity(best.params, seen),
                        held_out=fidelity(best.params, unseen),
                    )
                assert tuned.held_out is not None
                write(
                    search=name,
                    seed=seed,
                    seconds=seconds,
                    failed=tuned.failed,
                    objection=tuned.held_out.objection,
                )


def show(out: Path) -> None:
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    default = next(row for row in rows if row["search"] == "default")
    print("| search | seed | trials | student, training scenes | SSIMULACRA2 there | held out |")
    print("|---|---|---|---|---|---|")
    at = f"{np.mean(default['train']):.1f} | {np.mean(default['held_out']):.1f} |"
    print(f"| default setting | - | - | - | {at}")
    base = np.array(default["held_out"])
    for row in rows:
        if "trials" not in row:
            continue
        gain = np.array(row["held_out"]) - base
        half = 2.201 * gain.std(ddof=1) / np.sqrt(len(gain))  # Student's t, 11 degrees of freedom
        print(
            f"| {row['search']} | {row['seed']} | {row['trials']} | {row['score']:.2f} "
            f"| {np.mean(row['train']):.1f} | {np.mean(row['held_out']):.1f}: "
            f"{gain.mean():+.1f} [{gain.mean() - half:+.1f}, {gain.mean() + half:+.1f}] |"
        )
    for row in rows:
        if "seconds" in row:
            print(row)


def main() -> None:
    if len(sys.argv) == 2:
        show(Path(sys.argv[1]))
    else:
        train, held_out, out, *seeds = sys.argv[1:]
        measure(Path(train), Path(held_out), Path(out), [int(seed) for seed in seeds] or SEEDS)


if __name__ == "__main__":
    main()
