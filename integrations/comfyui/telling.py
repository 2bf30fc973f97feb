"""Nodes that tell: Quality Score, Explain, Save With Score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from qinsight_plugin.errors import QInsightError
from qinsight_plugin.report import to_row

from . import models
from .asking import Answer, answers, unscored
from .inputs import (
    SHARED,
    images_input,
    model_input,
    only,
    or_blocked,
    output,
    report_output,
    same_images_output,
    server_input,
)
from .pictures import Levels, pictures_of, require_some
from .showing import in_json, map_image, map_of, on_node, preview, say, worst_fault

SCORE_IN_NAME = "%score%"


class QualityScore(io.ComfyNode):
    """How good each picture looks."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="QInsightScore",
            display_name="Quality Score",
            description="How good each picture looks, as people would rate it: 1 bad, 5 excellent. "
            "The node shows where it is bad.",
            inputs=[images_input(), model_input(), server_input()],
            outputs=[
                same_images_output(),
                output(io.Float, "scores", is_output_list=True, tooltip="MOS, 1 to 5, in order."),
                output(io.Float, "worst", tooltip="The lowest of the scores."),
                report_output(),
                output(
                    io.Image,
                    "quality_map",
                    is_output_list=True,
                    tooltip="Gray, in the size of its picture: black where it looks bad (1), white "
                    "where it looks excellent (5). Nothing where the model draws none.",
                ),
                output(
                    io.String,
                    "distortion",
                    is_output_list=True,
                    tooltip="What is most wrong: noise, compression, blur, darken, or none.",
                ),
                output(
                    io.String,
                    "severity",
                    is_output_list=True,
                    tooltip="slight, moderate, obvious, serious, catastrophic, or none.",
                ),
            ],
            **SHARED,
        )

    @classmethod
    def execute(
        cls, images: Sequence[Any], model: Sequence[str], server: Sequence[str] = ("",)
    ) -> Any:
        pictures = require_some(pictures_of(images))
        scores, maps, previews, found = [], [], [], []
        for answer in answers(pictures, models.scorer_of(only(model), only(server))):
            scores.append(answer.report.value)  # raises what is wrong where there is none
            found.append(answer)
            previews += preview(answer)
            drawn = map_of(answer)
            if drawn is not None:
                maps.append(map_image(drawn, answer.picture.size))
        distortions, severities = zip(*(worst_fault(a.report) for a in found), strict=True)
        return io.NodeOutput(
            list(images),
            scores,
            min(scores),
            in_json(found),
            or_blocked(maps),
            list(distortions),
            list(severities),
            ui=on_node(previews, say(found)),
        )


class Explain(io.ComfyNode):
    """What a reasoning model says of each picture."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="QInsightExplain",
            display_name="Explain Quality",
            description="A vision-language model (Q-Insight) says in words how good each picture "
            "looks and what is wrong with it.",
            inputs=[
                images_input(),
                io.Combo.Input(
                    "model",
                    options=models.reasoning_menu(),
                    default=models.REMOTE,
                    tooltip="remote: at the address in server (needs qinsight-plugin[remote]); "
                    "reasoning: Q-Insight in ComfyUI's own process (needs qinsight-plugin[reason] "
                    "and loads 16 GB from the hub); others: folders in models/iqa.",
                ),
                server_input(),
            ],
            outputs=[
                output(io.String, "text", is_output_list=True, tooltip="Its reasons."),
                output(io.Float, "scores", is_output_list=True, tooltip="MOS, 1 to 5, in order."),
                output(io.String, "distortion", is_output_list=True),
                output(io.String, "severity", is_output_list=True),
                report_output(),
            ],
            **SHARED,
        )

    @classmethod
    def execute(
        cls, images: Sequence[Any], model: Sequence[str], server: Sequence[str] = ("",)
    ) -> Any:
        pictures = require_some(pictures_of(images))
        found = list(answers(pictures, models.reasoner_of(only(model), only(server))))
        scores = [answer.report.value for answer in found]
        texts = [a.report.score.reasoning or "" if a.report.score else "" for a in found]
        distortions, severities = zip(*(worst_fault(a.report) for a in found), strict=True)
        lines = [f"{line}\n{text}" for line, text in zip(say(found), texts, strict=True)]
        return io.NodeOutput(
            texts,
            scores,
            list(distortions),
            list(severities),
            in_json(found),
            ui=on_node([shown for answer in found for shown in preview(answer)], lines),
        )


class SaveWithScore(io.ComfyNode):
    """PNG files that say how good they are."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="QInsightSave",
            display_name="Save With Score",
            description="Saves PNG files with the score in their names, and the report in their "
            "metadata beside the workflow.",
            inputs=[
                images_input(),
                model_input(),
                io.String.Input(
                    "filename_prefix",
                    default="ComfyUI",
                    tooltip="As for Save Image. The score is put at the end of the name, or in the "
                    "place of %score%: '%score%_ComfyUI' sorts by it.",
                ),
                server_input(),
            ],
            outputs=[
                same_images_output(),
                output(io.String, "files", is_output_list=True, tooltip="Paths, in order."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            **SHARED,
        )

    @classmethod
    def execute(
        cls,
        images: Sequence[Any],
        model: Sequence[str],
        filename_prefix: Sequence[str],
        server: Sequence[str] = ("",),
    ) -> Any:
        pictures = require_some(pictures_of(images))
        metadata = None if args.disable_metadata else workflow_of(cls.hidden)
        saved, found = [], []
        try:
            for answer in answers(pictures, models.scorer_of(only(model), only(server))):
                found.append(answer)
                if answer.levels is not None:
                    saved.append(save(answer, answer.levels, only(filename_prefix), metadata))
        except QInsightError as error:
            for answer in unscored(pictures[len(found) :], only(model), error):
                if answer.levels is not None:
                    save(answer, answer.levels, only(filename_prefix), metadata)
            raise
        for answer in found:
            if answer.broken:
                _ = answer.report.value  # raises what is wrong, now that the others are safe
        root = Path(folder_paths.get_output_directory())
        paths = [str(root / entry["subfolder"] / entry["filename"]) for entry in saved]
        return io.NodeOutput(list(images), paths, ui=on_node(saved, say(found)))


def workflow_of(hidden: Any) -> dict[str, str]:
    """What ComfyUI writes into its own PNG files: from it, a picture's workflow is loaded again."""
    texts = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(value) for name, value in texts.items() if value is not None}


def save(
    answer: Answer, levels: Levels, prefix: str, metadata: dict[str, str] | None
) -> dict[str, str]:
    """Writes one PNG file; returns where.

    A picture that could not be scored is saved too: it may have taken an hour to make.
    """
    value = "unscored" if answer.report.score is None else f"{answer.report.value:.2f}"
    height, width = answer.picture.size
    filled = prefix.replace(SCORE_IN_NAME, value)
    filled = filled.replace("%batch_num%", str(answer.picture.frame))
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        filled, folder_paths.get_output_directory(), width, height
    )
    # The counter comes first: ComfyUI finds the next one by what follows the prefix.
    ending = "" if SCORE_IN_NAME in prefix else f"score{value}"
    while (path := Path(folder, f"{name}_{counter:05}_{ending}.png")).exists():
        counter += 1  # of a prefix that ends in a slash ComfyUI does not find the next one
    text = None
    if metadata is not None:
        text = PngInfo()
        for key, line in {**metadata, "qinsight": json.dumps(to_row(answer.report))}.items():
            text.add_text(key, line)
    pixels = levels[..., 0] if levels.shape[2] == 1 else levels
    Image.fromarray(pixels).save(path, pnginfo=text, compress_level=4)
    return {"filename": path.name, "subfolder": subfolder, "type": "output"}
