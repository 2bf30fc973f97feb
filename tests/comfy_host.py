"""The real ComfyUI as a process, driven through its HTTP API; what a run of a workflow gave.

The environment variable QINSIGHT_COMFYUI is the path of a ComfyUI, or several with `:` between;
QINSIGHT_COMFYUI_PYTHON is a Python that has what it requires, and this package.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Prompt: TypeAlias = Mapping[str, Mapping[str, Any]]

PATHS = [Path(path) for path in os.environ.get("QINSIGHT_COMFYUI", "").split(os.pathsep) if path]
PYTHON = os.environ.get("QINSIGHT_COMFYUI_PYTHON", sys.executable)
START_SECONDS, RUN_SECONDS = 180, 300


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        status: "success", "error", "interrupted", or "refused" before anything ran.
        error: the message, where there is one.
        outputs: what output nodes have shown, by the nodes' ids.
        cached: the nodes that did not run, since nothing had changed.
    """

    status: str
    error: str | None
    outputs: Mapping[str, Mapping[str, Any]]
    cached: set[str]


class RealComfyUI:
    """
    Args:
        path: of its source tree.
        base: gets its folders; `custom_nodes` among them.
        packs: folders of nodes, linked into `custom_nodes` under these names.
        environment: added to that of this process; `PYTHONPATH` most of all.
    """

    def __init__(
        self,
        path: Path,
        base: Path,
        packs: Mapping[str, Path],
        python: str = PYTHON,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = path.name
        self.base = base
        (base / "custom_nodes").mkdir(parents=True)
        for name, pack in packs.items():
            (base / "custom_nodes" / name).symlink_to(pack)
        self.log = base / "log.txt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        flags = ["--cpu", "--disable-api-nodes", "--disable-auto-launch", "--port", str(port)]
        flags += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, str(path / "main.py"), *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=base,
            )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        self.close()
        raise AssertionError(f"ComfyUI did not start: {self.log.read_text('utf-8')[-2000:]}")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.base / "temp", ignore_errors=True)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def run(self, prompt: Prompt, workflow: Any = None) -> Run:
        body: dict[str, Any] = {"prompt": prompt, "client_id": uuid.uuid4().hex}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            number = self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            return Run("refused", error.read().decode(), {}, set())
        end = time.monotonic() + RUN_SECONDS
        while not (history := self.get(f"/history/{number}")):
            assert time.monotonic() < end, "the run does not end"
            time.sleep(0.05)
        return self._told(history[number])

    def _told(self, entry: Mapping[str, Any]) -> Run:
        messages = dict(entry["status"]["messages"])
        error = messages.get("execution_error", {}).get("exception_message")
        status = "success"
        if "execution_interrupted" in messages:
            status = "interrupted"
        elif entry["status"]["status_str"] != "success" or error:
            status = "error"
        cached = set(messages.get("execution_cached", {}).get("nodes", ()))
        return Run(status, error, entry["outputs"], cached)
