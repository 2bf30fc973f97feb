"""A library scored into Parquet: listed whole, one row a picture, through kills and bad input."""

from __future__ import annotations

import http.server
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from qinsight_plugin.batch import Job, Settings, Tally, Worker, open_job
from qinsight_plugin.batch.listing import names_in
from qinsight_plugin.batch.local import run
from qinsight_plugin.errors import ConfigError, ScorerError
from qinsight_plugin.records import Distortion, Gate, Report, Score, Verdict
from qinsight_plugin.report.columns import schema, to_table
from qinsight_plugin.report.serialize import to_row
from qinsight_plugin.scorers.student import SHIPPED

from .conftest import Pixels, Run
from .kills import make_pictures, parts, run_with_kills, sources

PLUGIN = """
import os, signal, time
from qinsight_plugin import hookimpl

@hookimpl(tryfirst=True)
def qinsight_decode_image(source, max_pixels, min_side):
    name = str(source)
    if "poison" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "once" in name and not os.path.exists(name + ".seen"):
        open(name + ".seen", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if "sleepy" in name:
        time.sleep(600)
"""


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def rows_of(out: Path | str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        pyarrow.dataset.dataset(out, format="parquet").to_table().to_pylist()
    )
    return sorted(rows, key=lambda row: row["source"])


# Listing


def test_a_folder_is_listed_with_its_sub_folders_but_for_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "sub/c.webp", ".hidden.jpg", ".cache/d.jpg", "notes.txt")
    found = [str(Path(name).relative_to(tmp_path)) for name in names_in(str(tmp_path))]
    assert found == ["a.PNG", "b.jpg", "sub/c.webp"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_names_pictures_once_each_from_where_it_lies(tmp_path: Path, kind: str) -> None:
    names = ["a.jpg", "/else/b.jpg", "a.jpg", "s3://bucket/c.jpg"]
    table = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pa.table({"path": names, "mos": [1, 2, 3, 4]}), table)
    elif kind == "csv":
        table.write_text("path\n" + "\n".join(names))
    else:
        table.write_text("".join(json.dumps({"path": name}) + "\n" for name in names))
    wanted = [str(tmp_path / "a.jpg"), "/else/b.jpg", "s3://bucket/c.jpg"]
    assert list(names_in(str(table))) == wanted


def test_the_table_of_a_run_is_a_source_too(tmp_path: Path) -> None:
    rows = [to_row(Report(f"/p/{n}.jpg", "student", Score(3.0))) for n in range(3)]
    (tmp_path / "old.parquet").mkdir()
    pyarrow.parquet.write_table(to_table(rows), tmp_path / "old.parquet" / "part-0000000.parquet")
    assert list(names_in(str(tmp_path / "old.parquet"))) == [f"/p/{n}.jpg" for n in range(3)]


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pictures in"):
        list(names_in(str(tmp_path)))
    with pytest.raises(ConfigError, match="there is no folder or file"):
        list(names_in(str(tmp_path / "missing")))
    with pytest.raises(ConfigError, match="nothing at memory://"):
        list(names_in("memory://nowhere"))
    with pytest.raises(ConfigError, match="cannot open nonsense://"):
        list(names_in("nonsense://x"))


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_left_out(own: Path) -> None:
    touch(own, "a.jpg", "closed/b.jpg")
    (own / "closed").chmod(0)
    try:
        with pytest.raises(ConfigError, match=r"cannot list .*closed.*nothing was begun"):
            list(names_in(str(own)))
    finally:
        (own / "closed").chmod(0o700)


def test_a_remote_listing_that_fails_half_way_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec itself passes over what it cannot list."""
    system = fsspec.filesystem("memory")
    for name in ("/half/a/1.jpg", "/half/b/2.jpg"):
        system.pipe_file(name, b"x")
    assert len(list(names_in("memory://half"))) == 2
    whole = type(system).ls

    def breaks(self: Any, path: str, detail: bool = True, **options: Any) -> Any:
        if path.endswith("/b"):
            raise PermissionError("SlowDown")
        return whole(self, path, detail=detail, **options)

    monkeypatch.setattr(type(system), "ls", breaks)
    with pytest.raises(ConfigError, match=r"cannot list all pictures.*half/b: SlowDown"):
        list(names_in("memory://half"))


# The table

texts = st.text(st.characters(codec="utf-8"), max_size=8)
scores = st.builds(
    Score,
    st.floats(1, 5),
    st.none() | st.lists(st.builds(Distortion, texts, texts), max_size=2).map(tuple),
    st.none() | st.floats(0, 2),
    st.none() | st.just((0.1, 0.2, 0.3, 0.2, 0.2)),
    reasoning=st.none() | texts,
)
reports = st.builds(Report, texts, texts, score=scores, notes=st.lists(texts).map(tuple))
verdicts = st.none() | st.builds(Verdict, texts, st.booleans(), st.lists(texts).map(tuple), texts)


@given(st.lists(st.tuples(reports, verdicts), max_size=4))
def test_rows_come_back_from_parquet_as_they_were(pairs: list[Any]) -> None:
    rows = [to_row(report, verdict) for report, verdict in pairs]
    buffer = pa.BufferOutputStream()
    pyarrow.parquet.write_table(to_table(rows), buffer)
    read = pyarrow.parquet.read_table(pa.BufferReader(buffer.getvalue())).to_pylist()
    for row, back in zip(rows, read, strict=True):
        assert json.loads(back.pop("blocks")) == row["blocks"]
        found = row["distortions"]
        assert back.pop("distortion") == (
            found[0]["name"] if found else "" if found == [] else None
        )
        del back["severity"]
        assert back == {key: row.get(key) for key in back}


def test_a_name_that_is_no_text_has_a_row() -> None:
    row = to_table([to_row(Report("a\udcff.jpg", "student", error="no"))]).to_pylist()[0]
    assert row["source"] == "a\\udcff.jpg"
    assert set(row) == set(schema().names)


# The run, without a process


class Stub:
    """What an engine asks of a `Worker`."""

    scorer_version = "v1"

    def rows(self, names: list[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            yield to_row(Report(name, "student", Score(3.0), scorer_version="v1"))


def begin(source: Path | str, out: Path | str, **options: Any) -> Job:
    return open_job(str(source), str(out), Settings(), "v1", **options)


def finish(job: Job) -> Tally:
    return sum((job.do(part, Stub()) for part in job.missing()), Tally())  # type: ignore[arg-type]


@pytest.mark.slow
@settings(max_examples=20)
@given(count=st.integers(1, 40), rows=st.integers(1, 12), done=st.sets(st.integers(0, 39)))
def test_every_picture_has_one_row_whatever_was_done_before_and_twice(
    tmp_path_factory: pytest.TempPathFactory, count: int, rows: int, done: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    touch(folder, *(f"{number:02}.jpg" for number in range(count)))
    job = begin(folder, folder / "o.parquet", rows_per_part=rows)
    for part in done & set(range(job.parts)):
        job.do(part, Stub())  # type: ignore[arg-type]
        job.do(part, Stub())  # type: ignore[arg-type]
    again = begin(folder, folder / "o.parquet")
    assert set(again.missing()) == set(range(job.parts)) - done
    finish(again)
    assert len(rows_of(folder / "o.parquet")) == count
    assert len({row["source"] for row in rows_of(folder / "o.parquet")}) == count


def test_a_run_of_another_model_is_refused_and_begun_anew_when_asked(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    out = str(tmp_path / "o.parquet")
    finish(begin(tmp_path, out))
    with pytest.raises(ConfigError, match=r"has scorer_version v1, not v2.*--anew to drop its 1"):
        open_job(str(tmp_path), out, Settings(), "v2")
    with pytest.raises(ConfigError, match="has gate unknown, not "):
        open_job(str(tmp_path), out, Settings(gate=Gate(min_score=3.0)), "v1")
    with pytest.raises(ConfigError, match="has source"):
        open_job(str(tmp_path / "a.jpg"), out, Settings(), "v1")
    assert len(rows_of(out)) == 2
    touch(tmp_path, "c.jpg")
    job = open_job(str(tmp_path), out, Settings(), "v2", anew=True)
    assert (job.pictures, job.missing()) == (3, [0])
    with pytest.raises(ConfigError, match=r"scored by student v2, and here it is v1"):
        finish(job)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "mine.parquet/thesis.txt")
    for anew in (False, True):
        with pytest.raises(ConfigError, match="holds something that is no run"):
            begin(tmp_path, tmp_path / "mine.parquet", anew=anew)
    assert (tmp_path / "mine.parquet" / "thesis.txt").exists()
    with pytest.raises(ConfigError, match=r"must end in \.parquet"):
        begin(tmp_path, tmp_path / "out")


def test_what_a_kill_left_at_the_beginning_is_no_hindrance(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "o.parquet/_list.parquet", "o.parquet/.qinsight-x.part")
    assert finish(begin(tmp_path, tmp_path / "o.parquet")).rows == 1


def test_a_kill_between_the_list_and_its_name_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "o.parquet/_list.parquet")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qinsight_plugin.batch.store.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path, tmp_path / "o.parquet")
    assert finish(begin(tmp_path, tmp_path / "o.parquet")).rows == 1


def test_a_list_that_is_damaged_is_an_error_in_one_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    job = begin(tmp_path, tmp_path / "o.parquet")
    touch(tmp_path, "o.parquet/_list.parquet")
    with pytest.raises(ConfigError, match=r"_list\.parquet is damaged .*--anew"):
        job.names(0)


def test_a_pipe_among_pictures_is_a_row_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    name = str(tmp_path / "pipe.jpg")
    with Worker(Settings(), timeout=30) as worker:
        (row,) = worker.rows([name])
    assert row["error_type"] == "ImageUnreadableError"


def test_the_list_is_made_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    begin(tmp_path, tmp_path / "o.parquet")
    touch(tmp_path, "b.jpg")
    assert begin(tmp_path, tmp_path / "o.parquet").names(0) == [str(tmp_path / "a.jpg")]


def test_a_run_behind_a_url(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.jpg" for number in range(5)))
    out = f"memory://{tmp_path.name}.parquet"
    job = begin(tmp_path, out, rows_per_part=2)
    job.do(1, Stub())  # type: ignore[arg-type]
    assert begin(tmp_path, out).missing() == [0, 2]
    assert finish(Job(out)).rows == 3
    assert begin(tmp_path, out, anew=True).missing() == [0]


# The run, with processes


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs what ends or stops the process that decodes certain names."""
    site = tmp_path / "site"
    info = site / "trouble-1.dist-info"
    info.mkdir(parents=True)
    (site / "trouble.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trouble\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[qinsight]\ntrouble = trouble\n")
    monkeypatch.setenv("PYTHONPATH", str(site))


def save(pixels: Pixels, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(pixels[:128, :128]).save(path)


@pytest.mark.slow
def test_a_picture_that_kills_its_process_or_never_ends_is_a_row_with_an_error(
    plugin: None, tmp_path: Path, astronaut: Pixels
) -> None:
    names = ["a.png", "once.png", "poison.png", "sleepy.png", "z.png"]
    save(astronaut, *(tmp_path / name for name in names))
    with Worker(Settings(gate=Gate(min_score=1.0)), timeout=10, threads=1) as worker:
        rows = list(worker.rows([str(tmp_path / name) for name in names]))
    errors = [row["error"] for row in rows]
    assert [error is None for error in errors] == [True, True, False, False, True]
    assert "was ended by signal 9 over" in errors[2]
    assert "took longer than 10 s" in errors[3]
    assert [row["accepted"] for row in rows] == [True, True, False, False, True]


@pytest.mark.slow
def test_a_scorer_that_does_not_load_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="no scorer is named 'nobody'"):
        Worker(Settings("nobody"))


@pytest.mark.slow
def test_a_worker_that_is_killed_from_another_thread_stops(
    plugin: None, tmp_path: Path, astronaut: Pixels
) -> None:
    save(astronaut, tmp_path / "sleepy.png")
    worker = Worker(Settings(), threads=1)
    timer = threading.Timer(1, worker.kill)
    timer.start()
    with pytest.raises(ScorerError, match="closed while it worked"):
        list(worker.rows([str(tmp_path / "sleepy.png")]))
    timer.join()
    worker.close()


@pytest.mark.slow
def test_a_model_that_is_swapped_while_it_works_ends_the_run(
    tmp_path: Path, astronaut: Pixels
) -> None:
    save(astronaut, tmp_path / "a.png")
    model = tmp_path / "model.onnx"
    model.write_bytes(SHIPPED[""].read_bytes())
    with Worker(Settings(f"student:{model}"), threads=1) as worker:
        assert next(worker.rows([str(tmp_path / "a.png")]))["error"] is None
        model.write_bytes(SHIPPED["int8"].read_bytes())
        assert next(worker.rows([str(tmp_path / "a.png")]))["scorer_version"] == (
            worker.scorer_version
        )
        worker._process.kill()
        with pytest.raises(ScorerError, match=r"has changed from sha256:.* to sha256:"):
            list(worker.rows([str(tmp_path / "a.png")]))


@pytest.mark.slow
def test_a_run_killed_three_times_has_the_rows_of_one_that_was_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    make_pictures(folder, 400)
    seen = run_with_kills(folder, tmp_path / "k.parquet", 3, 0, "--rows-per-part", "10")
    assert seen[-1] < 40, "it was killed before its end"
    files = sorted(str(path) for path in folder.rglob("*.jpg"))
    assert sorted(sources(tmp_path / "k.parquet")) == files
    job = open_job(str(folder), str(tmp_path / "o.parquet"), Settings(), version())
    list(run(job, workers=2))
    assert parts(tmp_path / "k.parquet") == 40
    assert rows_of(tmp_path / "k.parquet") == rows_of(tmp_path / "o.parquet")


def version() -> str:
    with Worker(Settings()) as worker:
        return worker.scorer_version


@pytest.mark.slow
def test_nothing_that_was_started_outlives_a_kill(tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", 400)
    command = [sys.executable, "-m", "qinsight_plugin", "batch", str(tmp_path / "pictures")]
    process = subprocess.Popen([*command, "-o", str(tmp_path / "o.parquet")])
    while not parts(tmp_path / "o.parquet"):
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    started = {
        int(child)
        for task in children.parent.parent.iterdir()
        for child in (task / "children").read_text().split()
    }
    process.kill()
    process.wait()
    assert started
    end = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in started) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [child for child in started if Path(f"/proc/{child}/cmdline").exists()]


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_space_lets_it_go_on(
    tmp_path: Path, astronaut: Pixels, qinsight: Run
) -> None:
    """The kernel refuses to write files beyond a limit, as it refuses on a full disk."""
    save(astronaut, *(tmp_path / "pictures" / f"{number:03}.png" for number in range(40)))
    out = tmp_path / "o.parquet"
    command = ["batch", str(tmp_path / "pictures"), "-o", str(out), "--workers", "1"]
    begun = qinsight(*command, "--rows-per-part", "20")
    assert begun.returncode == 0, begun.stderr
    (out / "part-0000001.parquet").unlink()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    full = subprocess.run(
        [sys.executable, "-m", "qinsight_plugin", *command],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 3
    assert "cannot write to the folder" in full.stderr
    assert "Traceback" not in full.stderr
    assert not [path for path in out.iterdir() if path.suffix == ".part"]
    assert qinsight(*command).returncode == 0
    assert len(rows_of(out)) == 40


@pytest.mark.slow
def test_what_the_command_says(tmp_path: Path, astronaut: Pixels, qinsight: Run) -> None:
    save(astronaut, tmp_path / "p" / "good.png")
    (tmp_path / "p" / "junk.jpg").write_bytes(b"junk")
    (tmp_path / "policy.toml").write_text("min_score = 4.9\nshadow = true\n")
    command = ["batch", str(tmp_path / "p"), "-o", str(tmp_path / "o.parquet")]
    done = qinsight(*command, "--policy", str(tmp_path / "policy.toml"))
    assert done.returncode == 3
    assert "2 pictures in 1 parts.\nThis time 2 rows, 1 with an error, 0 rejected." in done.stdout
    good, junk = rows_of(tmp_path / "o.parquet")
    assert good["accepted"], "shadow"
    assert good["reasons"][0].startswith("would be rejected: score ")
    assert junk["error_type"] == "ImageDecodeError"
    again = qinsight(*command)
    assert again.returncode == 3
    assert "has gate" in again.stderr
    assert "--anew" in again.stderr


@pytest.mark.slow
def test_pictures_behind_http(tmp_path: Path, astronaut: Pixels) -> None:
    """An index page is a folder; a picture that is gone, a row with an error."""
    save(astronaut, tmp_path / "a.png", tmp_path / "sub" / "b.png")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}/"
        names = list(names_in(site))
        assert names == [f"{site}a.png", f"{site}sub/b.png"]
        with Worker(Settings(), threads=1) as worker:
            here, there, gone = worker.rows([*names, f"{site}gone.png"])
        server.shutdown()
    assert here["score"] == there["score"]
    assert here["source"] == names[0]
    assert gone["error_type"] == "ImageNotFoundError"


def test_threads_that_are_no_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from qinsight_plugin.scorers.student import THREADS_VARIABLE, load

    for asked in ("0", "many", "-1"):
        monkeypatch.setitem(os.environ, THREADS_VARIABLE, asked)
        with pytest.raises(ConfigError, match="QINSIGHT_THREADS is"):
            load("")
