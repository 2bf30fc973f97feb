"""ComfyUI in small: what its nodes see of it, and how it runs a workflow. For CI, where it is not.

Written from its behaviour, versions 0.3.64 and 0.33.0. `test_comfyui.py` runs the same workflows
through this and, where there is one, through the real ComfyUI, and expects the same of both.
"""

from __future__ import annotations

import asyncio
import enum
import importlib.util
import json
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image as PILImage

from .comfy_host import Prompt, Run

COMMON = {"display_name", "optional", "tooltip", "lazy", "extra_dict"}
WIDGET = COMMON | {"default", "socketless"}
INPUT_ARGUMENTS = {
    "IMAGE": COMMON,
    "*": COMMON,
    "COMBO": WIDGET | {"options", "control_after_generate", "upload"},
    "STRING": WIDGET | {"multiline", "placeholder", "dynamic_prompts"},
    "FLOAT": WIDGET | {"min", "max", "step", "round", "display_mode"},
    "INT": WIDGET | {"min", "max", "step", "control_after_generate", "display_mode"},
    "BOOLEAN": WIDGET | {"label_on", "label_off"},
}
OUTPUT_ARGUMENTS = {"display_name", "tooltip", "is_output_list"}


class Blocker:
    """Stops what hangs on an output; with a message, by an error."""

    def __init__(self, message: str | None) -> None:
        self.message = message


class InterruptedRunError(Exception):
    pass


@dataclass
class Socket:
    kind: str
    id: str
    options: dict[str, Any]


class Kind:
    """A type of ComfyUI's: makes sockets, with the arguments that 0.3.64 knows."""

    def __init__(self, name: str) -> None:
        self.name = name

    def Input(self, id: str, **options: Any) -> Socket:  # noqa: N802
        assert options.keys() <= INPUT_ARGUMENTS[self.name], options.keys()
        return Socket(self.name, id, options)

    def Output(self, id: str, **options: Any) -> Socket:  # noqa: N802
        assert options.keys() <= OUTPUT_ARGUMENTS, options.keys()
        assert options.get("display_name") or self.name == "IMAGE"  # else 0.3.64 shows the type
        return Socket(self.name, id, options)


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Socket] = field(default_factory=list)
    outputs: list[Socket] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False

    def __post_init__(self) -> None:
        ids = [socket.id for socket in (*self.inputs, *self.outputs)]
        assert len(ids) == len(set(ids)), ids  # as 0.3.64 wants it, inputs and outputs together


class NodeOutput:
    def __init__(self, *args: Any, ui: dict[str, list[Any]] | None = None) -> None:
        self.args = args
        self.ui = ui


class ComfyNode:
    hidden: ClassVar[Any] = None


class ComfyExtension:
    async def on_load(self) -> None:
        pass

    async def get_node_list(self) -> list[Any]:
        raise NotImplementedError


class Hidden(enum.Enum):
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    unique_id = "UNIQUE_ID"


class Harness:
    """A ComfyUI with a base directory of its own, without a process or a port.

    Args:
        base: gets the folders models, output and temp.
        packs: folders of nodes.
    """

    name = "harness"

    def __init__(self, base: Path, packs: Mapping[str, Path]) -> None:
        self.base = base
        self.stop = threading.Event()
        self.progress: list[tuple[int, int]] = []
        self.paths: dict[str, list[str]] = {}
        self.cache: dict[str, list[list[Any]]] = {}
        self.shown: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, Any] = {"SaveImage": SaveImage(self), "PreviewAny": PreviewAny()}
        self.modules = self._modules()
        with self.imported():
            for pack in packs.values():
                self._load(pack)

    # What a node imports

    def _modules(self) -> dict[str, types.ModuleType]:
        kinds = {"Image": "IMAGE", "Combo": "COMBO", "String": "STRING", "Float": "FLOAT"}
        kinds |= {"Int": "INT", "Boolean": "BOOLEAN", "AnyType": "*"}
        io = types.SimpleNamespace(
            **{name: Kind(kind) for name, kind in kinds.items()},
            Schema=Schema,
            NodeOutput=NodeOutput,
            ComfyNode=ComfyNode,
            Hidden=Hidden,
        )
        harness = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.done, self.total = 0, total

            def update(self, value: int) -> None:
                self.done += value
                harness.progress.append((self.done, self.total))

        return {
            "comfy": module("comfy"),
            "comfy.utils": module("comfy.utils", ProgressBar=ProgressBar),
            "comfy.model_management": module(
                "comfy.model_management",
                throw_exception_if_processing_interrupted=self._raise_if_stopped,
            ),
            "comfy.cli_args": module(
                "comfy.cli_args", args=types.SimpleNamespace(disable_metadata=False)
            ),
            "comfy_api": module("comfy_api"),
            "comfy_api.latest": module("comfy_api.latest", io=io, ComfyExtension=ComfyExtension),
            "comfy_execution": module("comfy_execution"),
            "comfy_execution.graph_utils": module(
                "comfy_execution.graph_utils", ExecutionBlocker=Blocker
            ),
            "folder_paths": module(
                "folder_paths",
                models_dir=str(self.base / "models"),
                add_model_folder_path=lambda n, p: self.paths.setdefault(n, []).append(p),
                get_folder_paths=lambda n: list(self.paths[n]),
                get_filename_list=self._file_names,
                get_full_path=self._full_path,
                get_full_path_or_raise=self._full_path_or_raise,
                get_temp_directory=lambda: str(self.base / "temp"),
                get_output_directory=lambda: str(self.base / "output"),
                get_save_image_path=save_image_path,
            ),
        }

    @contextmanager
    def imported(self) -> Iterator[None]:
        """Where a node imports from ComfyUI, it gets this."""
        for name, made in self.modules.items():
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(self.modules[parent], child, made)
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            for name in self.modules:
                sys.modules.pop(name, None)

    def _raise_if_stopped(self) -> None:
        if self.stop.is_set():
            self.stop.clear()
            raise InterruptedRunError

    def _file_names(self, folder: str) -> list[str]:
        roots = [Path(path) for path in self.paths[folder]]
        return sorted(str(f.relative_to(r)) for r in roots for f in r.rglob("*") if f.is_file())

    def _full_path(self, folder: str, name: str) -> str | None:
        found = (Path(path, name) for path in self.paths[folder])
        return next((str(path) for path in found if path.is_file()), None)

    def _full_path_or_raise(self, folder: str, name: str) -> str:
        path = self._full_path(folder, name)
        if path is None:
            raise FileNotFoundError(name)
        return path

    def _load(self, pack: Path) -> None:
        """As ComfyUI loads a folder of `custom_nodes/`: by its path, under a name made of it."""
        name = str(pack).replace(".", "_x_") + f"_{id(self)}"
        spec = importlib.util.spec_from_file_location(name, pack / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[name] = loaded
        spec.loader.exec_module(loaded)

        async def list_nodes() -> list[Any]:
            extension = await loaded.comfy_entrypoint()
            assert isinstance(extension, ComfyExtension)
            await extension.on_load()
            return await extension.get_node_list()

        for node in asyncio.run(list_nodes()):
            self.nodes[node.define_schema().node_id] = node

    def part(self, name: str, attribute: str) -> Any:
        """Something out of a file of the first pack."""
        package = next(n for n in sys.modules if n.endswith(f"_{id(self)}"))
        return getattr(sys.modules[f"{package}.{name}"], attribute)

    # How a workflow is run

    def interrupt(self) -> None:
        self.stop.set()

    def run(self, prompt: Prompt, workflow: Any = None) -> Run:
        self.stop.clear()
        if refusal := self._refusal(prompt):
            return Run("refused", refusal, {}, set())
        outputs: dict[str, Any] = {}
        cached: set[str] = set()
        with self.imported():
            runner = _Runner(self, prompt, workflow, outputs, cached)
            try:
                for node_id, node in prompt.items():
                    if self.nodes[node["class_type"]].define_schema().is_output_node:
                        runner.execute(node_id)
            except InterruptedRunError:
                return Run("interrupted", None, outputs, cached)
            except Exception as error:
                return Run("error", runner.error or str(error), outputs, cached)
        if runner.error is not None:
            return Run("error", runner.error, outputs, cached)
        return Run("success", None, outputs, cached)

    def _refusal(self, prompt: Prompt) -> str | None:
        """What is wrong before it runs. As in 0.3.64, a choice may be on no menu."""
        for node in prompt.values():
            if node["class_type"] not in self.nodes:
                return f"no node {node['class_type']}"
            with self.imported():
                schema = self.nodes[node["class_type"]].define_schema()
            for socket in schema.inputs:
                if socket.id not in node["inputs"]:
                    if not socket.options.get("optional"):
                        return f"Required input is missing: {socket.id}"
                    continue
                value = node["inputs"][socket.id]
                if isinstance(value, list):
                    continue
                if socket.kind in ("INT", "FLOAT"):
                    if value < socket.options.get("min", value):
                        return f"Value {value} smaller than min of {socket.id}"
                    if value > socket.options.get("max", value):
                        return f"Value {value} bigger than max of {socket.id}"
        return None


class _Runner:
    """One run of a workflow."""

    def __init__(
        self, host: Harness, prompt: Prompt, workflow: Any, ui: dict[str, Any], cached: set[str]
    ) -> None:
        self.host, self.prompt, self.workflow = host, prompt, workflow
        self.ui, self.cached = ui, cached
        self.done: dict[str, list[list[Any]]] = {}
        self.error: str | None = None

    def signature(self, node_id: str) -> str:
        """What two nodes have in common that put out the same."""
        node = self.prompt[node_id]
        cls = self.host.nodes[node["class_type"]]
        inputs = {
            name: [self.signature(value[0]), value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        constants = {n: [v] for n, v in node["inputs"].items() if not isinstance(v, list)}
        changed = getattr(cls, "fingerprint_inputs", lambda **_: None)(**constants)
        return json.dumps([node["class_type"], inputs, repr(changed)], sort_keys=True)

    def execute(self, node_id: str) -> list[list[Any]]:
        """The outputs of a node: a list of values each."""
        if node_id not in self.done:
            key = self.signature(node_id)
            if key in self.host.cache:
                self.cached.add(node_id)
                self.ui.update({node_id: self.host.shown[key]} if key in self.host.shown else {})
            else:
                # Links first: nothing is kept of a node that failed.
                outputs, ui = self._call(node_id)
                self.host.cache[key] = outputs
                if ui is not None:
                    self.host.shown[key] = self.ui[node_id] = ui
            self.done[node_id] = self.host.cache[key]
        return self.done[node_id]

    def _call(self, node_id: str) -> tuple[list[list[Any]], dict[str, Any] | None]:
        node = self.prompt[node_id]
        cls = self.host.nodes[node["class_type"]]
        schema = cls.define_schema()
        inputs = {
            name: self.execute(value[0])[value[1]] if isinstance(value, list) else [value]
            for name, value in node["inputs"].items()
        }
        self.host._raise_if_stopped()
        if schema.is_input_list:
            calls: list[Mapping[str, Any]] = [inputs]
        else:
            count = max(map(len, inputs.values()), default=1)
            # Shorter lists repeat their last value; an empty one has none to repeat.
            calls = [
                {n: v[k] if k < len(v) else v[-1] for n, v in inputs.items()} for k in range(count)
            ]
        results = [self._result(cls, schema, call) for call in calls]
        width = len(schema.outputs)
        outputs = [merged([r.args[k] for r in results], schema.outputs[k]) for k in range(width)]
        shown = [result.ui for result in results if result.ui is not None]
        if not shown:
            return outputs, None
        return outputs, {key: [v for ui in shown for v in ui[key]] for key in shown[0]}

    def _result(self, cls: Any, schema: Schema, call: Mapping[str, Any]) -> Any:
        values = [
            v for value in call.values() for v in (value if schema.is_input_list else [value])
        ]
        blocker = next((v for v in values if isinstance(v, Blocker)), None)
        if blocker is not None:
            if blocker.message is not None:
                self.error = f"Execution Blocked: {blocker.message}"
            return NodeOutput(*[Blocker(None)] * len(schema.outputs))
        hidden = types.SimpleNamespace(
            prompt=self.prompt if Hidden.prompt in schema.hidden else None,
            extra_pnginfo=None if self.workflow is None else {"workflow": self.workflow},
        )
        bound = cls
        if isinstance(cls, type):
            bound = type(cls.__name__, (cls,), {"hidden": hidden})
        return bound.execute(**call)


def merged(values: Sequence[Any], socket: Socket) -> list[Any]:
    """One output of all calls."""
    if not socket.options.get("is_output_list"):
        return list(values)
    return [v for value in values for v in ([value] if isinstance(value, Blocker) else value)]


class SaveImage:
    """ComfyUI's own: clips, truncates, writes."""

    def __init__(self, host: Harness) -> None:
        self.host = host

    def define_schema(self) -> Schema:
        images, prefix = Socket("IMAGE", "images", {}), Socket("STRING", "filename_prefix", {})
        return Schema("SaveImage", inputs=[images, prefix], is_output_node=True)

    def execute(self, images: Any, filename_prefix: str) -> NodeOutput:
        root = str(self.host.base / "output")
        folder, name, counter, sub, _ = save_image_path(filename_prefix, root, 0, 0)
        saved = []
        for number, image in enumerate(images, counter):
            levels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
            file = f"{name}_{number:05}_.png"
            PILImage.fromarray(levels).save(Path(folder, file), compress_level=4)
            saved.append({"filename": file, "subfolder": sub, "type": "output"})
        return NodeOutput(ui={"images": saved})


class PreviewAny:
    """ComfyUI's own: a value as text."""

    def define_schema(self) -> Schema:
        return Schema("PreviewAny", inputs=[Socket("*", "source", {})], is_output_node=True)

    def execute(self, source: Any) -> NodeOutput:
        return NodeOutput(ui={"text": [str(source)]})


def save_image_path(
    prefix: str, root: str, width: int, height: int
) -> tuple[str, str, int, str, str]:
    """Folder, name, the next number, and the folder under `root`.

    The next number follows the highest that stands, between underscores, after the prefix. One that
    ends in a slash ComfyUI compares with its empty last part, so it never finds a number.
    """
    folder, name = Path(root, prefix).parent, Path(prefix).name
    assert folder.resolve().is_relative_to(Path(root).resolve())
    folder.mkdir(parents=True, exist_ok=True)
    endings = [
        path.name[len(name) + 1 :].split("_")[0]
        for path in folder.iterdir()
        if path.name.startswith(f"{name}_") and not prefix.endswith("/")
    ]
    numbers = [int(ending) if ending.isdigit() else 0 for ending in endings]
    subfolder = str(Path(prefix).parent) if "/" in prefix else ""
    return str(folder), name, max(numbers, default=0) + 1, subfolder, prefix


def module(name: str, **names: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(names)
    return made
