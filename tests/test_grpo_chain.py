"""After GRPO: its page's commands from a trained model to a gate, as its user gives them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image as PILImage

from .conftest import ROOT, run_command
from .grpo_toy import write_scores

CONFIG = """
model = {model}
output = "runs/own"
[[data]]
task = "score"
labels = "data/scores.csv"
scale = [1, 5]
[rewards]
format = 1
continuous = 1
[train]
epochs = 0.5
generations = 4
batch = 8
per_device = 8
max_tokens = 40
learning_rate = 1e-4
[lora]
rank = 4
"""


PAGE = (ROOT / "qinsight_plugin" / "grpo" / "README.md").read_text("utf-8")


def chain() -> list[list[str]]:
    """The arguments of the commands in the page's block after GRPO."""
    (block,) = re.findall(r"<!-- after grpo -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [
        ["qinsight", "distill"],
        ["qinsight", "export"],
        ["qinsight", "gate"],
    ]
    return [line[1:] for line in lines]


@pytest.mark.slow
def test_train_label_distil_export_gate(tmp_path: Path, reasoner: Path) -> None:
    photo = skimage.data.astronaut()
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "uploads").mkdir()
    for k in range(40):
        y, x = rng.integers(0, 352, 2)
        part = photo[y : y + 160, x : x + 160] * (0.15 + 0.85 * k / 39)
        PILImage.fromarray(part.astype(np.uint8)).save(tmp_path / "pictures" / f"{k}.png")
    PILImage.fromarray(photo).save(tmp_path / "uploads" / "astronaut.png")
    write_scores(tmp_path / "data", 18, 6)
    (tmp_path / "own.toml").write_text(CONFIG.format(model=repr(str(reasoner))))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"}, timeout=1200)

    done = run("train", "grpo", "own.toml")
    assert done.returncode == 0, done.stderr
    distill, export, gate = chain()
    # What is said with fewer tokens and samples is enough here.
    teacher = distill.index("reasoning:runs/own/model")
    distill[teacher] += "?max_tokens=48"
    distill[distill.index("--samples") + 1] = "2"
    done = run(*distill, "--epochs", "0.5")
    assert done.returncode == 0, done.stderr
    assert "asked about 40 of 40 pictures" in done.stdout
    done = run(*export)
    assert done.returncode == 0, done.stderr
    done = run(*gate, "--jsonl")
    assert done.returncode in (0, 1), done.stderr
    assert '"score"' in done.stdout


def test_the_readme_launches_what_accelerate_knows() -> None:
    """Every flag of the launch lines; what they launch needs GPUs."""
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.partition("## Train the reasoning model")[2].partition("\n## ")[0]
    assert "`accelerate launch" in section
    lines = re.findall(r"`(?:accelerate|--use).*?`", section + PAGE)
    flags = set(re.findall(r"(--\w+)", "".join(lines)))
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--help"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(flags) >= 7
    assert {flag for flag in flags if flag not in done.stdout} == set()
