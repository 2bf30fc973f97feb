"""The loop: ask for a setting, render the scenes, look, tell; then see what it is worth elsewhere.

A study lives in Optuna's storage. With a journal file it survives a kill, goes on from it, and
several processes may work on it at once.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, ImageError, QInsightError, RenderError, ScorerError
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline
from qinsight_plugin.tune.objective import Eye, Look, Objective, Outcome
from qinsight_plugin.tune.rendering import Guarded, Here, Render, Renderer

if TYPE_CHECKING:
    from qinsight_plugin.records import Image
    from qinsight_plugin.tune.space import Space, Value
    from qinsight_plugin.tune.taste import Taste

GOALS: Mapping[str, str] = {
    "quality": "maximize",
    "mean": "maximize",
    "worst": "maximize",
    "excess": "minimize",
    "seconds": "minimize",
}
"""What can be aimed at, alone or several at once: fields of `Outcome`, and their direction."""

SAMPLERS = ("tpe", "cmaes", "nsga2", "random")
SHOWN = 4
"""Scenes of which a report has pictures."""

GIVE_UP = 20
"""Failed trials at the start, and no other, after which a study ends."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The found setting on scenes that were not searched on.

    Attributes:
        default, best: what both come to; None where a scene has no picture.
        objection: why the found setting is not to be trusted; "" where it holds.
    """

    default: Outcome
    best: Outcome | None
    objection: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A scene before and after tuning."""

    before: Image
    after: Image
    looks: tuple[Look, Look]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of a study.

    Attributes:
        best: the setting with the highest quality found (of several goals: the first goal's best).
        default, outcome: what the default and the best come to on the scenes.
        held_out: the check on other scenes; None where there were none.
        front: the settings that no other beats in every goal, with their values; one goal: the
            best alone.
        trials, failed: how many ended, and how many of them without pictures.
        stopped: why it ended.
        pairs: the first scenes at the default and the best setting; held-out ones, where there
            are any.
        study: optuna's, for all else.
    """

    best: dict[str, Value]
    default: Outcome
    outcome: Outcome
    held_out: HeldOut | None
    front: tuple[tuple[dict[str, Value], tuple[float, ...]], ...]
    trials: int
    failed: int
    stopped: str
    pairs: tuple[Pair, ...]
    study: Any
    space: Space

    @property
    def recommended(self) -> dict[str, Value]:
        """The best setting, or the default one where the best did not hold on other scenes."""
        trusted = self.held_out is None or not self.held_out.objection
        return self.best if trusted else self.space.defaults


class Stage:
    """Scenes, what renders them, and how they look at the default setting.

    Raises:
        ConfigError: the default setting cannot be rendered.
    """

    def __init__(
        self,
        render: Render,
        scenes: Sequence[Any],
        defaults: Mapping[str, Value],
        eye: Eye,
        objective: Objective,
        time_limit: float | None,
    ) -> None:
        self._count = len(scenes)
        self._eye, self._objective = eye, objective
        self._renderer: Renderer = (
            Here(render, scenes) if time_limit is None else Guarded(render, scenes, time_limit)
        )
        self._sizes: list[tuple[int, int]] = []
        try:
            self._default_looks = self._looks(defaults)
        except (RenderError, ScorerError, ImageError) as error:
            self.close()
            raise ConfigError(
                f"the default setting cannot be judged, so nothing can be tuned: {error}"
            ) from error
        self.default = self._outcome(self._default_looks)

    def judge(self, params: Mapping[str, Value]) -> Outcome:
        """Raises RenderError or ScorerError where a scene has no picture or no score."""
        return self._outcome(self._looks(params))

    def pairs(
        self, before: Mapping[str, Value], after: Mapping[str, Value], count: int
    ) -> tuple[Pair, ...]:
        """The first scenes at two settings. Raises as `judge`."""
        made = []
        for scene in range(min(count, self._count)):
            images = [self._renderer.render(params, scene)[0] for params in (before, after)]
            first, second = (self._eye.look(image) for image in images)
            made.append(Pair(images[0], images[1], (first, second)))
        return tuple(made)

    def close(self) -> None:
        self._renderer.close()

    def _looks(self, params: Mapping[str, Value]) -> list[Look]:
        return [self._look(params, scene) for scene in range(self._count)]

    def _look(self, params: Mapping[str, Value], scene: int) -> Look:
        image, seconds = self._renderer.render(params, scene)
        size = (image.width, image.height)
        if scene == len(self._sizes):  # the default setting, which is rendered first
            self._sizes.append(size)
        if size != self._sizes[scene]:
            raise RenderError(
                f"rendering scene {scene + 1} returned {size[0]}x{size[1]} pixels, at the default "
                f"setting {self._sizes[scene][0]}x{self._sizes[scene][1]}: keep the size"
            )
        return self._eye.look(image, seconds)

    def _outcome(self, looks: Sequence[Look]) -> Outcome:
        return self._objective.outcome(looks, [look.traits for look in self._default_looks])


def tune(
    render: Render,
    space: Space,
    scenes: Sequence[Any],
    *,
    held_out: Sequence[Any] = (),
    trials: int = 150,
    goals: Sequence[str] = ("quality",),
    objective: Objective | None = None,
    taste: Taste | None = None,
    sampler: str = "tpe",
    seed: int = 0,
    patience: int | None = None,
    time_limit: float | None = 60.0,
    scorer: str = DEFAULT_SCORER,
    storage: Path | None = None,
    name: str = "tuning",
    on_trial: Callable[[Any], None] | None = None,
) -> Tuned:
    """Search parameters that make a pipeline's pictures better.

    Args:
        render: parameters (a dict), a scene -> a picture: path, bytes, RGB array, PIL image.
        space: what may be turned; its defaults are the first trial, and what must be beaten.
        scenes: whatever `render` takes, one or more; a dozen different ones, better.
        held_out: other scenes, on which the best setting must hold.
        trials: how many end, in all runs of this study together, failed ones included.
        goals: of `GOALS`; with several, a Pareto front is searched.
        objective: weights and bounds.
        taste: what people's comparisons add to the score, see `taste.learn`.
        sampler: "tpe", "cmaes" (one goal; numbers only), "nsga2" or "random".
        patience: trials without a better one after which it stops; needs one goal.
        time_limit: seconds for one picture, after which its trial fails. None: rendered in this
            process, unguarded, and nothing needs to be picklable.
        storage: a journal file that keeps the study; None: memory.
        on_trial: called with each optuna FrozenTrial that ended.

    Raises:
        ConfigError: an argument is wrong, or the default setting cannot be rendered, or the first
            trials all fail.
        MissingExtraError: optuna is not installed.
    """
    objective = objective or Objective()
    check(scenes, trials, goals, sampler, patience, time_limit)
    eye = Eye(Pipeline(scorer), taste)
    study = open_study(storage, name, goals, sampler, seed, space)
    stage = Stage(render, scenes, space.defaults, eye, objective, time_limit)
    try:
        stopped = run(study, stage, space, goals, trials, patience, on_trial)
        best = best_trial(study, goals[0])
        pairs = () if held_out else shown(stage, space, best.params)
    finally:
        stage.close()
    others = None
    if held_out:
        checked = Stage(render, held_out, space.defaults, eye, objective, time_limit)
        try:
            others = hold(checked, best.params)
            pairs = shown(checked, space, best.params)
        finally:
            checked.close()
    done = ended(study)
    return Tuned(
        dict(best.params),
        stage.default,
        Outcome(**best.user_attrs["outcome"]),
        others,
        tuple((dict(t.params), tuple(t.values)) for t in study.best_trials),
        len(done),
        sum(trial.values is None for trial in done),
        stopped,
        pairs,
        study,
        space,
    )


def check(
    scenes: Sequence[Any],
    trials: int,
    goals: Sequence[str],
    sampler: str,
    patience: int | None,
    time_limit: float | None,
) -> None:
    if not len(scenes):
        raise ConfigError("there are no scenes to tune on: give at least one")
    if trials < 1:
        raise ConfigError(f"trials must be 1 or more, not {trials}")
    if not goals or not set(goals) <= GOALS.keys() or len(set(goals)) < len(goals):
        raise ConfigError(f"goals {', '.join(goals)} are not different ones of {', '.join(GOALS)}")
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}")
    if len(goals) > 1 and (sampler == "cmaes" or patience):
        raise ConfigError("cmaes and patience are for one goal: leave them out with several")
    if patience is not None and patience < 1:
        raise ConfigError(f"patience must be 1 or more, not {patience}")
    if time_limit is not None and not time_limit > 0:
        raise ConfigError(f"time_limit must be above 0 seconds, not {time_limit}")


def open_study(
    storage: Path | None,
    name: str,
    goals: Sequence[str],
    sampler: str,
    seed: int,
    space: Space,
) -> Any:
    """The study of that name, new or as it was left; the default setting is its first trial.

    Raises:
        ConfigError: the file is none, or holds a study with other goals or other parameters.
    """
    optuna = import_optuna()
    try:
        study = optuna.create_study(
            study_name=name,
            storage=None if storage is None else journal(storage),
            directions=[GOALS[goal] for goal in goals],
            load_if_exists=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"storage {storage} cannot be used: {error}") from error
    told = {"goals": list(goals), "space": {k: repr(p) for k, p in space.parameters.items()}}
    kept = study.user_attrs.get("asked", told)
    for what in ("goals", "space"):
        if kept[what] != told[what]:
            raise ConfigError(
                f"storage {storage} holds a study {name!r} with another {what}: give another name"
            )
    study.set_user_attr("asked", told)
    bury_the_dead(study)
    study.sampler = make_sampler(sampler, seed + 1000 * len(study.trials))
    if not study.trials:
        study.enqueue_trial(space.defaults, skip_if_exists=True)
    return study


def journal(path: Path) -> Any:
    import_optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def make_sampler(name: str, seed: int) -> Any:
    samplers = import_optuna().samplers
    if name == "cmaes":
        require("cmaes", package="cmaes", extra="tune", purpose="the sampler cmaes")
        return samplers.CmaEsSampler(seed=seed)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed)
    if name == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(seed=seed, multivariate=False)


def bury_the_dead(study: Any) -> None:
    """Fail the trials that were running in processes of this machine that are no more."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, pid = trial.user_attrs.get("worker", ("", 0))
        if host == socket.gethostname() and not is_alive(pid):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # of an earlier process with our number, since we only begin
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to someone else
        return True
    return True


def run(
    study: Any,
    stage: Stage,
    space: Space,
    goals: Sequence[str],
    trials: int,
    patience: int | None,
    on_trial: Callable[[Any], None] | None,
) -> str:
    """Until enough trials have ended; why it stopped."""
    while len(done := ended(study)) < trials:
        if len(done) >= GIVE_UP and all(trial.values is None for trial in done):
            reason = done[-1].user_attrs.get("error", "they were ended from outside")
            raise ConfigError(f"the first {len(done)} trials all failed, the last one: {reason}")
        if patience is not None and since_best(study) >= patience:
            return f"no better setting in {patience} trials"
        trial = study.ask()
        number = one(study, trial, stage, space, goals)
        if on_trial is not None:
            on_trial(study.trials[number])
    return f"{len(done)} trials"


def one(study: Any, trial: Any, stage: Stage, space: Space, goals: Sequence[str]) -> int:
    from optuna.trial import TrialState

    trial.set_user_attr("worker", (socket.gethostname(), os.getpid()))
    params = space.ask(trial)
    try:
        outcome = stage.judge(params)
    except QInsightError as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.FAIL)
    else:
        trial.set_user_attr("outcome", asdict(outcome))
        study.tell(trial, [getattr(outcome, goal) for goal in goals])
    number: int = trial.number
    return number


def ended(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def since_best(study: Any) -> int:
    """Trials that ended after the best one began."""
    complete = [trial for trial in ended(study) if trial.values is not None]
    if not complete:
        return 0
    last: int = max(trial.number for trial in ended(study))
    return last - int(study.best_trial.number)


def best_trial(study: Any, goal: str) -> Any:
    complete = [trial for trial in study.best_trials if trial.values is not None]
    if not complete:
        raise ConfigError("no trial gave pictures, so there is no setting to recommend")
    sign = 1 if GOALS[goal] == "maximize" else -1
    return max(complete, key=lambda trial: sign * trial.values[0])


def shown(stage: Stage, space: Space, params: Mapping[str, Value]) -> tuple[Pair, ...]:
    """What a report shows; nothing where a picture fails now, a camera's frame for one."""
    try:
        return stage.pairs(space.defaults, params, SHOWN)
    except QInsightError:
        return ()


def hold(stage: Stage, params: Mapping[str, Value]) -> HeldOut:
    """Whether a setting is better than the default on the stage's scenes, and within bounds."""
    try:
        found = stage.judge(params)
    except QInsightError as error:
        return HeldOut(stage.default, None, f"it fails on a held-out scene: {error}")
    objection = ""
    if found.quality < stage.default.quality:
        objection = (
            f"its quality there is {found.quality:.3f}, the default's {stage.default.quality:.3f}"
        )
    return HeldOut(stage.default, found, objection)


def import_optuna() -> ModuleType:
    optuna = require("optuna", package="optuna", extra="tune", purpose="tuning")
    # A library never prints; a host that wants optuna's messages can turn them on again.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
