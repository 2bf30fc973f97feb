"""The same run elsewhere: on Ray, on Spark, from and to an S3 that fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from qinsight_plugin.batch import Job, Settings, Worker, open_job
from qinsight_plugin.batch.local import run
from qinsight_plugin.errors import ConfigError, ScorerError

from .conftest import ROOT, Run
from .kills import make_pictures, parts
from .test_batch import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.real]


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder, 120)
    return folder


@pytest.fixture(scope="module")
def version() -> str:
    with Worker(Settings()) as worker:
        return worker.scorer_version


@pytest.fixture(scope="module")
def local_rows(
    pictures: Path, version: str, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    out = str(tmp_path_factory.mktemp("local") / "o.parquet")
    list(run(open_job(str(pictures), out, Settings(), version), workers=2))
    return rows_of(out)


# Ray


@needs("ray")
def test_ray_writes_the_rows_of_the_local_engine_and_goes_on_after_a_kill(
    pictures: Path, tmp_path: Path, qinsight: Run, local_rows: list[dict[str, Any]]
) -> None:
    out = tmp_path / "o.parquet"
    command = ("batch", str(pictures), "-o", str(out), "--engine", "ray", "--workers", "2")
    begun = subprocess.Popen([sys.executable, "-m", "qinsight_plugin", *command])
    while begun.poll() is None and not parts(out):
        threading.Event().wait(0.05)
    begun.kill()
    begun.wait()
    done = parts(out)
    assert done > 0
    ended = qinsight(*command)
    assert ended.returncode == 3, "some files are junk"
    assert f"{parts(out)} parts" in ended.stdout
    assert rows_of(out) == local_rows


@needs("ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_goes_wrong_on_ray_is_said_in_a_line(
    pictures: Path, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node where another version is installed, for one."""
    from qinsight_plugin.integrations.ray import run as run_on_ray

    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # a busy machine
    job = open_job(str(pictures), str(tmp_path / "o.parquet"), Settings(), version)
    told = json.loads((tmp_path / "o.parquet" / "_run.json").read_text())
    told["scorer_version"] = "sha256:other"
    (tmp_path / "o.parquet" / "_run.json").write_text(json.dumps(told))
    with pytest.raises(ScorerError, match=r"Ray gave up: .*install the same everywhere$"):
        list(run_on_ray(Job(job.out), workers=1))


# S3

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Failing:
    """Wraps a server: once `broken` is set, listings of folders of that name are refused."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.broken = ""

    def __call__(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        asks_for_list = "list-type=2" in environ.get("QUERY_STRING", "")
        if self.broken and asks_for_list and self.broken in environ["QUERY_STRING"]:
            respond("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>no listing</Message></Error>"]
        return self._application(environ, respond)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Failing]]:
    """An empty bucket on a server of moto's, on a free port, and what breaks it."""
    import fsspec
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("library")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield "s3://library", app
    server.shutdown()
    thread.join()
    server.server_close()


@needs("moto", "s3fs", "werkzeug")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_library_on_s3(
    bucket: tuple[str, Failing],
    pictures: Path,
    version: str,
    local_rows: list[dict[str, Any]],
) -> None:
    import fsspec

    url, server = bucket
    system = fsspec.filesystem("s3")
    system.put(f"{pictures}/", "library/photos/a/", recursive=True)
    system.pipe("library/photos/b/one.jpg", (pictures / "000" / "000000.jpg").read_bytes())
    server.broken = "photos%2Fb"
    out = f"{url}/scores.parquet"
    with pytest.raises(ConfigError, match=r"cannot list all pictures, so nothing was begun: .*b"):
        open_job(f"{url}/photos", out, Settings(), version)
    assert not system.exists("library/scores.parquet"), "half a list is none"
    server.broken = ""
    job = open_job(f"{url}/photos", out, Settings(), version, rows_per_part=50)
    assert job.pictures == 121
    list(run(job, workers=2))
    assert Job(out).missing() == []
    table = pyarrow.parquet.read_table("library/scores.parquet/", filesystem=system)
    scores = {row["source"]: row["score"] for row in table.to_pylist()}
    assert len(scores) == 121
    for row in local_rows:
        name = Path(row["source"]).relative_to(pictures)
        assert scores[f"{url}/photos/a/{name}"] == row["score"]


# Spark


@needs("pyspark")
@pytest.mark.skipif(shutil.which("java") is None, reason="not installed: java")
def test_the_recipe_for_spark_runs_and_scores_the_same(
    pictures: Path, tmp_path: Path, local_rows: list[dict[str, Any]]
) -> None:
    text = (ROOT / "integrations" / "spark" / "README.md").read_text("utf-8")
    (recipe,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "recipe.py").write_text(recipe)
    names = [row["source"] for row in local_rows]
    pyarrow.parquet.write_table(pa.table({"path": names + names[:7]}), tmp_path / "in.parquet")
    done = subprocess.run(
        [sys.executable, "recipe.py", "in.parquet", "out.parquet"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": "--master local[2] --conf spark.ui.enabled=false "
            "--conf spark.driver.bindAddress=127.0.0.1 pyspark-shell",
            "SPARK_LOCAL_IP": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"rows": len(names)}
    found = {row["source"]: row for row in rows_of(tmp_path / "out.parquet")}
    for row in local_rows:
        other = found[row["source"]]
        assert (other["score"], other["error"]) == (row["score"], row["error"])
