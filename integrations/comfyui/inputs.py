"""What the nodes have in common: inputs, outputs, the menu that they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from . import models

CATEGORY = "image/quality"
SHARED: dict[str, Any] = {
    "category": CATEGORY,
    # One call for all pictures, of whatever sizes: "the worst" and "the best two" are of them all.
    "is_input_list": True,
    "is_output_node": True,
}
SIDE = ": nothing after it runs where there are none."


def images_input(name: str = "images", tooltip: str = "A batch, or a list of any sizes.") -> Any:
    return io.Image.Input(name, tooltip=tooltip)


def model_input() -> Any:
    return io.Combo.Input(
        "model",
        options=models.model_menu(),
        default=models.SHIPPED[0],
        tooltip="student: the network that ships with qinsight; student:large: one that agrees "
        "better with people and takes 1.6 times as long; int8: the same two, faster on CPUs with "
        "8-bit dot products; *.onnx: your own in models/iqa; remote: the reasoning model at the "
        "address in server.",
    )


def server_input() -> Any:
    return io.String.Input(
        "server",
        default="",
        optional=True,
        tooltip="For model remote: the address of an OpenAI-style server, such as "
        "http://host:8000/v1. Pictures are sent there. Its key comes from the environment "
        "variable QINSIGHT_API_KEY, and never from a workflow; only the server that "
        "QINSIGHT_API_SERVER names is shown it.",
    )


def output(kind: Any, name: str, **options: Any) -> Any:
    # ComfyUI 0.3 shows the type where no name is said to be for display.
    return kind.Output(name, **{"display_name": name, **options})


def same_images_output() -> Any:
    # ComfyUI 0.3 wants other names for outputs than for inputs.
    options = {"display_name": "images", "is_output_list": True, "tooltip": "As they came."}
    return output(io.Image, "same_images", **options)


def report_output() -> Any:
    tooltip = "JSON: a list with all that is known of each picture, errors included."
    return output(io.String, "report", tooltip=tooltip)


def only(values: Sequence[Any]) -> Any:
    """The value of a widget: nodes that take lists get a list of those too."""
    return values[0]


def or_blocked(items: Sequence[Any]) -> Any:
    """A list output; without items what hangs on it does not run, and the rest goes on."""
    return list(items) or ExecutionBlocker(None)
