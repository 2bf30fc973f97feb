"""`qinsight compress` on folders: files appear whole, runs resume, nothing is overwritten."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image as PILImage

from qinsight_plugin.compression.folder import REPORT, FolderRun, Settings, plan
from qinsight_plugin.compression.presets import Preset
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.sorting import write_into

from .conftest import Pixels, Run

QUICK = Settings(Preset({"ssim": 0.93}, min_source=1.0), ("jpeg",))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder of its own."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    pictures: dict[str, Pixels] = {
        "a.png": skimage.data.astronaut()[:160, 100:260],
        "b.png": skimage.data.coffee()[100:260, 100:260],
        "deep/c.png": skimage.data.chelsea()[50:210, 100:260],
    }
    for name, pixels in pictures.items():
        PILImage.fromarray(pixels).save(folder / name)
    return folder


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / REPORT).read_text().splitlines()]


def test_a_folder_its_report_and_a_second_run(qinsight: Run, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("compress", album, "-o", out, "--formats", "jpeg,webp", "--workers", "2")
    done = qinsight(*arguments)
    assert done.returncode == 0, done.stderr
    written = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert {path.with_suffix("").as_posix() for path in written} == {
        "a", "b", "deep/c", "qinsight-report",
    }  # fmt: skip
    assert re.search(r"3 files: [\d,]+ bytes -> [\d,]+, saved [\d,]+ \(\d+%\)", done.stderr)
    for row in rows(out):
        outputs: dict[str, int] = row["outputs"]  # type: ignore[assignment]
        (output,) = outputs
        size = Path(output).stat().st_size
        assert row["bytes_after"] == size
        assert row["values"]["ssimulacra2"] >= 70  # type: ignore[index]
        assert row["certificate"] == "optimal"
        PILImage.open(output).load()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = qinsight(*arguments)
    assert again.returncode == 0
    assert again.stdout.count("(done before)") == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_nothing_is_overwritten_unless_told(qinsight: Run, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").write_text("mine")
    arguments = ("compress", album / "a.png", "-o", out, "--formats", "jpeg")
    done = qinsight(*arguments)
    assert done.returncode == 3
    assert "a.jpg is there already: say --overwrite" in done.stdout
    assert (out / "a.jpg").read_text() == "mine"
    assert qinsight(*arguments, "--overwrite").returncode == 0
    PILImage.open(out / "a.jpg").load()


def test_a_result_may_lie_beside_its_source(qinsight: Run, album: Path) -> None:
    before = (album / "a.png").read_bytes()
    done = qinsight("compress", album / "a.png", "-o", album, "--formats", "webp")
    assert done.returncode == 0, done.stdout
    assert (album / "a.webp").exists()
    PILImage.open(album / "b.png").resize((16, 16)).save(album / "icon.png")
    icon = (album / "icon.png").read_bytes()
    done = qinsight("compress", album / "icon.png", "-o", album, "--formats", "webp")
    assert (done.returncode, "too small" in done.stdout) == (0, True)
    assert (album / "icon.png").read_bytes() == icon
    assert (album / "a.png").read_bytes() == before


def test_results_beside_their_sources_are_no_sources_of_the_next_run(
    qinsight: Run, album: Path
) -> None:
    arguments = ("compress", album, "-o", album, "--formats", "webp", "--workers", "1")
    assert qinsight(*arguments).returncode == 0
    again = qinsight(*arguments)
    assert (again.returncode, again.stdout.count("(done before)")) == (0, 3), again.stdout
    (album / "a.webp").write_bytes(b"another picture of that name")
    (album / "loop.png").symlink_to("loop.png")
    mixed = qinsight(*arguments)
    assert "a.webp would be written as" in mixed.stdout
    assert "loop.png cannot be read" in mixed.stdout


def test_a_name_too_long_for_its_result_fails_alone(
    qinsight: Run, album: Path, tmp_path: Path
) -> None:
    shutil.copy(album / "a.png", album / ("a" * 251 + ".png"))
    for more in ((), ("--overwrite",)):
        done = qinsight("compress", album, "-o", tmp_path / "o", "--formats", "webp",
                        "--workers", "1", *more)  # fmt: skip
        assert done.returncode == 3
        assert "File name too long; rename the source" in done.stdout
        assert "3 files, 1 failed" in done.stderr


def test_of_two_results_of_one_name_the_smaller_is_written(album: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, formats=("jpeg?subsampling=444", "jpeg"), each=True)
    (outcome,) = FolderRun(tmp_path / "o", settings, workers=1).outcomes(
        plan([(str(album / "a.png"), None)], tmp_path / "o")
    )
    assert outcome.error is None
    assert outcome.outputs == {str(tmp_path / "o" / "a.jpg"): outcome.bytes_after}
    assert (tmp_path / "o" / "a.jpg").stat().st_size == outcome.bytes_after


def test_a_run_killed_between_two_files_of_a_picture_resumes(album: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "o", dataclasses.replace(QUICK, formats=("jpeg", "webp"), each=True)
    tasks = plan([(str(album / "a.png"), None)], out)
    assert [one.state for one in FolderRun(out, settings, workers=1).outcomes(tasks)] == [
        "compressed"
    ]
    (out / "a.webp").unlink()
    before = (out / "a.jpg").stat().st_mtime_ns
    (resumed,) = FolderRun(out, settings, workers=1).outcomes(tasks)
    assert (resumed.state, resumed.error) == ("compressed", None)
    assert (out / "a.webp").exists()
    assert (out / "a.jpg").stat().st_mtime_ns == before
    (out / "a.webp").unlink()
    (out / "a.jpg").write_bytes(b"somebody else's")
    (refused,) = FolderRun(out, settings, workers=1).outcomes(tasks)
    assert "a.jpg is there already" in str(refused.error)


def test_a_half_line_of_the_report_costs_no_other(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / REPORT).write_text('{"source": "half a li')
    tasks = plan([(str(album / "a.png"), None)], out)
    list(FolderRun(out, QUICK, workers=1).outcomes(tasks))
    (again,) = FolderRun(out, QUICK, workers=1).outcomes(tasks)
    assert again.state == "done before"


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    tasks = plan(
        [("x/a.png", Path("x")), ("x/a.jpg", Path("x")), ("x/b/a.png", Path("x"))], tmp_path
    )
    assert "would be written as" in str(getattr(tasks[1], "error", ""))
    assert [getattr(task, "stem", None) for task in tasks] == [
        tmp_path / "a", None, tmp_path / "b" / "a",
    ]  # fmt: skip


def test_a_broken_file_is_a_row_and_the_rest_goes_on(
    qinsight: Run, album: Path, tmp_path: Path
) -> None:
    (album / "broken.png").write_bytes((album / "a.png").read_bytes()[:999])
    (album / "empty.jpg").write_bytes(b"")
    done = qinsight("compress", album, album / "gone.png", "-o", tmp_path / "o", "--jsonl",
                    "--formats", "jpeg", "--workers", "1")  # fmt: skip
    assert done.returncode == 3
    states = {Path(r["source"]).name: r["state"] for r in map(json.loads, done.stdout.splitlines())}
    assert states == {
        "a.png": "compressed", "b.png": "compressed", "c.png": "compressed",
        "broken.png": "failed", "empty.jpg": "failed", "gone.png": "failed",
    }  # fmt: skip


@pytest.mark.slow
def test_each_format_gets_a_file_when_asked(qinsight: Run, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = qinsight("compress", album / "a.png", "-o", out, "--each", "--formats", "jpeg,webp",
                    "--metadata", "strip", "--profile", "srgb")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (out / "a.jpg").exists()
    assert (out / "a.webp").exists()


@pytest.mark.slow
def test_own_priors_are_learnt(qinsight: Run, album: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    common = ("--formats", "jpeg", "--learn", own, "--workers", "1")
    assert qinsight("compress", album, "-o", tmp_path / "1", *common).returncode == 0
    first = json.loads(own.read_text())["curves"]["jpeg"]["ssimulacra2"]["count"]
    assert qinsight("compress", album, "-o", tmp_path / "2", *common).returncode == 0
    assert json.loads(own.read_text())["curves"]["jpeg"]["ssimulacra2"]["count"] == first + 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--preset", "best"), 3, "no preset is named 'best'"),
        (("--formats", "gif"), 3, "no encoder of images is named 'gif'"),
        (("--floor", "ssim"), 2, "is not SCORER=NUMBER"),
        (("--floor", "psnr=40"), 3, "no scorer is named 'psnr'"),
        (("--floor", "student=4"), 3, "cannot be a floor"),
        (("--metadata", "some"), 2, "'some' is not one of"),
    ],
)
def test_nonsense_is_one_line(
    qinsight: Run, album: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = qinsight("compress", album, "-o", tmp_path / "out", *arguments)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in done.stderr


def start(album: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "qinsight_plugin", "compress", str(album), "-o", str(out)]
    return subprocess.Popen(
        [*command, "--formats", "avif?speed=4", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def many(album: Path) -> None:
    for number in range(6):
        shutil.copy(album / "a.png", album / f"copy{number}.png")


def wait_for_picture(folder: Path) -> None:
    for _ in range(1200):
        if any(folder.rglob("*.avif")):
            return
        time.sleep(0.05)
    raise AssertionError(f"no picture came to {folder}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_leaves_whole_files_only(album: Path, tmp_path: Path, workers: str) -> None:
    many(album)
    out = tmp_path / "out"
    process = start(album, out, "--workers", workers)
    wait_for_picture(out)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error.decode()
    assert "Interrupted." in error.decode()
    assert not list(out.rglob(".qinsight-*"))
    for path in out.rglob("*.avif"):
        PILImage.open(path).load()


@pytest.mark.slow
def test_a_killed_run_resumes(album: Path, tmp_path: Path) -> None:
    many(album)
    out = tmp_path / "out"
    process = start(album, out, "--workers", "1")
    wait_for_picture(out)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with (out / REPORT).open("a") as report:
        report.write('{"source": "half a li')  # as a kill may leave it
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.avif")}
    assert 0 < len(before) < 9
    resumed = start(album, out, "--workers", "1")
    output, error = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, error.decode()
    assert output.decode().count("(done before)") == len(before)
    assert len(list(out.rglob("*.avif"))) == 9
    unchanged = [path for path in before if path.stat().st_mtime_ns == before[path]]
    assert len(unchanged) == len(before)


def test_a_full_disk_stops_the_run_in_one_line(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    run = FolderRun(out, QUICK, workers=1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write to the folder .*No space left"):
        list(run.outcomes(plan([(str(album / "a.png"), None)], out)))
    assert [path.name for path in out.iterdir()] == [REPORT]  # says what was meant to be there


def test_write_into_writes_whole_files_or_none(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.bin"
    write_into(b"one", target)
    with pytest.raises(FileExistsError):
        write_into(b"two", target)
    assert target.read_bytes() == b"one"
    write_into(b"two", target, overwrite=True)
    assert target.read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.slow
def test_eval_compress_learns_and_measures(qinsight: Run, album: Path, tmp_path: Path) -> None:
    priors, cache = tmp_path / "p.json", tmp_path / "c.db"
    common = ("--formats", "jpeg", "--cache", cache)
    done = qinsight("eval-compress", album, *common, "--learn", priors, "--corpus", "three")
    assert done.returncode == 0, done.stderr
    assert json.loads(priors.read_text())["corpus"] == "three"
    done = qinsight("eval-compress", album, *common, "--priors", priors, "--compare", "jpeg",
                    "--brute", "1", "--floors", "60", "--json", tmp_path / "n.json",
                    "--plot", tmp_path / "n.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| binary search |" in done.stdout
    found = json.loads((tmp_path / "n.json").read_text())
    lines = {row["method"]: row for row in found["probes"]}
    assert all(row["below floor"] == 0 for row in lines.values())
    exact = lines["ours, exact"]
    assert (exact["checked by brute force"], exact["of these not optimal"]) == (1, 0)
    assert exact["probes"] < lines["binary search"]["probes"]
    assert PILImage.open(io.BytesIO((tmp_path / "n.png").read_bytes())).width == 1000
    assert len(found["against"]) == 3
    assert np.isfinite([row["saved_at_low"] for row in found["against"]]).all()
