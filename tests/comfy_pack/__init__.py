"""Nodes for the tests: tensors from files, and a look at whatever another node put out.

Loaded by ComfyUI itself and by the harness of `tests/comfy_harness.py`, so that one workflow runs
in both.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io


class Tensors(io.ComfyNode):
    """IMAGE tensors, one from each NumPy file: any shape, any values."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="TestTensors",
            category="test",
            inputs=[io.String.Input("files", multiline=True)],
            outputs=[io.Image.Output("images", is_output_list=True)],
        )

    @classmethod
    def execute(cls, files: str) -> Any:
        return io.NodeOutput([torch.from_numpy(np.load(name)) for name in files.split("\n")])


class Probe(io.ComfyNode):
    """Says in the history what it was given: values, and of tensors their shapes."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="TestProbe",
            category="test",
            inputs=[io.AnyType.Input("value"), io.String.Input("save", default="")],
            outputs=[],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value: list[Any], save: list[str]) -> Any:
        if save[0]:
            for number, item in enumerate(value):
                np.save(f"{save[0]}{number}.npy", item.numpy())
        told = [list(v.shape) if isinstance(v, torch.Tensor) else v for v in value]
        return io.NodeOutput(ui={"probe": [json.dumps(told)]})


class Pack(ComfyExtension):
    async def get_node_list(self) -> list[type[Any]]:
        return [Tensors, Probe]


async def comfy_entrypoint() -> Any:
    return Pack()
