"""Makes the example workflows, their thumbnails and the README's screenshot in a real ComfyUI:
`QINSIGHT_COMFYUI=PATH python -m tests.comfy_pictures`. Needs Chromium and the package playwright.
"""

from __future__ import annotations

import io
import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from .comfy_host import PATHS, RealComfyUI
from .conftest import ROOT
from .pictures import faulty

PACK = ROOT / "integrations" / "comfyui"
EXAMPLES = PACK / "example_workflows"
SCREENSHOT = ROOT / ".github" / "pictures" / "comfyui.jpg"
CHROMIUM = "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
WIDTH, HEIGHT = 1600, 1000

PHOTOGRAPH = "example.png"
"""What a new ComfyUI has in its folder of inputs; here it is another picture."""

HELPERS = """() => {
  window.add = (type, x, y, width, height, values = {}) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    app.graph.add(node);
    node.setSize([width, height]);
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets.find((one) => one.name === name);
      widget.value = value;
      widget.callback?.(value);
    }
    return node;
  };
  window.wire = (from, output, to, input) => {
    const named = (slot, name) => [slot.name, slot.label, slot.localized_name].includes(name);
    from.connect(
      from.outputs.findIndex((slot) => named(slot, output)),
      to,
      to.inputs.findIndex((slot) => named(slot, input)),
    );
  };
}"""

FRAME = """() => {
  const [left, top] = [0, 1].map((k) => Math.min(...app.graph._nodes.map((n) => n.pos[k])));
  const [right, bottom] = [0, 1].map((k) =>
    Math.max(...app.graph._nodes.map((n) => n.pos[k] + n.size[k])));
  const scale = Math.min(1500 / (right - left), 850 / (bottom - top + 40), 1.15);
  Object.assign(app.canvas.ds, { scale });
  app.canvas.ds.offset = [-left + 75 / scale, -top + 140 / scale];
  app.canvas.setDirty(true, true);
  return [75, 140 - 35 * scale, (right - left) * scale, (bottom - top + 35) * scale];
}"""

WORKFLOWS = {
    "score_a_picture": """
  const load = add("LoadImage", 0, 0, 320, 360, { image: "example.png" });
  const score = add("QInsightScore", 380, 0, 420, 600);
  const map = add("PreviewImage", 860, 0, 300, 330);
  const report = add("PreviewAny", 860, 390, 300, 210);
  wire(load, "IMAGE", score, "images");
  wire(score, "quality_map", map, "images");
  wire(score, "report", report, "source");
""",
    "upscale_what_passes": """
  const load = add("LoadImage", 0, 0, 300, 340, { image: "example.png" });
  const gate = add("QInsightGate", 350, 0, 400, 600, { threshold: 3.2 });
  const upscale = add("ImageScaleBy", 800, 0, 290, 90, { scale_by: 2 });
  const save = add("SaveImage", 1140, 0, 290, 340, { filename_prefix: "passed" });
  const rejected = add("PreviewImage", 800, 400, 290, 200);
  wire(load, "IMAGE", gate, "images");
  wire(gate, "passed", upscale, "image");
  wire(upscale, "IMAGE", save, "images");
  wire(gate, "rejected", rejected, "images");
""",
    "keep_the_best_two_of_eight": """
  const model = add("CheckpointLoaderSimple", 0, 0, 300, 90);
  const wanted = add("CLIPTextEncode", 340, 0, 320, 110, { text: "a lighthouse at dusk" });
  const unwanted = add("CLIPTextEncode", 340, 160, 320, 110, { text: "watermark, text" });
  const empty = add("EmptyLatentImage", 0, 160, 300, 110, { batch_size: 8 });
  const sampler = add("KSampler", 700, 0, 270, 270);
  const decode = add("VAEDecode", 1010, 0, 180, 50);
  const best = add("QInsightPickBest", 1010, 160, 300, 260, { count: 2 });
  const save = add("QInsightSave", 1350, 0, 300, 190, { filename_prefix: "%score%_lighthouse" });
  const rest = add("PreviewImage", 1350, 260, 300, 160);
  wire(model, "MODEL", sampler, "model");
  wire(model, "CLIP", wanted, "clip");
  wire(model, "CLIP", unwanted, "clip");
  wire(model, "VAE", decode, "vae");
  wire(wanted, "CONDITIONING", sampler, "positive");
  wire(unwanted, "CONDITIONING", sampler, "negative");
  wire(empty, "LATENT", sampler, "latent_image");
  wire(sampler, "LATENT", decode, "samples");
  wire(decode, "IMAGE", best, "images");
  wire(best, "best", save, "images");
  wire(best, "rejected", rest, "images");
""",
}
WITHOUT_A_RUN = ("keep_the_best_two_of_eight",)  # it would take a checkpoint of gigabytes
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"


def make(browser: Any, host: RealComfyUI, name: str) -> tuple[dict[str, Any], Image.Image]:
    """A workflow as the frontend saves it, and what it looks like after a run."""
    page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}).new_page()
    page.goto(host.url)
    page.wait_for_function("() => window.app?.graph && LiteGraph.registered_node_types.LoadImage")
    page.wait_for_timeout(6000)
    page.keyboard.press("Escape")  # the templates, shown at the first start
    page.wait_for_timeout(1000)
    page.evaluate(HELPERS)
    page.evaluate("() => app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    page.evaluate(f"() => {{ app.graph.clear(); {WORKFLOWS[name]} }}")
    workflow = page.evaluate("() => app.graph.serialize()")
    if name not in WITHOUT_A_RUN:
        page.evaluate("() => app.queuePrompt(0)")
        page.wait_for_timeout(10000)
    left, top, width, height = page.evaluate(FRAME)
    page.wait_for_timeout(1500)
    edge = 12
    clip = {
        "x": left - edge,
        "y": top - edge,
        "width": width + 2 * edge,
        "height": height + 2 * edge,
    }
    return workflow, Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def tidy(workflow: dict[str, Any]) -> dict[str, Any]:
    """Without where the view was and what is empty, and with a checkpoint that ComfyUI's own
    examples name."""
    empty = {key for key, value in workflow.items() if value is None}
    for key in empty | {"extra", "id"}:
        workflow.pop(key, None)
    for node in workflow["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            node["widgets_values"] = [CHECKPOINT]
    return workflow


def main() -> None:
    playwright = import_module("playwright.sync_api")
    EXAMPLES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, playwright.sync_playwright() as started:
        base = Path(folder, "base")
        (base / "input").mkdir(parents=True)
        Image.fromarray(faulty()).save(base / "input" / PHOTOGRAPH)
        host = RealComfyUI(PATHS[0], base, {"qinsight": PACK})
        try:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            for name in WORKFLOWS:
                workflow, picture = make(browser, host, name)
                text = json.dumps(tidy(workflow), indent=1)
                (EXAMPLES / f"{name}.json").write_text(f"{text}\n", "utf-8")
                thumbnail = picture.copy()
                thumbnail.thumbnail((640, 640), Image.Resampling.LANCZOS)
                thumbnail.save(EXAMPLES / f"{name}.jpg", quality=85)
                if name == "score_a_picture":
                    picture.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
                    picture.save(SCREENSHOT, quality=85)
        finally:
            host.close()


if __name__ == "__main__":
    main()
