"""From rated pictures to a trained student: what `fit` and `distill` have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from filelock import FileLock, Timeout

from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.evaluate import Agreement, Estimate, evaluate
from qinsight_plugin.labels import Labels, held_out
from qinsight_plugin.pairs import Pairs, check_pairs_learnable
from qinsight_plugin.student.cache import Cache, PictureCache, StemCache
from qinsight_plugin.student.calibrate import calibrate, predict, score_all
from qinsight_plugin.student.checkpoint import name_of_run
from qinsight_plugin.student.families import Family, cache_families
from qinsight_plugin.student.fit import OnStep, TrainingData, fit
from qinsight_plugin.student.imitate import imitate
from qinsight_plugin.student.network import AnyStudent, Student
from qinsight_plugin.student.preferences import Compared, pair_accuracy, split_pairs
from qinsight_plugin.student.recipe import Recipe
from qinsight_plugin.student.settle import settle
from qinsight_plugin.student.views import Rated, RatedSet, cache_rated

LEAST_TO_CALIBRATE = 30
"""Pictures; fewer are joined by those trained on, or the parameters would fit the noise of their
ratings."""

PAIR_ANCHOR = 0.2
"""Weight of the squared distance from the start's own scores, when learning from pairs."""


OnCached: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What to train from.

    Attributes:
        sets: rated pictures; the first set's scale is the student's, the others' are mapped to it.
        recipe: how.
        work: folder for cached activations and the checkpoint; both are used again if they are
            there.
        pristine: undistorted pictures to distort.
        hold_out: share of the first set's clusters, or about that of the pairs, to measure on and
            not to train on, where the labels name no `test` rows.
        device: what it is computed on, as PyTorch calls it.
        teachers: see `TrainingData`; only where the recipe trains the whole network.
        original: the pretrained network from which new blocks of the student learn first; None:
            no block is new.
    """

    sets: Sequence[RatedSet]
    recipe: Recipe
    work: Path
    pristine: Sequence[Path] = ()
    hold_out: float = 0.0
    device: str = "cpu"
    teachers: Sequence[AnyStudent] = ()
    original: Student | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """A student, and how it came to be.

    Attributes:
        figures: name -> before and after on what was held out, of the student that training
            started from and of what came of it; before is None where the start had never been
            trained. Empty where nothing was held out.
        counts: pictures trained on, calibrated on, held out; families made. Of pairs, these, and
            those left out as they are of a picture held out and one that is not.
    """

    student: AnyStudent
    figures: Mapping[str, tuple[Estimate | None, Estimate]]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Parts:
    """Indices into one set of labels; no cluster of near-duplicates is in two parts."""

    train: list[int]
    validation: list[int]
    test: list[int]


class Trainer:
    """Caches, trains, calibrates, measures.

    Args:
        student: where to start from; not changed.
        fresh: its heads have never been trained.
        on_cached: called with what is read ("pictures", "families"), how many were, of how many.
        on_step: see `fit`.

    Raises:
        ConfigError: the work folder is of another run, or in use by one.
    """

    def __init__(
        self,
        student: AnyStudent,
        job: Job,
        *,
        fresh: bool,
        on_cached: OnCached | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        require_whole(job)
        self.student = student.eval()
        for network in (student, *job.teachers, *([job.original] if job.original else [])):
            network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.job = job
        self.fresh = fresh
        self.on_cached = on_cached
        self.on_step = on_step
        self._lock = lock(job.work)
        self.cache: Cache[Any] = (
            PictureCache(job.work / "pictures")
            if job.recipe.whole
            else StemCache(job.work / "stem", self.student, half=job.recipe.bfloat16)
        )

    def close(self) -> None:
        """Let go of the work folder."""
        self.cache.close()
        self._lock.release()

    def on_ratings(self) -> Trained:
        """Learn from the job's sets.

        Raises:
            ImageError: a pristine picture cannot be decoded.
            LabelsError: a rated one cannot, or too few are left to learn from, or to measure on.
        """
        job, recipe = self.job, self.job.recipe
        parts = [
            split(rated, recipe, job.hold_out if rated is job.sets[0] else 0.0)
            for rated in job.sets
        ]
        own = parts[0]
        enough = len(own.validation) >= LEAST_TO_CALIBRATE
        calibration = own.validation if enough else own.train + own.validation
        held_back = self.read([(job.sets[0], calibration)], jitter=False)
        held_out = self.read([(job.sets[0], own.test)], jitter=False)
        # Also of a student that is fresh: what cannot be measured on is better known now.
        before = self.agreement(self.student, held_out) if len(held_out) else None
        rated = self.read(zip(job.sets, [part.train for part in parts], strict=True))
        rated = without(rated, [held_out, held_back] if enough else [held_out])
        good = best_of(job.sets[0], own.train, recipe.good)
        data = TrainingData(self.cache, rated, self.families(good), None, job.teachers)
        trained = self.learn(data)
        settle(trained, self.cache, rated, data.families, recipe)
        calibrate(trained, self.cache, held_back, unseen=enough)
        figures: dict[str, tuple[Estimate | None, Estimate]] = {}
        if before is not None:
            after = self.agreement(trained, held_out)
            for name in ("srcc", "plcc", "rmse"):
                start = None if self.fresh else getattr(before, name)
                figures[name.upper()] = (start, getattr(after, name))
        counts = {
            "trained_on": len(rated),
            "calibrated_on": len(held_back),
            "held_out": len(held_out),
            "families": len(data.families),
        }
        return Trained(trained, figures, counts)

    def on_pairs(self, pairs: Pairs) -> Trained:
        """Learn from answers about pairs. They have no scale: the start's own scores of the same
        pictures keep it, and so the start must have been trained.

        Raises:
            ConfigError: it is fresh.
            LabelsError: a picture cannot be used, or too few pairs are left to learn from.
        """
        if self.fresh:
            raise ConfigError(
                "pairs say which picture is better, not how good it is: start from a trained "
                "student (--init), or fit ratings first"
            )
        train, test = split_pairs(pairs, self.job.hold_out, self.job.recipe.seed)
        left_out = len(pairs.a) - len(train) - len(test)
        if left_out:
            require_learnable(pairs.paths, train)
        everything = Labels(pairs.paths, (3.0,) * len(pairs.paths))
        rated = self.read([(RatedSet(everything, ()), range(len(pairs.paths)))])
        before, spread = predict(self.student, self.cache, rated)
        # How unsure the start was of a score, it stays.
        rated = dataclasses.replace(rated, mos=before, variance=spread**2)
        # What order the start saw is not to be learnt again, only what its numbers mean.
        recipe = dataclasses.replace(self.job.recipe, plcc=0.0, fidelity=0.0, mse=PAIR_ANCHOR)
        trained = self.learn(TrainingData(self.cache, rated, self.families([]), train), recipe)
        first, second = (
            pair_accuracy(score_all(student, self.cache, rated), test)
            for student in (self.student, trained)
        )
        figures = {} if second is None else {"accuracy": (first, second)}
        counts = {
            "trained_on": len(train),
            "calibrated_on": 0,
            "held_out": len(test),
            "left_out": left_out,
        }
        return Trained(trained, figures, counts)

    def read(self, sets: Iterable[tuple[RatedSet, Sequence[int]]], *, jitter: bool = True) -> Rated:
        chosen = [dataclasses.replace(rated, chosen=rows) for rated, rows in sets]
        on_cached = partial(self.on_cached, "pictures") if self.on_cached and jitter else None
        seed = self.job.recipe.seed if jitter else None
        return cache_rated(self.cache, chosen, jitter=seed, on_cached=on_cached)

    def families(self, good: Sequence[Path]) -> list[Family]:
        recipe = self.job.recipe
        on_cached = partial(self.on_cached, "families") if self.on_cached else None
        pools = [self.job.pristine, good]
        measured = recipe.likeness > 0
        return cache_families(
            self.cache, pools, recipe.families, recipe.seed, on_cached, measured=measured
        )

    def learn(self, data: TrainingData, recipe: Recipe | None = None) -> AnyStudent:
        """Imitation, where there is any, and `fit`, on the job's device. What comes before and
        after looks at whole pictures; a GPU, which prepares for each size anew, is slow at that."""
        recipe = recipe or self.job.recipe
        self.move(self.job.device)
        try:
            self.imitate(data)
            trained = fit(
                self.student,
                data,
                recipe,
                fresh=self.fresh,
                checkpoint=self.job.work / "checkpoint.pt",
                on_step=self.on_step,
            )
        finally:
            self.move("cpu")
        return trained.cpu()

    def move(self, device: str) -> None:
        self.cache.move(device)
        original = [self.job.original] if self.job.original else []
        for network in (self.student, *self.job.teachers, *original):
            network.to(device)

    def imitate(self, data: TrainingData) -> None:
        """Let new blocks learn from those that they replace; once for a run."""
        student, original, recipe = self.student, self.job.original, self.job.recipe
        if original is None or not recipe.imitation:
            return
        assert isinstance(student, Student)  # others have no blocks of their own
        assert isinstance(self.cache, PictureCache)  # see require_whole
        kept = self.job.work / f"imitated-{name_of_run(student, data, recipe)[:16]}.pt"
        if kept.exists():
            student.load_state_dict(torch.load(kept, self.job.device, weights_only=True))
            return
        records = [view for own in data.rated.views for view in own]
        records += [record for family in data.families for record in family.records]
        self.student = imitate(student, original, self.cache, records, recipe, self.on_step)
        temporary = kept.with_suffix(".tmp")
        torch.save(self.student.state_dict(), temporary)
        temporary.replace(kept)

    def agreement(self, student: AnyStudent, rated: Rated) -> Agreement:
        return evaluate(score_all(student, self.cache, rated), rated.mos)


def require_whole(job: Job) -> None:
    """Teachers, and blocks that imitate, need pictures.

    Raises:
        ConfigError: the recipe keeps the stem as it is.
    """
    if not job.recipe.whole and (job.teachers or job.original):
        raise ConfigError(
            "teachers, and a student whose first blocks are new, need a recipe with whole = true: "
            "else no pictures are kept to be shown to them"
        )


def require_learnable(paths: tuple[Path, ...], train: Compared) -> None:
    """What a file of pairs must have, the pairs of pictures not held out must have.

    Raises:
        LabelsError: they do not.
    """
    a, b = tuple(train.first.tolist()), tuple(train.second.tolist())
    try:
        check_pairs_learnable(Pairs(paths, a, b, tuple(train.preferred.tolist())))
    except LabelsError as error:
        raise LabelsError(
            f"{error}, or hold out less (--hold-out): no pair of a picture held out is learnt from"
        ) from error


def lock(work: Path) -> FileLock:
    """Keep other runs out of a folder; the system lets them in again when this process ends.

    Raises:
        ConfigError: another run is in it.
    """
    work.mkdir(parents=True, exist_ok=True)
    held = FileLock(work / "lock")
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{work} is in use by another run, and two would damage its files: wait for that one, "
            "or give another --work"
        ) from error
    return held


def without(rated: Rated, held: Sequence[Rated]) -> Rated:
    """Less the pictures that were held back, by whichever set they came again."""
    names = {views[0].key for part in held for views in part.views}
    kept = [i for i, views in enumerate(rated.views) if views[0].key not in names]
    columns = {f.name: getattr(rated, f.name) for f in dataclasses.fields(rated)}
    del columns["views"]
    return Rated([rated.views[i] for i in kept], **{k: v[kept] for k, v in columns.items()})


def best_of(rated: RatedSet, rows: Sequence[int], share: float) -> list[Path]:
    """The best-rated share of those rows: as good as undistorted, in this domain. Fewer where the
    last of them is rated as the first that is too many: equals are taken together or not at all."""
    mos, paths = rated.labels.mos, rated.labels.paths
    ranked = sorted(rows, key=lambda i: -mos[i])
    beyond = [mos[i] for i in ranked[round(share * len(rows)) :]]
    return [paths[i] for i in rows if not beyond or mos[i] > beyond[0]]


def split(rated: RatedSet, recipe: Recipe, hold_out: float) -> Parts:
    """The labels' own `test` rows, near-duplicates of the others left out, and their `val` rows,
    near-duplicates of those two left out; where they name none, clusters drawn at random.

    Raises:
        LabelsError: nothing is left to train on.
    """
    labels = rated.labels
    splits = labels.split or ("train",) * len(labels.mos)
    rows: dict[str, list[int]] = {name: [] for name in ("train", "val", "test")}
    for i in rated.chosen:
        rows[splits[i]].append(i)
    rng = np.random.default_rng(recipe.seed)
    train, test = rows["train"], rows["test"]
    if test:
        test = sorted({*held_out(labels)}.intersection(test))
    elif hold_out > 0:
        train, test = draw_clusters(labels, train, hold_out, rng)
    if rows["val"]:
        names = labels.cluster or ("",) * len(labels.mos)
        placed = {names[i] for i in (*train, *test)} - {""}
        validation = [i for i in rows["val"] if names[i] not in placed]
    else:
        train, validation = draw_clusters(labels, train, recipe.validation, rng)
    if not train:
        raise LabelsError(
            "labels: no picture is left to learn from once some are held back: near-duplicates "
            "(dup_group) stay together, so add pictures of other things"
        )
    return Parts(train, validation, test)


def draw_clusters(
    labels: Labels, rows: Sequence[int], share: float, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Rows of the clusters that stay, and of those that are drawn."""
    names = labels.cluster or ("",) * len(labels.mos)
    clusters = {i: names[i] or f"#{i}" for i in rows}
    order = rng.permutation(sorted(set(clusters.values())))
    drawn = set(order[: max(1, round(share * len(order)))]) if share > 0 else set()
    return [i for i in rows if clusters[i] not in drawn], [i for i in rows if clusters[i] in drawn]
