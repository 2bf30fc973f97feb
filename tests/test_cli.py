"""The command line, as processes: what it prints, where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image as PILImage

from qinsight_plugin.cli.inputs import expand
from qinsight_plugin.cli.main import cli
from qinsight_plugin.errors import ImageUnreadableError

from .conftest import Pixels, Run

HEAVY = ("numpy", "PIL", "torch", "onnxruntime", "scipy", "matplotlib", "cv2")


@pytest.fixture
def folder(tmp_path: Path, astronaut: Pixels) -> Path:
    """One good picture, one blurred one in a sub-folder, one that is broken, one text file."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    good = PILImage.fromarray(astronaut)
    good.save(root / "good.jpg", quality=95)
    good.reduce(12).resize((512, 512)).save(root / "sub" / "blurred.png")
    (root / "broken.jpg").write_bytes((root / "good.jpg").read_bytes()[:2000])
    (root / "notes.txt").write_text("not looked at")
    return root


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from qinsight_plugin.cli.main import main\n"
        f"sys.argv = ['qinsight', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("name", ["score", "gate", "compare", "eval", "fit", "bench", "plugins"])
def test_every_command_explains_itself(qinsight: Run, name: str) -> None:
    done = qinsight(name, "--help")
    assert done.returncode == 0
    assert f"Usage: qinsight {name}" in done.stdout.replace("python -m qinsight_plugin", "qinsight")
    assert name in qinsight("--help").stdout


def test_a_folder_is_scored_and_the_bad_file_is_a_row(qinsight: Run, folder: Path) -> None:
    done = qinsight("score", folder, "--json")
    rows = {Path(row["source"]).name: row for row in json.loads(done.stdout)}
    assert list(rows) == ["broken.jpg", "good.jpg", "blurred.png"]
    assert done.returncode == 3
    assert done.stderr == ""
    assert rows["broken.jpg"]["score"] is None
    assert rows["broken.jpg"]["error_type"] == "ImageDecodeError"
    assert 1 <= rows["blurred.png"]["score"] < rows["good.jpg"]["score"] <= 5
    assert rows["good.jpg"]["error"] is None


def test_all_formats_hold_the_same_numbers(qinsight: Run, folder: Path) -> None:
    as_list = json.loads(qinsight("score", folder, "--json").stdout)
    lines = qinsight("score", folder, "--jsonl").stdout.splitlines()
    table = qinsight("score", folder).stdout
    cells = list(csv.DictReader(io.StringIO(qinsight("score", folder, "--csv").stdout)))
    assert [json.loads(line) for line in lines] == as_list
    assert [float(c["score"]) if c["score"] else None for c in cells] == [
        row["score"] for row in as_list
    ]
    for row in as_list:
        assert row["score"] is None or f"{row['score']:.2f}" in table


def test_standard_input_is_one_picture(qinsight: Run, folder: Path) -> None:
    good = folder / "good.jpg"
    (piped,) = json.loads(qinsight("score", "-", "--json", stdin=good.read_bytes()).stdout)
    (named,) = json.loads(qinsight("score", good, "--json").stdout)
    assert piped["score"] == named["score"]
    assert piped["source"] == "<stdin>"
    (junk,) = json.loads(qinsight("score", "-", "--json", stdin=b"junk").stdout)
    assert (junk["source"], junk["score"]) == ("<stdin>", None)
    assert junk["error"].startswith("<stdin> is not a picture")


def test_the_order_of_rows_is_the_order_asked_for(qinsight: Run, folder: Path) -> None:
    paths = [folder / "good.jpg", folder / "none.jpg", folder / "sub" / "blurred.png"] * 3
    rows = json.loads(qinsight("score", *paths, "--json", "--workers", "4").stdout)
    assert [row["source"] for row in rows] == [str(path) for path in paths]


@pytest.mark.parametrize(
    ("name", "content", "error_type"),
    [
        ("none.jpg", None, "ImageNotFoundError"),
        ("empty.jpg", b"", "ImageDecodeError"),
        ("page.jpg", b"<!doctype html><html></html>", "ImageDecodeError"),
        ("tiny.ppm", b"P6 1 1 255 abc", "ImageTooSmallError"),
    ],
)
def test_junk_is_a_row_with_one_line(
    qinsight: Run, tmp_path: Path, name: str, content: bytes | None, error_type: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = qinsight("score", path, "--json")
    (row,) = json.loads(done.stdout)
    assert (done.returncode, row["error_type"], row["score"]) == (3, error_type, None)
    assert "\n" not in row["error"]
    assert name in row["error"]


def test_a_folder_without_pictures_is_said_to_have_none(qinsight: Run, tmp_path: Path) -> None:
    done = qinsight("score", tmp_path, "--json")
    (row,) = json.loads(done.stdout)
    assert done.returncode == 3
    assert row["error"].startswith(f"no pictures in {tmp_path}; looked for names that end in")


def test_a_folder_that_cannot_be_listed_is_named(own: Path) -> None:
    (own / "a.png").touch()
    (own / "secret").mkdir(mode=0)
    found = expand([str(own)])
    assert [item.path for item in found] == [str(own / "a.png"), str(own / "secret")]
    assert isinstance(found[1].error, ImageUnreadableError)
    assert "secret: Permission denied; check its permissions" in str(found[1].error)


def test_wrong_usage_has_its_own_exit_code(qinsight: Run, photo: Path) -> None:
    assert qinsight("score").returncode == 2
    assert qinsight("nonsense").returncode == 2
    assert qinsight("gate", photo).returncode == 2
    unknown = qinsight("score", photo, "--scorer", "nobody")
    assert unknown.returncode == 3
    assert unknown.stderr.startswith("Error: no scorer is named 'nobody'")


def test_the_gate_accepts_rejects_and_says_why(qinsight: Run, folder: Path) -> None:
    done = qinsight("gate", folder, "--min-score", "2.5", "--json")
    rows = {Path(row["source"]).name: row for row in json.loads(done.stdout)}
    assert done.returncode == 1
    assert rows["good.jpg"]["accepted"] is True
    assert rows["good.jpg"]["reasons"] == []
    assert "is below the minimum of 2.5" in rows["blurred.png"]["reasons"][0]
    assert rows["broken.jpg"]["reasons"][0].startswith("cannot be scored: ")
    assert qinsight("gate", folder / "good.jpg", "--min-score", "2.5").returncode == 0


def test_the_gate_sorts_files_and_loses_none(qinsight: Run, folder: Path) -> None:
    contents = {path.read_bytes() for path in folder.rglob("*.*")}
    rejected, accepted = folder / "rejected", folder / "accepted"
    flags = ("--min-score", "2.5", "--move-rejected", rejected, "--copy-accepted", accepted)
    rows = json.loads(qinsight("gate", folder, *flags, "--json").stdout)
    moved = {Path(r["source"]).name: r["blocks"].get("sorting") for r in rows}
    assert moved["good.jpg"] == {"copied_to": str(accepted / "good.jpg")}
    assert moved["blurred.png"] == {"moved_to": str(rejected / "sub" / "blurred.png")}
    assert {path.read_bytes() for path in folder.rglob("*.*")} == contents
    again = json.loads(qinsight("gate", folder, *flags, "--json").stdout)
    assert [Path(row["source"]).name for row in again] == ["good.jpg"]


def test_a_file_that_cannot_be_moved_is_named_and_the_others_are(own: Path) -> None:
    """In this process, since only here root can give up its power over permissions."""
    PILImage.new("RGB", (64, 64)).save(own / "stuck.png")
    PILImage.new("RGB", (64, 64)).save(own / "free.png")
    (own / "locked").mkdir()
    (own / "stuck.png").rename(own / "locked" / "stuck.png")
    (own / "locked").chmod(0o555)
    arguments = [str(own), "--min-score", "5", "--move-rejected", str(own / "out"), "--json"]
    done = CliRunner().invoke(cli, ["gate", *arguments], standalone_mode=False)
    (own / "locked").chmod(0o755)
    assert done.return_value == 3
    assert "Not sorted: cannot move" in done.stderr
    assert (own / "locked" / "stuck.png").exists()
    assert [row["accepted"] for row in json.loads(done.stdout)] == [False, False]
    assert (own / "out" / "free.png").exists()


def test_a_policy_file_rules_and_a_wrong_key_is_an_error(
    qinsight: Run, folder: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('min_width = 600\nunscorable = "accept"\n')
    rows = json.loads(qinsight("gate", folder, "--policy", policy, "--json").stdout)
    accepted = {Path(row["source"]).name: row["accepted"] for row in rows}
    assert accepted == {"broken.jpg": True, "good.jpg": False, "blurred.png": False}
    policy.write_text("min_scores = 3\n")
    done = qinsight("gate", folder, "--policy", policy)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "unknown key 'min_scores'; did you mean 'min_score'?" in done.stderr


def test_a_drop_against_a_reference_is_judged(qinsight: Run, folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("max_drop = 0.5\n")
    reference = ("--reference", folder / "good.jpg", "--policy", policy, "--json")
    (row,) = json.loads(qinsight("gate", folder / "sub" / "blurred.png", *reference).stdout)
    assert "below the reference's" in row["reasons"][0]
    assert row["reference_score"] > row["score"]
    missing = qinsight("score", folder, "--reference", folder / "none.png")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "none.png does not exist" in missing.stderr


def test_compare_names_the_better_one(qinsight: Run, folder: Path) -> None:
    good, blurred = folder / "good.jpg", folder / "sub" / "blurred.png"
    assert qinsight("compare", good, blurred).stdout.startswith("A is better: A ")
    assert json.loads(qinsight("compare", blurred, good, "--json").stdout)["better"] == "B"
    assert json.loads(qinsight("compare", good, good, "--json").stdout)["better"] == "similar"
    missing = qinsight("compare", good, folder / "none.jpg")
    assert missing.returncode == 3
    assert missing.stderr.count("\n") == 1


def test_bench_prints_a_row_a_size(qinsight: Run) -> None:
    done = qinsight("bench", "--seconds", "0.1", "--json")
    assert [row["megapixels"] for row in json.loads(done.stdout)] == [0.3072, 0.995328, 12.0]
    assert all(row["total_ms"] > 0 and row["n"] >= 3 for row in json.loads(done.stdout))


def test_a_reader_that_leaves_early_is_no_failure(folder: Path) -> None:
    command = f"{sys.executable} -m qinsight_plugin score {folder} {folder} --jsonl | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert json.loads(done.stdout)["source"]


def read_to_end(terminal: int) -> str:
    """All that was written to a terminal whose other side is closed; it may come in pieces."""
    pieces = []
    with suppress(OSError):  # how Linux says that nobody is there any more
        while piece := os.read(terminal, 100_000):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_a_terminal_sees_a_progress_bar_and_a_file_none(folder: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with (tmp_path / "rows.jsonl").open("wb") as rows:
        subprocess.run(
            [sys.executable, "-m", "qinsight_plugin", "score", folder, "--jsonl"],
            stdout=rows,
            stderr=theirs,
            check=False,
        )
    os.close(theirs)
    seen = read_to_end(ours)
    assert "Scoring" in seen
    assert "100%" in seen
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3
