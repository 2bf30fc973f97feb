"""The house rules: layers, public names, the documented plugin surface, the READMEs' commands."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qinsight_plugin
from qinsight_plugin import hookspecs
from qinsight_plugin.reasoning.asking import Asking
from qinsight_plugin.reasoning.loading import Loading
from qinsight_plugin.scorers.local import Batching
from qinsight_plugin.scorers.remote import Serving

from .conftest import ROOT, Run
from .pictures import captions, fault

PACKAGE = ROOT / "qinsight_plugin"
README = (ROOT / "README.md").read_text("utf-8")
# The README and the pages that lie beside the code; those of the integrations have their own tests.
PAGES = [ROOT / "README.md", *sorted(PACKAGE.glob("**/README.md"))]
LINKED = [*PAGES, *sorted(ROOT.glob("integrations/**/README.md"))]
LINKED += sorted(PACKAGE.glob("student/weights/*.md"))

LAYERS = (
    {"errors"},
    {"_imports", "records", "srgb", "suffixes", "toml"},
    {"attempts"},
    {
        "batcher",
        "hookspecs",
        "parallel",
        "pixels",
        "tables",
        "explain",
        "degradations",
        "answers",
        "usable",
    },
    {"scales"},
    {"containers", "gate", "report", "overlay", "sorting", "labels", "search", "fidelity"},
    {"decode", "evaluate", "pairs", "decisions", "teacher_labels"},
    {"calibrate", "scatter", "evaluate_distortions", "reasoning"},
    {"calibrate_plot", "scorers", "testing", "encoders", "grpo"},
    {"builtin"},
    {"plugins"},
    {"pipeline", "student"},
    {"comparing"},
    {"batch", "bench", "compression", "examine", "feedback", "serving", "teacher"},
    {"__init__", "tune"},
    {"video"},
    {"watch"},
    {"integrations"},
    {"cli"},
    {"__main__"},
)
"""Each module imports from layers above its own in this list only, or from its own folder."""

RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(PACKAGE.rglob("*.py"))


def home(path: Path) -> str:
    """The module or folder directly under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules and folders of the package that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "qinsight_plugin":
            names |= {f"qinsight_plugin.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    inside = {name.split(".")[1] for name in names if name.startswith("qinsight_plugin.")}
    return {"__init__" if name.startswith("__") else name for name in inside}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_layers_under_it(path: Path) -> None:
    own = home(path)
    upward = {name for name in imported(path) - {own} if RANK[name] >= RANK[own]}
    # __version__ lives in __init__, which imports nothing else when it is loaded.
    assert upward - {"__init__"} == set()


PUBLIC = {
    "__init__",
    "batch",
    "decode",
    "errors",
    "explain",
    "gate",
    "overlay",
    "records",
    "report",
    "serving",
}
"""What integrations, and plugins, may build on."""


def test_integrations_import_the_public_api_only() -> None:
    for path in (ROOT / "integrations").rglob("*.py"):
        assert imported(path) - {"integrations"} <= PUBLIC, path


def test_the_public_names_are_these_and_all_load() -> None:
    classes, functions = ["Gate", "Report", "Verdict"], ["judge", "score", "score_many"]
    expected = [*classes, "compare", "compress", "hookimpl", *functions]
    assert qinsight_plugin.__all__ == expected
    assert all(getattr(qinsight_plugin, name) for name in expected)
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        _ = qinsight_plugin.scores


def hook_table() -> str:
    """The README's table of hooks, made from the specifications."""
    rows = ["| hook | kind | for |", "|---|---|---|"]
    for name, hook in vars(hookspecs).items():
        if name.startswith("qinsight_"):
            kind, _, purpose = inspect.cleandoc(hook.__doc__ or "").partition(": ")
            arguments = ", ".join(inspect.signature(hook).parameters)
            rows.append(f"| `{name}({arguments})` | {kind} | {' '.join(purpose.split())} |")
    return "\n".join(rows)


def test_the_readme_lists_every_hook_with_its_arguments() -> None:
    assert hook_table() in README


def test_every_hook_has_a_caller_and_a_user() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in MODULES if path.name != "hookspecs.py")
    plugin = (ROOT / "tests" / "plugin_package" / "qinsight_sample.py").read_text("utf-8")
    for name in vars(hookspecs):
        if name.startswith("qinsight_"):
            assert f'"{name}"' in sources, f"nobody calls {name}"
            assert f"def {name}(" in plugin, f"nobody uses {name}"


def code_blocks(language: str) -> list[str]:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_readme_shows_true_output(qinsight: Run) -> None:
    """Every `$ qinsight ...` in a console block prints what follows it."""
    sessions = "".join(code_blocks("console"))
    commands = re.findall(r"^\$ qinsight (.*)\n((?:(?!\$ ).*\n)*)", sessions, re.MULTILINE)
    assert commands
    for arguments, output in commands:
        done = qinsight(*arguments.split(), cwd=ROOT, env={"COLUMNS": "80"})
        assert (done.stdout + done.stderr).rstrip() == output.rstrip(), arguments


def test_the_readme_python_runs() -> None:
    for block in code_blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_scores_in_the_readme_picture_are_the_scores() -> None:
    (shown,) = re.findall(r"!\[(.*)\]\(\.github/pictures/scores\.jpg\)", README)
    assert shown == ", ".join(captions())
    (said,) = re.findall(r"!\[(.*)\]\(\.github/pictures/fault\.jpg\)", README)
    assert said == fault()


def prose(path: Path) -> str:
    """Without blocks of code, in which brackets and hashes mean something else."""
    return re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    for link in links:
        if not link.startswith(("https://", "http://")):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.is_relative_to(ROOT), link
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_page_and_picture_is_linked() -> None:
    found = {
        (path.parent / name).resolve()
        for path in LINKED
        for name in re.findall(r"\]\(([^)#\s]+)", prose(path))
    }
    pictures = {*(ROOT / ".github" / "pictures").iterdir()}
    assert {*PAGES[1:], *pictures} <= found | {ROOT / ".github" / "pictures" / "astronaut.jpg"}


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """What its own extraction finds in the README is the block after the marker."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    (extraction,) = re.findall(r"^tests=\$\((.*)\)$", script, re.MULTILINE)
    found = subprocess.run(
        ["bash", "-c", extraction], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (block,) = re.findall(r"<!-- test command -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found == block
    assert ".venv/bin/python -m pytest" in found


def test_nothing_is_left_out_of_the_wheel() -> None:
    """setuptools gets an explicit list of packages, since `integrations` is mapped."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    folders = {
        path.parent.relative_to(ROOT) for path in ROOT.glob("qinsight_plugin/**/__init__.py")
    }
    folders |= {
        "qinsight_plugin" / path.parent.relative_to(ROOT)
        for path in ROOT.glob("integrations/**/__init__.py")
    }
    for folder in folders:
        assert f'"{".".join(folder.parts)}"' in text, folder


def test_the_readme_names_every_setting_of_the_reasoning_model_and_no_other() -> None:
    page = (PACKAGE / "reasoning" / "README.md").read_text("utf-8")
    rows = [row for row in page.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    kinds = (Asking, Loading, Batching, Serving)
    assert named == {field.name for kind in kinds for field in dataclasses.fields(kind)}
