"""Gating as a task. A worker that is killed loses nothing: its task is given to another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import shared_task

from qinsight_plugin.errors import BusyError, ConfigError
from qinsight_plugin.gate import check_gate, load_policy
from qinsight_plugin.records import Gate
from qinsight_plugin.report import to_row
from qinsight_plugin.serving import Picture, shared_engine


@shared_task(  # type: ignore[untyped-decorator]
    name="qinsight.gate_picture",
    acks_late=True,
    reject_on_worker_lost=True,
    # What may be another time; a file that is no picture is an answer and not an error.
    autoretry_for=(BusyError, OSError),
    retry_backoff=True,
    max_retries=5,
)
def gate_picture(
    path: str,
    min_score: float | None = None,
    policy: str | None = None,
    scorer: str = "student",
) -> dict[str, Any]:
    """The report and the verdict of one file, as JSON: the keys are those of `qinsight gate
    --json`.

    Args:
        path: of the file, as the worker sees it.
        min_score: the only rule.
        policy: a file with the rules, instead, as the worker sees it.
        scorer: `NAME` or `NAME:ARGUMENT`.

    Raises:
        ConfigError: there is no rule, or two kinds, or an impossible one.
        OSError: the file cannot be read, after five tries.
    """
    if (policy is None) == (min_score is None):
        raise ConfigError("gate_picture needs a policy or a min_score, and not both")
    gate = load_policy(policy) if policy is not None else check_gate(Gate(min_score=min_score))
    engine = shared_engine(scorer)
    (asked,) = engine.submit([Picture(Path(path).read_bytes(), path)])
    ((report, verdict),) = engine.conclude([asked.result()], gate)
    return to_row(report, verdict)
