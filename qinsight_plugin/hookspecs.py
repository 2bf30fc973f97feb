"""The plugin surface. A plugin implements any of these with `@qinsight_plugin.hookimpl`.

Three kinds: `collect` calls every plugin, `decide` stops at the first answer that is not None,
`observe` calls every plugin and ignores what it returns. No hook may change its arguments.
Plugins are found through the entry-point group `qinsight`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from qinsight_plugin.attempts import RewardSpec
    from qinsight_plugin.records import (
        EncoderSpec,
        Gate,
        Image,
        Report,
        Score,
        Scorer,
        ScorerSpec,
        Source,
        Verdict,
    )

PROJECT = "qinsight"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def qinsight_register_scorers(register: Callable[[ScorerSpec], None]) -> None:
    """collect: call `register(spec)` for each scorer offered; a taken name is an error."""


@hookspec(firstresult=True)
def qinsight_decode_image(
    source: Source, max_pixels: int | None, min_side: int, limit: int
) -> Image | None:
    """decide: decode a source, or None. `max_pixels`: what the scorer will look at, at most;
    `limit`: a picture of more is to be refused."""


@hookspec(firstresult=True)
def qinsight_score_images(
    scorer: Scorer, images: Sequence[Image], references: Sequence[Image] | None
) -> Sequence[Score] | None:
    """decide: one score an image, in order, or None; for caches, tilers, remote pools."""


@hookspec
def qinsight_enrich_report(report: Report, image: Image) -> Mapping[str, Any] | None:
    """collect: named blocks of JSON values to add to `report.blocks`; a taken name is an error."""


@hookspec(firstresult=True)
def qinsight_judge_report(report: Report, gate: Gate) -> Verdict | None:
    """decide: a site's own policy, or None to leave it to the gate's rules."""


@hookspec
def qinsight_report_ready(report: Report, verdict: Verdict | None) -> None:
    """observe: a report is final; `verdict` is None where nothing was gated."""


@hookspec
def qinsight_register_encoders(register: Callable[[EncoderSpec], None]) -> None:
    """collect: call `register(spec)` for each encoder offered; a taken name is an error."""


@hookspec
def qinsight_register_rewards(register: Callable[[RewardSpec], None]) -> None:
    """collect: call `register(spec)` for each reward offered to `train grpo`; a taken name is an
    error."""


@hookspec
def qinsight_training_step(step: int, metrics: Mapping[str, float]) -> None:
    """observe: an optimiser step, counted from 1, and its losses."""


@hookspec
def qinsight_register_commands(cli: click.Group) -> None:
    """collect: add commands to the `qinsight` command line."""
