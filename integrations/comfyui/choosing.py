"""Nodes that choose: Quality Gate, Pick Best, Compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

import qinsight_plugin as qi
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.gate import load_policy
from qinsight_plugin.report import to_dict

from . import models
from .asking import Answer, answers, call
from .inputs import (
    SHARED,
    SIDE,
    images_input,
    model_input,
    only,
    or_blocked,
    output,
    report_output,
    server_input,
)
from .pictures import Picture, in_this_order, kept, levels_of, pictures_of, require_some, source_of
from .showing import in_json, in_lines, on_node, preview, say

STRICT, LENIENT = "strict", "lenient"


class QualityGate(io.ComfyNode):
    """Lets the good pictures through."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="QInsightGate",
            display_name="Quality Gate",
            description="Lets pictures through that are good enough, and hands out the others "
            "separately. What hangs on a side without pictures does not run; the rest goes on.",
            inputs=[
                images_input(),
                model_input(),
                io.Float.Input(
                    "threshold",
                    default=3.0,
                    min=1.0,
                    max=5.0,
                    step=0.05,
                    tooltip="The lowest score that passes: 1 bad, 5 excellent.",
                ),
                io.Combo.Input(
                    "unscorable",
                    options=[STRICT, LENIENT],
                    default=STRICT,
                    tooltip="What cannot be scored (too small, no answer): strict rejects it, "
                    "lenient lets it pass. A broken picture (NaN) never passes. Applies to the "
                    "threshold; a policy has its own rule.",
                ),
                io.Combo.Input(
                    "policy",
                    options=models.policy_menu(),
                    default=models.NO_POLICY,
                    optional=True,
                    tooltip="A policy file (*.toml) in models/iqa, in place of the threshold: "
                    "score, forbidden distortions, sizes.",
                ),
                server_input(),
            ],
            outputs=[
                output(io.Image, "passed", is_output_list=True, tooltip=f"The good ones{SIDE}"),
                output(io.Image, "rejected", is_output_list=True, tooltip=f"The others{SIDE}"),
                output(io.Boolean, "all_passed", tooltip="Whether none was rejected."),
                output(io.Int, "n_passed", tooltip="How many passed."),
                report_output(),
            ],
            **SHARED,
        )

    @classmethod
    def fingerprint_inputs(cls, policy: Sequence[str] = (models.NO_POLICY,), **_: Any) -> object:
        """Runs anew when the policy file has been edited."""
        return models.changed(str(only(policy)))

    @classmethod
    def execute(
        cls,
        images: Sequence[Any],
        model: Sequence[str],
        threshold: Sequence[float],
        unscorable: Sequence[str],
        policy: Sequence[str] = (models.NO_POLICY,),
        server: Sequence[str] = ("",),
    ) -> Any:
        pictures = pictures_of(images)
        gate = gate_of(only(threshold), only(unscorable), only(policy))
        found = list(answers(pictures, models.scorer_of(only(model), only(server))))
        verdicts = [verdict_on(answer, gate) for answer in found]
        passed = [p for p, verdict in zip(pictures, verdicts, strict=True) if verdict.accepted]
        rejected = [p for p, v in zip(pictures, verdicts, strict=True) if not v.accepted]
        return io.NodeOutput(
            or_blocked(kept(passed)),
            or_blocked(kept(rejected)),
            bool(passed) and not rejected,
            len(passed),
            in_json(found, verdicts),
            ui=on_node(
                [shown for answer in found for shown in preview(answer)],
                say(found, [decided(a, v) for a, v in zip(found, verdicts, strict=True)]),
            ),
        )


def gate_of(threshold: float, unscorable: str, policy: str) -> qi.Gate:
    """
    Raises:
        ConfigError: the policy file is wrong.
    """
    path = models.policy_path(policy)
    if path is not None:
        return load_policy(path)
    return qi.Gate(min_score=threshold, unscorable="accept" if unscorable == LENIENT else "reject")


def verdict_on(answer: Answer, gate: qi.Gate) -> qi.Verdict:
    verdict = qi.judge(answer.report, gate)
    return dataclasses.replace(verdict, accepted=False) if answer.broken else verdict


def decided(answer: Answer, verdict: qi.Verdict) -> str:
    """The verdict in words, with its reasons; an error is a reason that is told anyway."""
    decision = "passed" if verdict.accepted else "rejected"
    if answer.report.score is None or not verdict.reasons:
        return decision
    return f"{decision} ({'; '.join(verdict.reasons)})"


class PickBest(io.ComfyNode):
    """The best of a batch."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="QInsightPickBest",
            display_name="Pick Best",
            description="The best pictures of a batch or list, the best first, and the rest.",
            inputs=[
                images_input(),
                model_input(),
                io.Int.Input("count", default=1, min=1, max=4096, tooltip="How many to pick."),
                server_input(),
            ],
            outputs=[
                output(
                    io.Image,
                    "best",
                    is_output_list=True,
                    tooltip="The best first; one batch where all have one size.",
                ),
                output(
                    io.Image,
                    "rejected",
                    is_output_list=True,
                    tooltip=f"The rest, the best first, what cannot be scored last{SIDE}",
                ),
                output(io.Float, "scores", is_output_list=True, tooltip="Of the best ones."),
                report_output(),
            ],
            **SHARED,
        )

    @classmethod
    def execute(
        cls,
        images: Sequence[Any],
        model: Sequence[str],
        count: Sequence[int],
        server: Sequence[str] = ("",),
    ) -> Any:
        pictures = require_some(pictures_of(images))
        found = list(answers(pictures, models.scorer_of(only(model), only(server))))
        scored = [answer for answer in found if answer.report.score is not None]
        unscored = [answer for answer in found if answer.report.score is None]
        scored.sort(key=lambda answer: -answer.report.value)
        best, rest = scored[: only(count)], [*scored[only(count) :], *unscored]
        notes = ["best"] * len(best) + ["rejected"] * len(rest)
        return io.NodeOutput(
            side(best),
            side(rest),
            or_blocked([answer.report.value for answer in best]),
            in_json([*best, *rest]),
            ui=on_node(
                [shown for answer in best for shown in preview(answer)],
                say([*best, *rest], notes),
            ),
        )


def side(chosen: Sequence[Answer]) -> Any:
    return or_blocked(in_this_order([answer.picture for answer in chosen]) if chosen else [])


class Compare(io.ComfyNode):
    """Which of two pictures is better."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="QInsightCompare",
            display_name="Compare Quality",
            description="Which of two pictures looks better, and how probable it is that people "
            "prefer A. Batches are compared pair by pair; a single picture with each of the other.",
            inputs=[
                images_input("A", "One side."),
                images_input("B", "The other side."),
                model_input(),
                io.Float.Input(
                    "margin",
                    default=0.1,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Scores this close are called similar. The model remote is shown both "
                    "pictures and decides for itself.",
                ),
                server_input(),
            ],
            outputs=[
                output(io.String, "better", is_output_list=True, tooltip="A, B or similar."),
                output(
                    io.Float,
                    "probability",
                    is_output_list=True,
                    tooltip="That people prefer A. Nothing where the model tells none.",
                ),
                output(
                    io.Image,
                    "winner",
                    is_output_list=True,
                    tooltip="The better one; A of two similar ones.",
                ),
                report_output(),
            ],
            **SHARED,
        )

    @classmethod
    def execute(
        cls,
        A: Sequence[Any],  # noqa: N803 (the name of the socket)
        B: Sequence[Any],  # noqa: N803
        model: Sequence[str],
        margin: Sequence[float],
        server: Sequence[str] = ("",),
    ) -> Any:
        pairs = pairs_of(pictures_of(A, "A"), pictures_of(B, "B"))
        scorer = models.scorer_of(only(model), only(server))
        limit = None if only(model) == models.REMOTE else only(margin)
        told = [
            call(partial(qi.compare, *sources(pair), scorer=scorer, margin=limit)) for pair in pairs
        ]
        winners = [a if t.better != "B" else b for t, (a, b) in zip(told, pairs, strict=True)]
        sure = [ExecutionBlocker(None) if t.probability is None else t.probability for t in told]
        lines = [said(comparison) for comparison in told]
        return io.NodeOutput(
            [comparison.better for comparison in told],
            sure,
            [winner.tensor for winner in winners],
            in_lines(row(comparison) for comparison in told),
            ui={"qinsight": ["\n".join(lines)]},
        )


def pairs_of(a: Sequence[Picture], b: Sequence[Picture]) -> list[tuple[Picture, Picture]]:
    """
    Raises:
        ConfigError: there are no pairs, or pictures would be left over.
    """
    require_some(a)
    require_some(b)
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise ConfigError(
            f"A has {len(a)} pictures and B has {len(b)}: connect as many, or a single one"
        )
    count = max(len(a), len(b))
    return [(a[k % len(a)], b[k % len(b)]) for k in range(count)]


def sources(pair: tuple[Picture, Picture]) -> list[Any]:
    return [source_of(picture, levels_of(picture)) for picture in pair]


def said(comparison: Any) -> str:
    verdict = (
        "A and B are similar"
        if comparison.better == "similar"
        else f"{comparison.better} is better"
    )
    if comparison.probability is None:
        return verdict
    a, b = comparison.a.value, comparison.b.value
    return f"{verdict}: A {a:.2f}, B {b:.2f}; {comparison.probability:.0%} prefer A"


def row(comparison: Any) -> dict[str, Any]:
    preference = comparison.preference
    return {
        "better": comparison.better,
        "probability": comparison.probability,
        "reasoning": None if preference is None else preference.reasoning,
        "a": to_dict(comparison.a),
        "b": to_dict(comparison.b),
    }
