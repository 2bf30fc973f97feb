"""The ComfyUI nodes: every workflow here runs through the harness, and through each real ComfyUI
that QINSIGHT_COMFYUI names; see `comfy_host`."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from scipy.ndimage import gaussian_filter

import qinsight_plugin as qi
from qinsight_plugin.records import ACR_LEVELS
from qinsight_plugin.scorers.student import SHIPPED_WEIGHTS

from .comfy_harness import Harness
from .comfy_host import PATHS, RealComfyUI, Run
from .conftest import ROOT, Pixels, run_command
from .test_wire import Answer, Asked, Reply, Server, chat, closed_port

PACKS = {"qinsight": ROOT / "integrations" / "comfyui", "test_pack": ROOT / "tests" / "comfy_pack"}
NODES = {
    "QInsightScore",
    "QInsightGate",
    "QInsightPickBest",
    "QInsightCompare",
    "QInsightExplain",
    "QInsightSave",
}
Host = Harness | RealComfyUI

REAL = [pytest.mark.real, pytest.mark.slow, pytest.mark.xdist_group("comfyui")]
HOSTS = [pytest.param(None, id="harness")]
HOSTS += [pytest.param(path, id=path.name, marks=REAL) for path in PATHS]
if not PATHS:
    absent = pytest.mark.skip(reason="QINSIGHT_COMFYUI names no ComfyUI")
    HOSTS.append(pytest.param(Path(), id="real", marks=[*REAL, absent]))


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    base = tmp_path_factory.mktemp("comfyui")
    models = base / "models" / "iqa"
    models.mkdir(parents=True)
    (models / "mine.onnx").write_bytes(SHIPPED_WEIGHTS.read_bytes())
    (models / "junk.onnx").write_bytes(b"not a model")
    (models / "sharp.toml").write_text('forbid = { blur = "slight" }\n', "utf-8")
    (models / "wrong.toml").write_text("min_scroe = 3\n", "utf-8")
    if request.param is None:
        yield Harness(base, PACKS)
        return
    real = RealComfyUI(request.param, base, PACKS)
    yield real
    real.close()


class Unawaited(Server):
    """Clients keep their connections: ComfyUI goes on after the test."""

    daemon_threads = True
    block_on_close = False


Serve = Callable[[Answer], Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Unawaited(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """Writes tensors to files; gives what TestTensors takes."""

    def write(*tensors: Any) -> str:
        names = []
        for number, tensor in enumerate(tensors):
            path = tmp_path / f"{time.monotonic_ns()}_{number}.npy"
            np.save(path, np.asarray(tensor, np.float32))
            names.append(str(path))
        return "\n".join(names)

    return write


@pytest.fixture(scope="module")
def photos(astronaut: Pixels) -> list[Pixels]:
    """From good to bad: as it is, a little and badly blurred, and black speckles."""
    blurred = [gaussian_filter(astronaut, (sigma, sigma, 0)) for sigma in (1, 6)]
    return [astronaut, *blurred]


def as_tensor(*pictures: Pixels) -> Any:
    return np.stack(pictures).astype(np.float32) / 255


def link(node: str, output: int = 0) -> list[Any]:
    return [node, output]


def graph(files: str, node: str, outputs: int, **inputs: Any) -> dict[str, Any]:
    """Tensors -> the node -> a probe on each of its outputs."""
    sockets = {"images": link("tensors")} if node != "QInsightCompare" else {}
    return {
        "tensors": {"class_type": "TestTensors", "inputs": {"files": files}},
        "node": {"class_type": node, "inputs": {"model": "student", **sockets, **inputs}},
        **{
            f"out{k}": {
                "class_type": "TestProbe",
                "inputs": {"value": link("node", k), "save": ""},
            }
            for k in range(outputs)
        },
    }


def gate_graph(files: str, **inputs: Any) -> dict[str, Any]:
    return graph(files, "QInsightGate", 5, **{"threshold": 3.0, "unscorable": "strict", **inputs})


def out(run: Run, output: int) -> Any:
    """What reached the probe on that output; None where it was blocked."""
    assert run.status == "success", run.error
    shown = run.outputs.get(f"out{output}")
    return None if not shown else json.loads(shown["probe"][0])


def mos(*pictures: Pixels) -> list[float]:
    """What the package itself says of what SaveImage would write."""
    levels = [np.clip(255.0 * as_tensor(p)[0], 0, 255).astype(np.uint8) for p in pictures]
    return [qi.score(picture).value for picture in levels]


def saved(host: Host, entry: dict[str, str]) -> Path:
    return host.base / entry["type"] / entry["subfolder"] / entry["filename"]


# Score


def test_all_nodes_are_offered_and_explained(host: Host) -> None:
    if isinstance(host, Harness):
        assert host.nodes.keys() >= NODES
        return
    known = host.get("/object_info")
    assert known.keys() >= NODES
    for name in NODES:
        node = known[name]
        assert node["category"] == "image/quality"
        assert node["description"]
        for group in ("required", "optional"):
            for options in node["input"].get(group, {}).values():
                assert options[1]["tooltip"]
    assert known["QInsightScore"]["output_name"] == [
        "images",
        "scores",
        "worst",
        "report",
        "quality_map",
        "distortion",
        "severity",
    ]


def test_the_log_of_the_real_one_names_no_import_error(host: Host) -> None:
    if isinstance(host, Harness):
        pytest.skip("it has no log")
    log = host.log.read_text("utf-8")
    assert "IMPORT FAILED" not in log
    assert "Traceback" not in log
    assert "Cannot import" not in log
    assert "Error while calling comfy_entrypoint" not in log


def test_a_score_is_that_of_the_file_that_save_image_writes(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    prompt = graph(files(as_tensor(*photos)), "QInsightScore", 7)
    inputs = {"images": link("node", 0), "filename_prefix": "as_saved"}
    prompt["save"] = {"class_type": "SaveImage", "inputs": inputs}
    run = host.run(prompt)
    assert out(run, 0) == [[3, 512, 512, 3]]
    paths = [saved(host, entry) for entry in run.outputs["save"]["images"]]
    printed = run_command("score", "--json", *paths)
    rows = json.loads(printed.stdout)
    assert out(run, 1) == [row["score"] for row in rows]
    assert out(run, 2) == [min(row["score"] for row in rows)]
    report = json.loads(out(run, 3)[0])
    assert [row["score"] for row in report] == out(run, 1)
    assert [row["source"] for row in report] == [f"image {k} of 3" for k in (1, 2, 3)]
    assert out(run, 4) == [[1, 512, 512, 3]] * 3
    worst = [(row["distortions"] or [{"name": "none", "severity": "none"}])[0] for row in rows]
    assert out(run, 5) == [distortion["name"] for distortion in worst]
    assert out(run, 6) == [distortion["severity"] for distortion in worst]


def test_the_node_shows_a_picture_and_the_words(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    run = host.run(graph(files(as_tensor(*photos)), "QInsightScore", 0))
    shown = run.outputs["node"]
    lines = shown["qinsight"][0].splitlines()
    assert len(lines) == len(shown["images"]) == 3
    assert lines[2].startswith(f"3. {mos(photos[2])[0]:.1f}")
    assert "blur" in lines[2]
    for entry in shown["images"]:
        with PILImage.open(saved(host, entry)) as picture:
            assert 160 < picture.width <= 320


def test_sizes_may_be_mixed(host: Host, files: Any, photos: list[Pixels]) -> None:
    good, soft, bad = photos
    batches = as_tensor(good, bad), as_tensor(soft[:200, :300])
    run = host.run(graph(files(*batches), "QInsightScore", 7))
    assert out(run, 0) == [[2, 512, 512, 3], [1, 200, 300, 3]]
    assert out(run, 1) == mos(good, bad, soft[:200, :300])
    assert out(run, 4) == [[1, 512, 512, 3], [1, 512, 512, 3], [1, 200, 300, 3]]


def test_the_map_is_pillows_interpolation_between_the_centres_of_its_cells(
    host: Host, files: Any, photos: list[Pixels], tmp_path: Path
) -> None:
    prompt = graph(files(as_tensor(photos[0])), "QInsightScore", 5)
    prompt["out4"]["inputs"]["save"] = str(tmp_path / "map")
    assert out(host.run(prompt), 4)
    drawn = np.load(tmp_path / "map0.npy")[0]
    levels = np.clip(255.0 * as_tensor(photos[0])[0], 0, 255).astype(np.uint8)
    score = qi.score(levels).score
    assert score is not None
    assert score.quality_map is not None
    cells = PILImage.fromarray((score.quality_map - 1) / 4)
    expected = np.asarray(cells.resize((512, 512), PILImage.Resampling.BILINEAR))
    np.testing.assert_allclose(drawn, np.repeat(expected[..., None], 3, 2), atol=1e-5)


# Gate


def test_the_gate_when_some_pass(host: Host, files: Any, photos: list[Pixels]) -> None:
    good, soft, bad = mos(*photos)
    assert bad < soft < good
    run = host.run(gate_graph(files(as_tensor(*photos)), threshold=round(soft - 0.01, 2)))
    assert out(run, 0) == [[2, 512, 512, 3]]
    assert out(run, 1) == [[1, 512, 512, 3]]
    assert out(run, 2) == [False]
    assert out(run, 3) == [2]
    rows = json.loads(out(run, 4)[0])
    assert [row["accepted"] for row in rows] == [True, True, False]
    assert "is below the minimum" in rows[2]["reasons"][0]
    assert "rejected (score " in run.outputs["node"]["qinsight"][0].splitlines()[2]


def test_the_gate_when_all_pass_stops_what_hangs_on_the_rejected(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    run = host.run(gate_graph(files(as_tensor(*photos)), threshold=1.0))
    assert out(run, 0) == [[3, 512, 512, 3]]
    assert out(run, 1) is None
    assert out(run, 2) == [True]
    assert out(run, 3) == [3]


def test_the_gate_when_none_passes_stops_what_hangs_on_the_passed(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    prompt = gate_graph(files(as_tensor(*photos)), threshold=5.0)
    inputs = {"images": link("node", 0), "filename_prefix": "never"}
    prompt["save"] = {"class_type": "SaveImage", "inputs": inputs}
    run = host.run(prompt)
    assert out(run, 0) is None
    assert "save" not in run.outputs
    assert not list(host.base.glob("output/never*"))
    assert out(run, 1) == [[3, 512, 512, 3]]
    assert out(run, 2) == [False]
    assert out(run, 3) == [0]


def test_the_gate_keeps_batches_of_mixed_sizes_apart(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    good, soft, bad = photos
    small = soft[:200, :300]
    limit = round((mos(bad)[0] + min(mos(good, small))) / 2, 2)
    run = host.run(gate_graph(files(as_tensor(good, bad), as_tensor(small)), threshold=limit))
    assert out(run, 0) == [[1, 512, 512, 3], [1, 200, 300, 3]]
    assert out(run, 1) == [[1, 512, 512, 3]]


def test_what_passes_is_bit_for_bit_what_came(
    host: Host, files: Any, photos: list[Pixels], tmp_path: Path
) -> None:
    tensor = as_tensor(*photos) * 1.01 - 0.002  # beyond 0..1, as a VAE leaves it
    prompt = gate_graph(files(tensor), threshold=round(mos(photos[1])[0] - 0.1, 2))
    prompt["out0"]["inputs"]["save"] = str(tmp_path / "passed")
    host.run(prompt)
    np.testing.assert_array_equal(np.load(tmp_path / "passed0.npy"), tensor[:2].astype(np.float32))


def test_a_policy_takes_the_place_of_the_threshold_and_may_be_edited(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    prompt = gate_graph(files(as_tensor(*photos)), threshold=5.0, policy="sharp.toml")
    run = host.run(prompt)
    rows = json.loads(out(run, 4)[0])
    assert rows[0]["accepted"]
    assert "blur; refused from slight up" in rows[2]["reasons"][0]
    assert "refused from slight up" in run.outputs["node"]["qinsight"][0].splitlines()[2]
    policy = host.base / "models" / "iqa" / "sharp.toml"
    before = policy.read_text("utf-8")
    try:
        policy.write_text("min_width = 513\n", "utf-8")
        assert out(host.run(prompt), 3) == [0]
    finally:
        policy.write_text(before, "utf-8")


def test_a_wrong_policy_is_named(host: Host, files: Any, photos: list[Pixels]) -> None:
    run = host.run(gate_graph(files(as_tensor(photos[0])), policy="wrong.toml"))
    assert run.status == "error"
    assert "did you mean 'min_score'?" in str(run.error)


def test_what_is_too_small_is_rejected_or_let_through_as_asked(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    tensors = files(as_tensor(photos[0]), as_tensor(photos[0][:16, :16]))
    strict = host.run(gate_graph(tensors))
    assert out(strict, 1) == [[1, 16, 16, 3]]
    assert "32x32" in json.loads(out(strict, 4)[0])[1]["error"]
    assert "image 2 of 2" in json.loads(out(strict, 4)[0])[1]["error"]
    lenient = host.run(gate_graph(tensors, unscorable="lenient"))
    assert out(lenient, 2) == [True]
    assert "cannot be scored" in json.loads(out(lenient, 4)[0])[1]["reasons"][0]


# Pick, compare, save, explain


def test_the_best_are_picked_in_order(host: Host, files: Any, photos: list[Pixels]) -> None:
    good, soft, bad = photos
    run = host.run(graph(files(as_tensor(bad, good, soft)), "QInsightPickBest", 4, count=2))
    assert out(run, 0) == [[2, 512, 512, 3]]
    assert out(run, 1) == [[1, 512, 512, 3]]
    assert out(run, 2) == mos(good, soft)
    assert [row["source"] for row in json.loads(out(run, 3)[0])] == [
        "image 2 of 3",
        "image 3 of 3",
        "image 1 of 3",
    ]


def test_the_best_of_mixed_sizes_are_a_list(
    host: Host, files: Any, photos: list[Pixels], tmp_path: Path
) -> None:
    good, _, bad = photos
    tensors = files(as_tensor(bad), as_tensor(good[:200, :300]), as_tensor(good[:16, :16]))
    prompt = graph(tensors, "QInsightPickBest", 4, count=9)
    prompt["out0"]["inputs"]["save"] = str(tmp_path / "best")
    run = host.run(prompt)
    assert out(run, 0) == [[1, 200, 300, 3], [1, 512, 512, 3]]
    assert out(run, 1) == [[1, 16, 16, 3]]
    np.testing.assert_array_equal(np.load(tmp_path / "best0.npy"), as_tensor(good[:200, :300]))


def compare_graph(a: str, b: str, **inputs: Any) -> dict[str, Any]:
    prompt = graph(a, "QInsightCompare", 4, margin=0.1, **inputs)
    prompt["others"] = {"class_type": "TestTensors", "inputs": {"files": b}}
    prompt["node"]["inputs"] |= {"A": link("tensors"), "B": link("others")}
    return prompt


def test_two_pictures_are_compared(host: Host, files: Any, photos: list[Pixels]) -> None:
    good, _, bad = photos
    run = host.run(compare_graph(files(as_tensor(bad, good)), files(as_tensor(good))))
    assert out(run, 0) == ["B", "similar"]
    levels = [np.clip(255.0 * as_tensor(p)[0], 0, 255).astype(np.uint8) for p in (bad, good)]
    assert out(run, 1) == [qi.compare(*levels).probability, 0.5]
    assert out(run, 2) == [[1, 512, 512, 3]] * 2
    assert [row["better"] for row in json.loads(out(run, 3)[0])] == ["B", "similar"]
    assert "prefer A" in run.outputs["node"]["qinsight"][0]


def test_pairs_that_do_not_match_are_refused(host: Host, files: Any, photos: list[Pixels]) -> None:
    run = host.run(compare_graph(files(as_tensor(*photos)), files(as_tensor(*photos[:2]))))
    assert run.status == "error"
    assert "A has 3 pictures and B has 2" in str(run.error)


def test_the_score_is_in_the_name_and_the_report_beside_the_workflow(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    tensors = files(as_tensor(photos[0], photos[2]))
    prompt = graph(tensors, "QInsightSave", 2, filename_prefix="shots/mine")
    workflow = {"nodes": [], "made": "here"}
    run = host.run(prompt, workflow)
    names = [entry["filename"] for entry in run.outputs["node"]["images"]]
    good, bad = mos(photos[0], photos[2])
    assert names == [f"mine_00001_score{good:.2f}.png", f"mine_00002_score{bad:.2f}.png"]
    path = host.base / "output" / "shots" / names[1]
    assert out(run, 1)[1] == str(path)
    with PILImage.open(path) as picture:
        texts = picture.text
    assert json.loads(texts["workflow"]) == workflow
    assert json.loads(texts["prompt"])["node"]["class_type"] == "QInsightSave"
    assert json.loads(texts["qinsight"])["score"] == bad == qi.score(path).value
    again = host.run(graph(tensors, "QInsightSave", 1, filename_prefix="shots/%score%_mine"))
    names = [entry["filename"] for entry in again.outputs["node"]["images"]]
    assert names == [f"{good:.2f}_mine_00001_.png", f"{bad:.2f}_mine_00001_.png"]
    third = host.run(graph(tensors, "QInsightSave", 0, filename_prefix="shots/mine", server=" "))
    assert third.outputs["node"]["images"][0]["filename"].startswith("mine_00003_")


def test_pictures_are_saved_where_the_scorer_cannot_be_had(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    tensor = as_tensor(*photos)
    tensor[1, 5, 5, 1] = np.nan
    inputs = {"model": "remote", "server": closed_port(), "filename_prefix": "nobody"}
    run = host.run(graph(files(tensor), "QInsightSave", 0, **inputs))
    assert run.status == "error"
    assert "no answer after" in str(run.error)
    saved = sorted(path.name for path in host.base.glob("output/nobody*.png"))
    assert saved == [f"nobody_0000{k}_scoreunscored.png" for k in (1, 2)]


FILLED_IN = """
import { app } from "./scripts/app.js";
import "./extensions/qinsight/qinsight.js";
class Save {
  widgets = [{ name: "filename_prefix", value: "%date:yyyy%/mine" }];
}
class Score {}
app.extension.beforeRegisterNodeDef(Save, { name: "QInsightSave" });
app.extension.beforeRegisterNodeDef(Score, { name: "QInsightScore" });
const node = new Save();
node.onNodeCreated();
new Score().onNodeCreated?.();
console.log(node.widgets[0].serializeValue());
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_page_fills_in_a_prefix_as_that_of_save_image(tmp_path: Path) -> None:
    ours = tmp_path / "extensions" / "qinsight"
    ours.mkdir(parents=True)
    (ours / "qinsight.js").write_bytes((PACK / "web" / "qinsight.js").read_bytes())
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "app.js").write_text(
        "export const app = { graph: '2031', registerExtension(e) { this.extension = e; } };"
    )
    (scripts / "utils.js").write_text(
        "export const applyTextReplacements = (graph, text) => text.replace('%date:yyyy%', graph);"
    )
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "main.js").write_text(FILLED_IN)
    done = subprocess.run(["node", tmp_path / "main.js"], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "2031/mine\n"


def test_a_number_in_a_batch_may_be_in_the_name(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    tensors = files(as_tensor(photos[0], photos[2]))
    run = host.run(graph(tensors, "QInsightSave", 0, filename_prefix="of_%batch_num%"))
    names = [entry["filename"] for entry in run.outputs["node"]["images"]]
    assert [name[:11] for name in names] == ["of_0_00001_", "of_1_00001_"]


def test_no_file_is_written_over(host: Host, files: Any, photos: list[Pixels]) -> None:
    tensors = files(as_tensor(photos[0], photos[0]))
    for server in ("", " "):  # an identical run would come from the cache
        inputs = {"filename_prefix": "album/", "server": server}
        run = host.run(graph(tensors, "QInsightSave", 0, **inputs))
        assert run.status == "success"
    assert len(list(host.base.glob("output/album_*.png"))) == 4


def test_a_batch_that_is_broken_in_part_is_saved_in_part_and_the_rest_named(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    tensor = as_tensor(photos[0], photos[1], photos[2])
    tensor[1, 5, 5, 1] = np.nan
    run = host.run(graph(files(tensor), "QInsightSave", 0, filename_prefix="partly"))
    assert run.status == "error"
    assert "image 2 of 3 holds NaN" in str(run.error)
    assert len(list(host.base.glob("output/partly*.png"))) == 2


def as_q_insight(asked: Asked) -> Reply:
    """Answers in Q-Insight's form; the same of every picture."""
    if asked.method == "GET":
        return Reply({"object": "list", "data": [{"id": "m", "object": "model"}]})
    question = json.dumps(asked.json)
    if "Image A" in question:
        return chat("<think>B is soft.</think><answer>Image A</answer>")
    if "distortion_class" in question:
        answer = '{"distortion_class": "noise", "severity": "obvious"}'
        return chat(f"<think>Grain.</think><answer>{answer}</answer>")
    return chat('<think>Grain all over.</think><answer>{"rating": 2.25}</answer>')


def test_a_reasoning_model_explains(
    host: Host, files: Any, photos: list[Pixels], serve: Serve
) -> None:
    server = serve(as_q_insight)
    tensors = files(as_tensor(*photos[:2]))
    run = host.run(graph(tensors, "QInsightExplain", 5, model="remote", server=server.url))
    assert ["Grain all over." in text for text in out(run, 0)] == [True, True]
    assert out(run, 1) == [2.25, 2.25]
    assert out(run, 2) == ["noise"] * 2
    assert out(run, 3) == ["obvious"] * 2
    assert "Grain" in run.outputs["node"]["qinsight"][0]
    compared = host.run(compare_graph(tensors, tensors, model="remote", server=server.url))
    assert out(compared, 0) == ["A", "A"]
    assert out(compared, 1) is None
    # The map that a reasoning model does not draw is blocked; the rest goes on.
    scored = host.run(graph(tensors, "QInsightScore", 7, model="remote", server=server.url))
    assert out(scored, 1) == [2.25, 2.25]
    assert out(scored, 4) is None


@pytest.mark.slow
def test_a_local_reasoning_model_is_chosen_by_its_folder(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "models" / "iqa").mkdir(parents=True)
    tiny = request.getfixturevalue("reasoner")
    (tmp_path / "models" / "iqa" / "tiny").symlink_to(tiny)
    np.save(tmp_path / "gray.npy", np.full((1, 64, 64, 3), 0.5, np.float32))
    prompt = graph(str(tmp_path / "gray.npy"), "QInsightExplain", 5, model="tiny")
    run = Harness(tmp_path, PACKS).run(prompt)
    assert 1 <= out(run, 1)[0] <= len(ACR_LEVELS)
    assert out(run, 0)[0]


# Running


def test_an_identical_run_comes_from_the_cache(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    prompt = gate_graph(files(as_tensor(*photos)), threshold=3.1)
    first = host.run(prompt)
    again = host.run(prompt)
    assert "node" not in first.cached
    assert "node" in again.cached
    assert again.status == "success"


def test_equal_pictures_are_asked_about_once(
    host: Host, files: Any, photos: list[Pixels], serve: Serve
) -> None:
    server = serve(as_q_insight)
    tensors = files(as_tensor(photos[0], photos[0], photos[1]))
    prompt = graph(tensors, "QInsightExplain", 5, model="remote", server=f"{server.url}?model=once")
    assert len(out(host.run(prompt), 1)) == 3
    asked = len(server.asked)
    prompt["node"]["class_type"] = "QInsightScore"
    assert out(host.run(prompt), 1) == [2.25] * 3
    assert len(server.asked) == asked


def test_cancelling_does_not_wait_for_the_server(
    host: Host, files: Any, photos: list[Pixels], serve: Serve
) -> None:
    reached, over = threading.Event(), threading.Event()

    def hang(asked: Asked) -> Reply:
        if asked.method == "GET":
            return as_q_insight(asked)
        reached.set()
        over.wait(60)
        return as_q_insight(asked)

    server = serve(hang)
    prompt = graph(files(as_tensor(*photos)), "QInsightExplain", 5, model="remote")
    prompt["node"]["inputs"]["server"] = server.url
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(host.run(prompt)))
    thread.start()
    assert reached.wait(60)
    host.interrupt()
    thread.join(30)
    still_hanging = not over.is_set()
    over.set()
    assert [run.status for run in runs] == ["interrupted"]
    assert still_hanging
    # The next run goes as if nothing had been.
    assert host.run(gate_graph(files(as_tensor(photos[0])))).status == "success"


def test_progress_is_told_picture_by_picture(host: Host, files: Any, photos: list[Pixels]) -> None:
    if not isinstance(host, Harness):
        pytest.skip("it tells it over a websocket")
    host.progress.clear()
    host.run(gate_graph(files(as_tensor(*photos)), threshold=2.9))
    assert host.progress == [(1, 3), (2, 3), (3, 3)]


def test_cancelling_between_pictures(host: Host, files: Any, photos: list[Pixels]) -> None:
    if not isinstance(host, Harness):
        pytest.skip("a picture takes milliseconds there")

    class CancelAtTheFirst(list[tuple[int, int]]):
        def append(self, step: tuple[int, int]) -> None:
            super().append(step)
            host.interrupt()

    host.progress = CancelAtTheFirst()
    run = host.run(gate_graph(files(as_tensor(*photos)), threshold=2.8))
    assert run.status == "interrupted"
    assert host.progress == [(1, 3)]
    host.progress = []


# Bad input


def broken(photo: Pixels, value: float) -> Any:
    tensor = as_tensor(photo)
    tensor[0, 100, 200, 1] = value
    return tensor


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_a_broken_picture_never_passes_and_never_stops_the_others(
    host: Host, files: Any, photos: list[Pixels], value: float, mode: str
) -> None:
    tensors = files(as_tensor(photos[0]), broken(photos[1], value))
    run = host.run(gate_graph(tensors, threshold=1.0, unscorable=mode))
    assert out(run, 0) == [[1, 512, 512, 3]]
    assert out(run, 3) == [1]
    row = json.loads(out(run, 4)[0])[1]
    assert row["score"] is None
    assert not row["accepted"]
    assert "image 2 of 2 holds NaN or infinite values" in row["reasons"][0]
    assert "--fp32-vae" in row["reasons"][0]


def test_a_broken_picture_has_no_score(host: Host, files: Any, photos: list[Pixels]) -> None:
    tensors = files(as_tensor(photos[0]), broken(photos[1], np.nan))
    run = host.run(graph(tensors, "QInsightScore", 7))
    assert run.status == "error"
    assert "image 2 of 2 holds NaN" in str(run.error)
    best = host.run(graph(tensors, "QInsightPickBest", 4, count=2))
    assert out(best, 0) == [[1, 512, 512, 3]]
    assert out(best, 1) == [[1, 512, 512, 3]]


def test_an_empty_batch(host: Host, files: Any) -> None:
    empty = files(np.zeros((0, 64, 64, 3)))
    gate = host.run(gate_graph(empty))
    assert out(gate, 0) is None
    assert out(gate, 1) is None
    assert out(gate, 2) == [False]
    assert out(gate, 3) == [0]
    for node, more in (
        ("Score", {}),
        ("PickBest", {"count": 1}),
        ("Save", {"filename_prefix": "x"}),
    ):
        run = host.run(graph(empty, f"QInsight{node}", 0, **more))
        assert run.status == "error"
        assert "the batch of images is empty" in str(run.error)


def test_one_channel_is_gray(host: Host, files: Any, photos: list[Pixels]) -> None:
    gray = as_tensor(photos[0])[..., 1:2]
    run = host.run(graph(files(gray), "QInsightScore", 2))
    levels = np.clip(255.0 * gray[0, ..., 0], 0, 255).astype(np.uint8)
    assert out(run, 1) == [qi.score(levels).value]


def test_alpha_scores_as_its_file_does(host: Host, files: Any, photos: list[Pixels]) -> None:
    ramp = np.linspace(0, 1, 512, dtype=np.float32)
    alpha = np.broadcast_to(ramp[None, :, None, None], (1, 512, 512, 1))
    prompt = graph(files(np.concatenate([as_tensor(photos[0]), alpha], -1)), "QInsightScore", 2)
    inputs = {"images": link("node", 0), "filename_prefix": "alpha"}
    prompt["save"] = {"class_type": "SaveImage", "inputs": inputs}
    run = host.run(prompt)
    (entry,) = run.outputs["save"]["images"]
    assert out(run, 1) == [qi.score(saved(host, entry)).value]


def test_a_picture_with_alpha_is_called_by_its_number(
    host: Host, files: Any, photos: list[Pixels]
) -> None:
    clear = np.concatenate([as_tensor(photos[0]), np.zeros((1, 512, 512, 1))], -1)
    tensors = files(clear, clear[:, :16, :16])
    run = host.run(graph(tensors, "QInsightScore", 0))
    assert "image 2 of 2 is 16x16" in str(run.error)
    compared = host.run(compare_graph(files(clear), files(clear)))
    row = json.loads(out(compared, 3)[0])[0]
    assert [row[side]["source"] for side in "ab"] == ["A 1 of 1", "B 1 of 1"]
    assert row["a"]["notes"] == ["alpha over #ffffff"]


def test_what_is_no_picture_is_named(host: Host, files: Any) -> None:
    run = host.run(graph(files(np.zeros((1, 64, 64, 2))), "QInsightScore", 0))
    assert run.status == "error"
    assert "[1, 64, 64, 2], which is no batch of pictures" in str(run.error)


@pytest.mark.slow
def test_eight_thousand_pixels_a_side(host: Host, files: Any, photos: list[Pixels]) -> None:
    large = np.tile(as_tensor(photos[0]), (1, 9, 15, 1))[:, :4320, :7680]
    run = host.run(graph(files(large), "QInsightScore", 5))
    assert out(run, 4) == [[1, 4320, 7680, 3]]
    levels = np.clip(255.0 * large[0], 0, 255).astype(np.uint8)
    assert out(run, 1) == [qi.score(levels).value]


def test_models_of_ones_own(host: Host, files: Any, photos: list[Pixels]) -> None:
    tensors = files(as_tensor(photos[0]))
    assert out(host.run(graph(tensors, "QInsightScore", 2, model="mine.onnx")), 1) == mos(photos[0])
    junk = host.run(graph(tensors, "QInsightScore", 0, model="junk.onnx"))
    assert junk.status == "error"
    assert "is no ONNX model that onnxruntime can run" in str(junk.error)
    (host.base / "models" / "elsewhere.onnx").write_bytes(SHIPPED_WEIGHTS.read_bytes())
    outside = host.run(graph(tensors, "QInsightScore", 0, model="../elsewhere.onnx"))
    assert outside.status in ("refused", "error")
    assert "elsewhere" in str(outside.error)


def test_a_server_that_is_down_is_named(host: Host, files: Any, photos: list[Pixels]) -> None:
    tensors, url = files(as_tensor(photos[0])), closed_port()
    run = host.run(graph(tensors, "QInsightExplain", 0, model="remote", server=url))
    assert run.status == "error"
    assert url.partition("//")[2].partition("/")[0] in str(run.error)
    forgotten = host.run(gate_graph(tensors, model="remote"))
    assert forgotten.status == "error"
    assert "fill in server" in str(forgotten.error)


# The key


TRUSTED = "https://mine.example/v1"


@pytest.mark.parametrize(
    ("trusted", "server", "scorer"),
    [
        (TRUSTED, TRUSTED, f"remote:{TRUSTED}"),
        (TRUSTED, "https://Mine.example:443", "remote:https://Mine.example:443"),
        (TRUSTED, f" {TRUSTED}/?model=m ", f"remote:{TRUSTED}/?model=m"),
        (None, TRUSTED, f"remote:{TRUSTED}?key=no"),
        ("", TRUSTED, f"remote:{TRUSTED}?key=no"),
        ("https://[", TRUSTED, f"remote:{TRUSTED}?key=no"),
        (TRUSTED, "http://mine.example/v1", "remote:http://mine.example/v1?key=no"),
        (TRUSTED, "https://mine.example:8443", "remote:https://mine.example:8443?key=no"),
        (TRUSTED, "https://theirs.example?model=m", "remote:https://theirs.example?model=m&key=no"),
        (TRUSTED, "https://theirs.example/?", "remote:https://theirs.example/?key=no"),
        (TRUSTED, f"https://theirs.example/{TRUSTED}", None),
        (TRUSTED, "https://mine.example.theirs.example/v1", None),
        (TRUSTED, "https://mine.example@theirs.example/v1", None),
        (TRUSTED, "https://[", None),
    ],
)
def test_only_the_server_of_the_environment_variable_is_shown_the_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trusted: str | None,
    server: str,
    scorer: str | None,
) -> None:
    monkeypatch.delenv("QINSIGHT_API_SERVER", raising=False)
    if trusted is not None:
        monkeypatch.setenv("QINSIGHT_API_SERVER", trusted)
    host = Harness(tmp_path, PACKS)
    with host.imported():
        for name in ("scorer_of", "reasoner_of"):
            expected = f"remote:{server}?key=no" if scorer is None else scorer
            assert host.part("models", name)("remote", server) == expected


@pytest.mark.parametrize("ending", ["", "?model=m", "?key=yes", "?%6bey=yes", "?model=m&key=1"])
def test_a_workflow_from_elsewhere_gets_no_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Any,
    photos: list[Pixels],
    serve: Serve,
    ending: str,
) -> None:
    """Nor where the address is wrong, and another is tried."""
    theirs, mine = serve(lambda _: Reply({}, 404)), serve(as_q_insight)
    monkeypatch.setenv("QINSIGHT_API_KEY", "SECRET")
    monkeypatch.setenv("QINSIGHT_API_SERVER", mine.url)
    host, tensors = Harness(tmp_path, PACKS), files(as_tensor(photos[0]))
    for node in ("QInsightExplain", "QInsightScore"):
        url = theirs.url + ending
        run = host.run(graph(tensors, node, 0, model="remote", server=url))
        assert run.status == "error"
        assert host.run(graph(tensors, node, 0, model="remote", server=mine.url)).error is None
    assert not any("Authorization" in asked.headers for asked in theirs.asked)
    if "key" not in ending and "%" not in ending:
        assert {asked.path.rpartition("/v1")[0] for asked in theirs.asked} == {"", "/v1"}
    assert {asked.headers["Authorization"] for asked in mine.asked} == {"Bearer SECRET"}


def test_who_wants_a_key_and_is_shown_none_is_named_with_both_variables(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Any,
    photos: list[Pixels],
    serve: Serve,
) -> None:
    monkeypatch.setenv("QINSIGHT_API_KEY", "SECRET")
    monkeypatch.delenv("QINSIGHT_API_SERVER", raising=False)
    url = serve(lambda _: Reply({}, 401)).url
    prompt = graph(files(as_tensor(photos[0])), "QInsightScore", 0, model="remote", server=url)
    error = str(Harness(tmp_path, PACKS).run(prompt).error)
    assert "QINSIGHT_API_KEY" in error
    assert "QINSIGHT_API_SERVER" in error


# Installing


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest)
    )


@pytest.mark.parametrize(
    ("absent", "offered", "says"),
    [
        ("qinsight_plugin", set(), "the package qinsight-plugin is not installed"),
        ("onnxruntime", NODES, "onnxruntime is not installed"),
    ],
)
def test_without_the_package_one_line_of_the_log_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    absent: str,
    offered: set[str],
    says: str,
) -> None:
    missing(monkeypatch, absent)
    caplog.set_level(logging.INFO)
    host = Harness(tmp_path, PACKS)
    assert {name for name in host.nodes if name.startswith("QInsight")} == offered
    (line,) = [record.getMessage() for record in caplog.records]
    assert says in line
    assert "pip install 'qinsight-plugin[cpu]'" in line
    assert "\n" not in line
    assert "TestProbe" in host.nodes


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS or [pytest.param(Path(), marks=absent)])
def test_one_line_in_a_file_is_enough_beside_the_installed_package(
    path: Path, tmp_path: Path
) -> None:
    readme = (PACKS["qinsight"] / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text(block, "utf-8")
    host = RealComfyUI(path, tmp_path / "base", {"qinsight": tmp_path / "pack"})
    with contextlib.closing(host):
        assert host.get("/object_info").keys() >= NODES
        assert "/extensions/qinsight/qinsight.js" in host.get("/extensions")
        assert "IMPORT FAILED" not in host.log.read_text("utf-8")


HIDE = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        hidden = name.partition(".")[0] == "qinsight_plugin"
        return None if hidden else super().find_spec(name, *rest)

# Editable or not: neither a finder nor a folder leads to the package.
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(f) and f is not PathFinder]
sys.meta_path.append(Hiding)
"""


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS or [pytest.param(Path(), marks=absent)])
def test_the_real_one_starts_without_the_package(path: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HIDE, "utf-8")
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    host = RealComfyUI(path, tmp_path / "base", PACKS, environment=environment)
    with contextlib.closing(host):
        known = host.get("/object_info")
        assert not NODES & known.keys()
        assert {"SaveImage", "TestProbe"} <= known.keys()
        log = host.log.read_text("utf-8")
    assert log.count("the package qinsight-plugin is not installed") == 1
    assert "Traceback" not in log
    assert "IMPORT FAILED" not in log


def test_tensors_of_half_precision_are_read_as_save_image_reads_them(
    host: Host, photos: list[Pixels]
) -> None:
    if not isinstance(host, Harness):
        pytest.skip("NumPy files hold no bfloat16")
    tensor = torch.from_numpy(as_tensor(photos[0]))
    levels_of, pictures_of = (host.part("pictures", name) for name in ("levels_of", "pictures_of"))
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        frame = tensor.to(kind)
        read = frame.float().numpy() if kind == torch.bfloat16 else frame.numpy()
        expected = np.clip(255.0 * read[0], 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(levels_of(pictures_of([frame])[0]), expected)


def test_a_preview_is_the_mean_of_boxes(host: Host) -> None:
    if not isinstance(host, Harness):
        pytest.skip("done by the harness")
    pixels = np.random.default_rng(0).integers(0, 256, (613, 401, 3), np.uint8)
    shrunk = host.part("showing", "shrunk")
    expected = np.asarray(PILImage.fromarray(pixels).reduce(2))
    np.testing.assert_array_equal(shrunk(pixels), expected)
    large = np.repeat(np.repeat(pixels, 2, 0), 2, 1)  # of which every other row says all
    np.testing.assert_array_equal(shrunk(large), expected)


def test_the_wheel_finds_its_web_folder() -> None:
    from qinsight_plugin.integrations import comfyui

    assert Path(comfyui.WEB_DIRECTORY, "qinsight.js").is_file()


# What is shipped

PACK = PACKS["qinsight"]
EXAMPLES = sorted((PACK / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_workflow_fits_the_nodes(host: Host, path: Path) -> None:
    workflow = json.loads(path.read_text("utf-8"))
    if isinstance(host, RealComfyUI):
        known = host.get("/object_info")
        assert {node["type"] for node in workflow["nodes"]} <= known.keys()
        return
    ours = [node for node in workflow["nodes"] if node["type"] in NODES]
    assert ours
    for node in ours:
        with host.imported():
            schema = host.nodes[node["type"]].define_schema()
        names = [socket.id for socket in schema.inputs]
        assert {socket["name"] for socket in node["inputs"]} <= set(names)
        assert len(node["outputs"]) == len(schema.outputs)
        widgets = [socket for socket in schema.inputs if socket.kind != "IMAGE"]
        for socket, value in zip(widgets, node["widgets_values"], strict=True):
            assert value in socket.options.get("options", [value])


def test_there_are_three_examples_with_thumbnails() -> None:
    assert len(EXAMPLES) == 3
    for path in EXAMPLES:
        with PILImage.open(path.with_suffix(".jpg")) as thumbnail:
            assert max(thumbnail.size) == 640


def test_the_registry_is_told_the_truth() -> None:
    text = (PACK / "pyproject.toml").read_text("utf-8")
    told = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(text)
    assert told["project"]["version"] == qi.__version__
    needed = ["qinsight-plugin[cpu]>=0.1,<0.2"]  # whose modules it uses
    assert told["project"]["dependencies"] == needed
    assert (PACK / "requirements.txt").read_text("utf-8").split() == needed
    assert "comfyui" not in told["project"]["name"].lower()
    assert told["tool"]["comfy"]["requires-comfyui"] == ">=0.3.64"


def test_the_readme_names_every_node(tmp_path: Path) -> None:
    readme = (PACK / "README.md").read_text("utf-8")
    host = Harness(tmp_path, PACKS)
    with host.imported():
        names = {host.nodes[name].define_schema().display_name for name in NODES}
    assert set(re.findall(r"^\| (.+?) \|", readme, re.MULTILINE)) - {"node"} == names
