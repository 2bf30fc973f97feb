"""What the package itself answers, through the same hooks as any plugin, and after all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qinsight_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
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


@hookimpl
def qinsight_register_scorers(register: Callable[[ScorerSpec], None]) -> None:
    from qinsight_plugin.scorers import fidelity, local, opencv, pyiqa, remote, student

    for scorer in (student, opencv, local, remote, pyiqa):
        register(scorer.SPEC)
    for spec in fidelity.SPECS:
        register(spec)


@hookimpl
def qinsight_register_encoders(register: Callable[[EncoderSpec], None]) -> None:
    from qinsight_plugin.encoders import stills, videos

    for spec in (*stills.SPECS, *videos.SPECS):
        register(spec)


@hookimpl
def qinsight_register_rewards(register: Callable[[RewardSpec], None]) -> None:
    from qinsight_plugin.grpo.rewards import SPECS

    for spec in SPECS:
        register(spec)


@hookimpl(trylast=True)
def qinsight_decode_image(
    source: Source, max_pixels: int | None, min_side: int, limit: int
) -> Image:
    from qinsight_plugin.decode import decode

    return decode(source, max_pixels=max_pixels, min_side=min_side, limit=limit)


@hookimpl(trylast=True)
def qinsight_score_images(
    scorer: Scorer, images: Sequence[Image], references: Sequence[Image] | None
) -> list[Score]:
    from qinsight_plugin.usable import scorer_errors

    names = ", ".join(image.source for image in images)
    with scorer_errors(f"scorer {scorer.spec.name} failed on {names}"):
        return scorer.score(images, references)


@hookimpl(trylast=True)
def qinsight_judge_report(report: Report, gate: Gate) -> Verdict:
    from qinsight_plugin.gate import judge_report

    return judge_report(report, gate)
