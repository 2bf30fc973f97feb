"""People who rate, made up: `python -m tests.simulated_raters FOLDER` prints and draws the figures
in qinsight_plugin/feedback/README.md. Nothing here is a human rating.

The model. A picture's true MOS is uniform on 1 to 5. Each look of a person finds it at truth + the
person's bias + a normal error; a rating is that, rounded to 1..5; of a pair the one found higher is
named. Honest: bias of deviation 0.2, error 0.5. Noisy: error 1.0. Biased: bias of -0.9 or +0.9,
error 0.5. Spammers do not look: they rate at random, or always the same, and choose by coin.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from qinsight_plugin.errors import LabelsError
from qinsight_plugin.feedback.choosing import (
    OWN_WAYS,
    best_pairs,
    flat_prior,
    posterior,
    prior_of,
)
from qinsight_plugin.feedback.judgements import Judgement
from qinsight_plugin.feedback.mos import (
    Model,
    Opinions,
    run_model,
    scale,
    suited_model,
    tabulate,
)
from qinsight_plugin.feedback.raters import report

Sort = Literal["honest", "noisy", "biased", "random", "constant"]
SPAMMERS = ("random", "constant")
CROWD: tuple[Sort, ...] = (
    *("honest",) * 10,
    *("noisy",) * 3,
    *("biased",) * 3,
    *("random",) * 3,
    "constant",
)
MODELS: tuple[Model, ...] = ("mean", "bt500", "p913", "p910-ml", "p910")
KEPT = ("mean without those suggested", "default without those suggested")


@dataclass(frozen=True)
class Person:
    name: str
    sort: Sort
    bias: float
    error: float

    def look(self, truth: float, rng: np.random.Generator) -> float:
        return truth + self.bias + self.error * rng.normal()

    def rate(self, truth: float, rng: np.random.Generator) -> int:
        if self.sort == "random":
            return int(rng.integers(1, 6))
        if self.sort == "constant":
            return 4
        return int(np.clip(round(self.look(truth, rng)), 1, 5))


def crowd(rng: np.random.Generator, sorts: Sequence[Sort] = CROWD) -> list[Person]:
    people = []
    for k, sort in enumerate(sorts):
        bias = float(rng.choice([-0.9, 0.9])) if sort == "biased" else 0.2 * rng.normal()
        people.append(Person(f"{sort}-{k}", sort, bias, 1.0 if sort == "noisy" else 0.5))
    return people


def rated(
    seed: int, pictures: int = 60, sorts: Sequence[Sort] = CROWD, share: float = 1.0
) -> tuple[npt.NDArray[np.float64], list[Judgement]]:
    """The truth, and what the crowd made of it; each person rates that share of the pictures."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 5, pictures)
    found: list[Judgement] = []
    for person in crowd(rng, sorts):
        for k in rng.permutation(pictures)[: round(share * pictures)]:
            value = person.rate(truth[k], rng)
            found.append(
                Judgement(person.name, "rating", (f"{k:04}.png",), value, order=len(found))
            )
    return truth, found


def rmse(opinions: Opinions, truth: npt.NDArray[np.float64], model: Model) -> float:
    found = scale(opinions, model)
    rows = [int(Path(name).stem) for name in found.pictures]
    return float(np.sqrt(np.mean((found.value - truth[rows]) ** 2)))


@dataclass(frozen=True)
class Screening:
    """How well the report finds the spammers, over seeds; RMSE against the truth, by seed."""

    precision: float
    recall: float
    rejected_by_bt500: tuple[int, int]
    errors: dict[str, list[float]]


def screening(seeds: Sequence[int], pictures: int = 60, share: float = 1.0) -> Screening:
    right = suggested = spammers = bt500_right = bt500 = 0
    errors: dict[str, list[float]] = {name: [] for name in (*MODELS, *KEPT)}
    for seed in seeds:
        truth, judgements = rated(seed, pictures, share=share)
        suspects = {one.rater for one in report(judgements, None) if one.leave_out}
        guilty = {one.rater for one in judgements if one.rater.startswith(SPAMMERS)}
        right, suggested = right + len(suspects & guilty), suggested + len(suspects)
        spammers += len(guilty)
        everyone = tabulate(judgements)
        flags = run_model(everyone, "bt500")["observer_rejected"]
        rejected = {name for name, out in zip(everyone.raters, flags, strict=True) if out}
        bt500_right, bt500 = bt500_right + len(rejected & guilty), bt500 + len(rejected)
        kept = tabulate([one for one in judgements if one.rater not in suspects])
        for model in MODELS:
            with contextlib.suppress(LabelsError):  # a model that rejects may leave a picture none
                errors[model].append(rmse(everyone, truth, model))
        errors[KEPT[0]].append(rmse(kept, truth, "mean"))
        errors[KEPT[1]].append(rmse(kept, truth, suited_model(kept)))
    precision = right / suggested if suggested else 1.0
    return Screening(precision, right / spammers, (bt500_right, bt500), errors)


Curve = list[tuple[int, float]]


def comparing(
    seed: int,
    chosen: bool,
    *,
    pictures: int = 100,
    total: int,
    error: float = 0.4,
    student_error: float | None = None,
    every: int = 20,
) -> Curve:
    """Comparisons made, and the rank correlation of the scale with the truth.

    Args:
        chosen: by information gain; else at random.
        student_error: deviation of the student's scores, which are the prior of either; None: no
            student.
    """
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 5, pictures)
    prior = flat_prior(pictures)
    if student_error is not None:
        scores = truth + student_error * rng.normal(size=pictures)
        prior = prior_of(
            scores.tolist(), [max(0.0, student_error**2 - OWN_WAYS**2) ** 0.5] * pictures
        )
    answers: list[tuple[int, int, float]] = []
    curve: Curve = []
    while len(answers) <= total:
        wanted = chosen or len(answers) % every == 0
        known = posterior(prior, answers) if wanted else None
        if len(answers) % every == 0 and known is not None and np.ptp(known.mean):
            curve.append((len(answers), float(spearmanr(known.mean, truth).statistic)))
        if chosen:
            assert known is not None
            pairs = best_pairs(known, (), 5)
        else:
            pairs = [tuple(rng.choice(pictures, 2, replace=False)) for _ in range(5)]
        for a, b in pairs:
            apart = truth[a] - truth[b] + error * 2**0.5 * rng.normal()
            answers.append((int(a), int(b), float(apart > 0)))
    return curve


def needed(curve: Curve, target: float) -> int | None:
    """Comparisons until the target is reached."""
    return next((count for count, reached in curve if reached >= target), None)


def main(folder: Path) -> None:
    from matplotlib.figure import Figure

    for share in (1.0, 0.3):
        found = screening(range(10), share=share)
        print(f"each rates {share:.0%}: precision {found.precision:.2f} recall {found.recall:.2f}")
        print(
            f"  BT.500 rejected {found.rejected_by_bt500[1]}, spammers {found.rejected_by_bt500[0]}"
        )
        for name, values in found.errors.items():
            if not values:
                print(f"  {name:<30} gave up")
                continue
            span = f"{min(values):.3f} to {max(values):.3f}"
            print(f"  {name:<30} RMSE {np.mean(values):.3f} ({span}, n {len(values)})")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, student in zip(figure.subplots(1, 2, sharey=True), (None, 0.5), strict=True):
        for seed in range(3):
            curves = [
                comparing(seed, chosen, total=total, student_error=student)
                for chosen, total in ((True, 800), (False, 2000))
            ]
            for curve, colour, name in zip(
                curves, ("#0072B2", "0.6"), ("by information", "at random"), strict=True
            ):
                axes.plot(
                    *zip(*curve, strict=True), color=colour, label=name if seed == 0 else None
                )
            counts = {
                t: [needed(curve, t) for curve in curves] for t in (0.9, 0.95, 0.96, 0.97, 0.98)
            }
            print("student" if student else "no student", seed, counts)
        axes.set(xlim=(0, 1500), ylim=(0.8, 1), xlabel="Comparisons")
        axes.set_title(
            "starting from nothing" if student is None else "starting from the student's scores"
        )
        axes.grid(color="0.9")
    figure.axes[0].set_ylabel("SRCC with the truth")
    figure.axes[0].legend(frameon=False)
    figure.savefig(folder / "asking.png", dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
