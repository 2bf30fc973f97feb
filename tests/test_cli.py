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

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from scipy.stats import norm

from qinsight_plugin.cli.inputs import Input, expand
from qinsight_plugin.cli.main import cli, main
from qinsight_plugin.cli.score_command import add_map
from qinsight_plugin.comparing import preference
from qinsight_plugin.errors import ConfigError, ImageUnreadableError, MissingExtraError
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.records import Report, Score

from .conftest import ROOT, Pixels, Run

HEAVY = ("numpy", "PIL", "torch", "onnxruntime", "scipy", "matplotlib", "cv2")

TELLING = """
import numpy as np
from qinsight_plugin import hookimpl
from qinsight_plugin.records import Distortion, Score, ScorerSpec


class Telling:
    \"""Takes light for quality, 0 for 1 and 255 for 5; tells of all that a scorer may.\"""

    def __init__(self, spec):
        self.spec = spec

    def score(self, images, references=None):
        return [self.one(image.pixels) for image in images]

    def one(self, pixels):
        light = 1 + pixels.mean(2, dtype=np.float64) / 63.75
        if not self.spec.higher_is_better:
            light = 6 - light
        cells = light.reshape(4, light.shape[0] // 4, 4, -1).mean((1, 3)).astype(np.float32)
        value = float(light.mean())
        below = min(int(value), 4)
        levels = [0.0] * 5
        levels[below - 1], levels[below] = below + 1 - value, value - below
        found = (Distortion("darken", "obvious"),) if value < 3 else ()
        return Score(value, found, 0.3, tuple(levels), cells)


class Terse:
    spec = ScorerSpec("terse", None, "3")

    def score(self, images, references=None):
        return [Score(3.0) for _ in images]


@hookimpl
def qinsight_register_scorers(register):
    spec = ScorerSpec("telling", lambda _: Telling(spec), "light")
    down = ScorerSpec("down", lambda _: Telling(down), "dark", higher_is_better=False)
    register(spec)
    register(down)
    register(ScorerSpec("terse", lambda _: Terse(), "3"))
"""


@pytest.fixture
def telling(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with a plugin whose scorers state all that a `Score` can hold."""
    site = tmp_path / "site"
    (site / "telling-1.dist-info").mkdir(parents=True)
    (site / "telling.py").write_text(TELLING)
    (site / "telling-1.dist-info" / "METADATA").write_text("Name: telling\nVersion: 1\n")
    (site / "telling-1.dist-info" / "entry_points.txt").write_text("[qinsight]\ntell = telling\n")
    return {"PYTHONPATH": str(site), "COLUMNS": "80"}


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Three pictures: dark on the left, and in a sub-folder all dark and all light."""
    root = tmp_path / "halves"
    (root / "sub").mkdir(parents=True)
    half = np.full((64, 64, 3), 153, np.uint8)  # 3.4
    half[:, :24] = 51  # 1.8
    PILImage.fromarray(half).save(root / "half.png")
    PILImage.new("RGB", (64, 64), (51, 51, 51)).save(root / "sub" / "dark.png")
    PILImage.new("RGB", (64, 64), (255, 255, 255)).save(root / "sub" / "light.png")
    return root


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


def test_a_path_that_cannot_be_looked_at_is_a_row_and_the_others_are_scored(own: Path) -> None:
    (own / "secret").mkdir(mode=0)
    names = [str(own / "secret" / "a.png"), str(own / ("x" * 300)), str(own / "b.png")]
    assert [item.path for item in expand(names)] == names


def test_a_pipe_in_a_folder_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (item,) = expand([str(tmp_path)])
    assert isinstance(item.error, ImageUnreadableError)
    assert "pipe.jpg is a pipe" in str(item.error)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("gate good.jpg --min-score 1 >&-", 0),
        ("gate good.jpg --min-score 5 2>&-", 1),
        ("gate good.jpg --min-score 1 <&- >&- 2>&-", 0),
        ("score - <&-", 3),
    ],
)
def test_streams_that_are_closed_change_no_exit_code(folder: Path, command: str, code: int) -> None:
    done = subprocess.run(
        f"{sys.executable} -m qinsight_plugin {command}",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")


def test_a_mistake_of_ours_does_not_exit_like_a_rejection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mistaken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("qinsight_plugin.cli.gate_command.make_gate", mistaken)
    monkeypatch.setattr(sys, "argv", ["qinsight", "gate", "x.jpg", "--min-score", "3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert "RuntimeError: a mistake" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 5, "no licence"])
def test_a_plugin_command_that_ends_by_itself_keeps_its_code(
    monkeypatch: pytest.MonkeyPatch, code: int | str
) -> None:
    monkeypatch.setattr("qinsight_plugin.cli.gate_command.make_gate", lambda *_: sys.exit(code))
    monkeypatch.setattr(sys, "argv", ["qinsight", "gate", "x.jpg", "--min-score", "3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code


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


def test_a_scorer_that_tells_more_is_heard_in_every_format(
    qinsight: Run, halves: Path, telling: dict[str, str]
) -> None:
    asked = ("score", halves, "--scorer", "telling")
    table = qinsight(*asked, env=telling).stdout.splitlines()
    assert [line[42:] for line in table] == [
        "  score     ±  what is wrong",
        "   2.80  0.30  obvious darkening, worst on the left",
        "   1.80  0.30  obvious darkening, everywhere",
        "   5.00  0.30",
    ]
    explanations = [
        "2.8 ± 0.3: obvious darkening, worst on the left",
        "1.8 ± 0.3: obvious darkening, everywhere",
        "5.0 ± 0.3: nothing wrong found",
    ]
    rows = json.loads(qinsight(*asked, "--json", env=telling).stdout)
    assert [row["explanation"] for row in rows] == explanations
    assert rows[1]["uncertainty"] == 0.3
    assert rows[1]["levels"] == pytest.approx([0.2, 0.8, 0, 0, 0])
    cells = csv.DictReader(io.StringIO(qinsight(*asked, "--csv", env=telling).stdout))
    assert [cell["explanation"] for cell in cells] == explanations


def test_maps_are_drawn_and_none_is_overwritten(
    qinsight: Run, halves: Path, telling: dict[str, str]
) -> None:
    maps = halves / "maps"
    asked = ("score", halves, "--scorer", "telling", "--maps", maps, "--json")
    rows = json.loads(qinsight(*asked, env=telling).stdout)
    names = ["half.map.png", "sub/dark.map.png", "sub/light.map.png"]
    assert [row["blocks"]["map"]["written_to"] for row in rows] == [str(maps / n) for n in names]
    light, dark = (np.asarray(PILImage.open(maps / name))[:64] for name in names[:0:-1])
    assert (light == 255).all()
    assert (dark != 51).any(2).all()
    half = np.asarray(PILImage.open(maps / names[0]))[:64].astype(int)
    change = np.abs(half - np.asarray(PILImage.open(halves / "half.png"))).mean((0, 2))
    assert change[:20].min() > change[40:].max()

    before = {path: path.read_bytes() for path in maps.rglob("*.png")}
    again = json.loads(qinsight(*asked, env=telling).stdout)
    assert [row["source"] for row in again] == [row["source"] for row in rows]
    assert again[0]["blocks"]["map"]["written_to"] == str(maps / "half.map-1.png")
    assert before.items() <= {path: path.read_bytes() for path in maps.rglob("*.png")}.items()


def test_a_map_of_a_scale_that_runs_down_is_the_same_map(
    qinsight: Run, halves: Path, telling: dict[str, str]
) -> None:
    drawn = []
    for scorer in ("telling", "down"):
        maps = halves.parent / scorer
        done = qinsight(
            "score", halves / "half.png", "--scorer", scorer, "--maps", maps, env=telling
        )
        assert done.returncode == 0, done.stderr
        drawn.append(np.asarray(PILImage.open(maps / "half.map.png"))[:64].astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 2


def test_a_picture_that_cannot_be_scored_gets_a_row_and_no_map(
    qinsight: Run, halves: Path, telling: dict[str, str]
) -> None:
    (halves / "broken.png").write_bytes((halves / "half.png").read_bytes()[:60])
    maps = halves.parent / "maps"
    done = qinsight("score", halves, "--scorer", "telling", "--maps", maps, "--json", env=telling)
    rows = {Path(row["source"]).name: row for row in json.loads(done.stdout)}
    assert done.returncode == 3
    assert rows["broken.png"]["error_type"] == "ImageDecodeError"
    assert len(list(maps.rglob("*.png"))) == 3


def test_a_picture_that_vanished_before_its_map_is_a_row_with_its_error(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.png")
    score = Score(3.0, quality_map=np.ones((3, 3), np.float32))
    report = add_map(
        Pipeline("student"), Input(gone), Report(gone, "student", score), tmp_path / "maps"
    )
    assert (report.score, report.error_type) == (None, "ImageNotFoundError")
    assert not (tmp_path / "maps").exists()


def test_maps_that_cannot_be_had_are_an_error_in_one_line(
    qinsight: Run, photo: Path, telling: dict[str, str]
) -> None:
    maps = photo.parent / "maps"
    silent = qinsight("score", photo, "--scorer", "terse", "--maps", maps, env=telling)
    assert silent.returncode == 3
    assert silent.stderr == (
        f"Error: scorer terse gave no quality map for {photo}; choose another scorer or "
        "leave out --maps\n"
    )
    assert not maps.exists()
    piped = qinsight("score", "-", "--maps", maps, stdin=b"")
    assert piped.returncode == 2
    assert "Standard input cannot be read a second time" in piped.stderr


@pytest.mark.parametrize("scorer", ["telling", "down"])
def test_compare_says_how_sure_it_is(
    qinsight: Run, halves: Path, telling: dict[str, str], scorer: str
) -> None:
    half, dark, light = (halves / n for n in ("half.png", "sub/dark.png", "sub/light.png"))
    scores = {"telling": ("2.80", "1.80", "5.00"), "down": ("3.20", "4.20", "1.00")}[scorer]

    def said(a: Path, b: Path, *more: str) -> str:
        return qinsight("compare", a, b, "--scorer", scorer, *more, env=telling).stdout

    # 1.0 MOS apart, each with a deviation of 0.3: norm.cdf(1 / 0.424) is 0.991.
    assert said(half, dark) == f"A is better: A {scores[0]}, B {scores[1]} (99 % sure)\n"
    assert said(dark, half) == f"B is better: A {scores[1]}, B {scores[0]} (99 % sure)\n"
    assert said(dark, light) == f"B is better: A {scores[1]}, B {scores[2]} (over 99 % sure)\n"
    assert said(half, dark, "--margin", "2").startswith("similar: ")
    row = json.loads(said(dark, half, "--json"))
    assert row["probability"] == pytest.approx(norm.cdf(-1 / np.hypot(0.3, 0.3)), rel=1e-5)


@given(st.floats(-4, 4), st.floats(0.01, 2), st.floats(0, 2))
def test_a_preference_follows_thurstones_law(lead: float, own: float, other: float) -> None:
    probability = preference(lead, Score(3, None, own), Score(3, None, other))
    assert probability == pytest.approx(norm.cdf(lead / np.hypot(own, other)), rel=1e-9)
    opposite = preference(-lead, Score(3, None, other), Score(3, None, own))
    assert opposite is not None
    assert probability == pytest.approx(1 - opposite, abs=1e-12)


def test_a_preference_is_certain_without_error_and_unknown_without_knowledge() -> None:
    exact, unknown = Score(3.0, uncertainty=0.0), Score(3.0)
    assert [preference(lead, exact, exact) for lead in (0.5, 0.0, -0.5)] == [1.0, 0.5, 0.0]
    assert preference(1.0, exact, unknown) is None
    assert preference(1.0, unknown, exact) is None
    assert preference(1.0, Score(3.0, uncertainty=1e-320), exact) == 1.0


def test_a_reader_that_leaves_early_is_no_failure(folder: Path) -> None:
    gate = f"{sys.executable} -m qinsight_plugin gate {folder} {folder} --min-score 1 --jsonl"
    command = f"{gate} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    row, code = done.stdout.splitlines()
    assert done.stderr == ""
    assert json.loads(row)["source"]
    assert code == "3", "not all were judged; 1 would be a rejection"


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


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("video", ("ladder", "nothing.mp4")),
        ("watch", ("watch", "nothing.mp4")),
        ("eval", ("eval-compress", "nothing", "--floors", "wrong")),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_known_before_any_work(
    extra: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(cli, [*command, "--plot", "plot.png"])
    assert isinstance(done.exception, MissingExtraError), done.output
    assert (done.exception.name, done.exception.extra) == ("matplotlib", extra)


@pytest.mark.parametrize(
    "command",
    [
        ("ladder", "nothing.mp4", "--plot"),
        ("watch", "nothing.mp4", "--plot"),
        ("eval-compress", "nothing", "--plot"),
        ("eval", "nothing.csv", "--plot"),
        ("calibrate", "--accepted", ".", "--plot"),
        ("fit", "nothing.csv", "--out"),
        ("distill", "nothing", "--teacher", "nobody", "--out"),
    ],
    ids=lambda command: command[0],
)
def test_a_file_of_another_kind_is_refused_before_any_work(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*command, "wrong.jpg"])
    assert done.exit_code == 2
    assert "wrong.jpg must end in ." in done.output


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("ladder", "nothing.mp4", "--plot"), "x.png"),
        (("ladder", "nothing.mp4", "--hls"), "x.m3u8"),
        (("watch", "nothing.mp4", "--plot"), "x.svg"),
        (("eval-compress", "nothing", "--plot"), "x.SVG"),
        (("eval-compress", "nothing", "--json"), "x.json"),
        (("eval-compress", "nothing", "--learn"), "x.json"),
        (("eval", "nothing.csv", "--plot"), "x.png"),
        (("calibrate", "--accepted", ".", "--plot"), "x.png"),
        (("calibrate", "--accepted", ".", "--out"), "x.toml"),
        (("check", "nothing.csv", "--out"), "x.html"),
        (("report", "nothing.parquet", "--out"), "x.html"),
        (("scale", str(ROOT / "README.md"), "--out"), "x.csv"),
        (("fit", "nothing.csv", "--out"), "x.onnx"),
        (("distill", "nothing", "--teacher", "nobody", "--out"), "x.onnx"),
        (("export", "nothing.onnx", "--int8"), "x.onnx"),
    ],
    ids=lambda value: "".join(value[::2]) if isinstance(value, tuple) else "",
)
def test_what_could_not_be_written_is_known_before_any_work(
    command: tuple[str, ...], file: str
) -> None:
    done = CliRunner().invoke(cli, [*command, f"gone/{file}"])
    assert isinstance(done.exception, ConfigError), done.output
    expected = f"{command[-1]}: gone is not a folder that can be written to; make it first"
    assert str(done.exception) == expected
