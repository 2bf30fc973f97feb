"""Optuna's study: opened, resumed, shared by several processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError

if TYPE_CHECKING:
    from qinsight_plugin.tune.space import Space

GOALS: Mapping[str, str] = {
    "quality": "maximize",
    "mean": "maximize",
    "worst": "maximize",
    "excess": "minimize",
    "seconds": "minimize",
}
"""What can be aimed at, alone or several at once: fields of `Outcome`, and their direction."""

SAMPLERS = ("tpe", "cmaes", "nsga2", "random")


def open_study(
    storage: Path | None,
    name: str,
    asked: Mapping[str, Any],
    sampler: str,
    seed: int,
    space: Space,
) -> Any:
    """The study of that name, new or as it was left; the default setting is its first trial.

    Args:
        asked: all that its trials depend on, as JSON values; must be as it was.

    Raises:
        ConfigError: the file is none, or holds a study of something else.
    """
    optuna = import_optuna()
    try:
        study = optuna.create_study(
            study_name=name,
            storage=None if storage is None else journal(storage),
            directions=[GOALS[goal] for goal in asked["goals"]],
            load_if_exists=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"storage {storage} cannot be used: {error}; remove it, or name another file"
        ) from error
    kept = study.user_attrs.get("asked", asked)
    for what in asked:
        if kept.get(what) != asked[what]:
            raise ConfigError(
                f"storage {storage} holds a study {name!r} with another {what}: remove it, or give "
                "another name (in a configuration: another output)"
            )
    study.set_user_attr("asked", dict(asked))
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
        # Whose it is, is said a moment after it began; it may have been killed in that moment.
        nameless = not host and datetime.now() - trial.datetime_start > timedelta(minutes=1)
        if nameless or (host == socket.gethostname() and not is_alive(pid)):
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


def import_optuna() -> ModuleType:
    optuna = require("optuna", package="optuna", extra="tune", purpose="tuning")
    # A library never prints; a host that wants optuna's messages can turn them on again.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
