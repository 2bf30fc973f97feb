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
from typing import TYPE_CHECKING, Any

from qinsight_plugin.errors import ConfigError, QInsightError
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline
from qinsight_plugin.tune.objective import Eye, Objective, Outcome
from qinsight_plugin.tune.rendering import Render
from qinsight_plugin.tune.space import Choice, Space, Value
from qinsight_plugin.tune.stage import Pair, Stage
from qinsight_plugin.tune.storage import GOALS, SAMPLERS, open_study

if TYPE_CHECKING:
    from qinsight_plugin.tune.taste import Taste

SHOWN = 4
"""Scenes of which a report has pictures."""

DAY = 86_400

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
    if not 0 <= seed < 2**31:
        raise ConfigError(f"seed must be from 0 to {2**31 - 1}, not {seed}")
    if sampler == "cmaes" and (words := choices(space)):
        raise ConfigError(f"cmaes searches numbers, and {words[0]} is none: choose tpe")
    eye = Eye(Pipeline(scorer), taste)
    asked = {
        "goals": list(goals),
        "space": {parameter: repr(how) for parameter, how in space.parameters.items()},
        "objective": repr(objective),
        "taste": repr(taste),
        "scorer": scorer,
        "number of scenes": len(scenes),
    }
    study = open_study(storage, name, asked, sampler, seed, space)
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


def choices(space: Space) -> list[str]:
    return [name for name, one in space.parameters.items() if isinstance(one, Choice)]


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
    if time_limit is not None and not 0 < time_limit <= DAY:
        raise ConfigError(f"time_limit must be above 0 seconds and at most {DAY}, not {time_limit}")


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
