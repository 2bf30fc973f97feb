"""The page about a run: its figures, what changed, and that nothing in it can act."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from scipy import stats

from qinsight_plugin.batch import Settings, Worker, open_job
from qinsight_plugin.batch.drift import difference, drift, ks_distance
from qinsight_plugin.batch.local import run
from qinsight_plugin.batch.summary import mean_interval, summarise
from qinsight_plugin.batch.table import open_table
from qinsight_plugin.cli.main import cli
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Distortion, Gate, Report, Score, Verdict
from qinsight_plugin.report.columns import to_table
from qinsight_plugin.report.page import page
from qinsight_plugin.report.serialize import to_row

from .conftest import Pixels

HOSTILE = "</script><script>document.title='hacked'</script><!--<img src=x onerror=alert(1)>.jpg"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def write(
    folder: Path, rows: list[tuple[str, float | None, str, bool]], version: str = "v1"
) -> str:
    """A table: source, score or None for an error, distortion or "", whether accepted."""
    made = []
    for source, value, name, accepted in rows:
        found = (Distortion(name, "obvious"),) if name else ()
        if value is None:
            wrong = {"error": "it is broken", "error_type": "ImageDecodeError"}
            report = Report(source, "student", scorer_version=version, **wrong)  # type: ignore[arg-type]
        else:
            score = Score(value, found)
            report = Report(source, "student", score, scorer_version=version, format="JPEG")
        made.append(to_row(report, Verdict(source, accepted)))
    folder.mkdir(parents=True)
    half = len(made) // 2
    for part, some in enumerate((made[:half], made[half:])):
        pyarrow.parquet.write_table(to_table(some), folder / f"part-{part:07}.parquet")
    return str(folder)


values = st.lists(
    st.tuples(st.none() | st.floats(1, 5), st.sampled_from(["", "blur", "noise"]), st.booleans()),
    min_size=1,
    max_size=30,
)


@settings(max_examples=20)
@given(values)
def test_the_summary_counts_every_row_once(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[float | None, str, bool]]
) -> None:
    rows = [(f"{number}.jpg", *row) for number, row in enumerate(drawn)]
    summary = summarise(open_table(write(tmp_path_factory.mktemp("t") / "o.parquet", rows)), 5)
    scores = sorted(value for _, value, _, _ in rows if value is not None)
    assert summary.rows == len(rows)
    assert sum(summary.errors.values()) == len(rows) - len(scores)
    assert sum(summary.cells.values()) == len(scores)
    bins = np.zeros(40, int)
    for (bin_, *_), count in summary.cells.items():
        bins[bin_] += count
    # A score on an edge may fall on either side of it in floating-point numbers.
    edges = np.linspace(1, 5, 41)
    inner = [s for s in scores if np.abs(edges - s).min() > 1e-9]
    if len(inner) == len(scores):
        assert bins.tolist() == np.histogram(scores, edges)[0].tolist()
    assert [row["score"] for row in summary.worst] == scores[:5]
    assert [row["score"] for row in summary.best] == scores[::-1][:5]
    assert (summary.judged, summary.rejected) == (len(rows), sum(not r[3] for r in rows))
    blurred = sum(1 for _, value, name, _ in rows if value is not None and name == "blur")
    assert sum(n for cell, n in summary.cells.items() if cell[1] == "blur") == blurred


def test_differences_are_scipys() -> None:
    rng = np.random.default_rng(0)
    new, old = rng.normal(3.2, 0.5, 400), rng.normal(3.0, 0.8, 300)
    found = difference(new, old)
    assert found is not None
    welch = stats.ttest_ind(new, old, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx([new.mean() - old.mean(), welch.low, welch.high], abs=1e-3)
    assert ks_distance(new, old) == pytest.approx(stats.ks_2samp(new, old).statistic)
    mean = mean_interval(new)
    t = stats.t.interval(0.95, 399, new.mean(), stats.sem(new))
    assert mean == pytest.approx((new.mean(), *t), abs=1e-3)
    assert difference(new[:1], old) is None


def test_what_changed_is_told_of_pictures_that_are_in_both(tmp_path: Path) -> None:
    old = write(
        tmp_path / "a.parquet",
        [
            ("a", 4.0, "", True),
            ("b", 3.0, "", True),
            ("c", None, "", False),
            ("old", 1.0, "blur", False),
        ],
    )
    new = write(
        tmp_path / "b.parquet",
        [
            ("a", 2.0, "blur", False),
            ("b", 3.5, "", True),
            ("c", 4.0, "", True),
            ("new", 2.5, "", True),
        ],
        "v2",
    )
    tables = open_table(new), open_table(old)
    summaries = summarise(tables[0], 3), summarise(tables[1], 3)
    found = drift(*summaries, *tables)
    both = found["both"]
    assert not found["same_scorer"]
    assert (both["pictures"], both["now_rejected"], both["now_accepted"]) == (2, 1, 0)
    assert [row["source"] for row in both["fell"]] == ["a"]
    assert [(row["source"], row["change"]) for row in both["rose"]] == [("b", 0.5)]
    assert found["distortions"] == [["blur", pytest.approx(100 / 3), 25.0]]
    json.dumps(found, allow_nan=False)


def test_tables_without_scores_or_in_common_have_a_page_too(tmp_path: Path) -> None:
    none = write(tmp_path / "a.parquet", [("a", None, "", False)] * 2)
    some = write(tmp_path / "b.parquet", [("b", 3.0, "", True)] * 2)
    for table, against in ((none, some), (some, none), (none, none)):
        done = CliRunner().invoke(
            cli,
            ["report", table, "--against", against, "--no-maps", "-o", str(tmp_path / "r.html")],
        )
        assert done.exit_code == 0, done.output


def test_a_title_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    table = write(tmp_path / "one.parquet", [("a.jpg", 3.0, "", True)])
    page_file, title = tmp_path / "r.html", os.fsdecode(b"caf\xe9")
    asked = ["report", table, "--no-maps", "--title", title, "-o", str(page_file)]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0, done.exception
    assert r"caf\udce9" in page_file.read_text("utf-8")


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no table .*missing\.parquet: check the path"):
        open_table(str(tmp_path / "missing.parquet"))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="cannot read the table"):
        open_table(str(tmp_path / "torn.parquet"))
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="has no column 'source'"):
        open_table(str(tmp_path / "x.parquet"))


def test_a_run_of_which_no_part_is_done_says_so(tmp_path: Path) -> None:
    (tmp_path / "new.parquet").mkdir()
    (tmp_path / "new.parquet" / "_run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"new\.parquet has no rows yet: let qinsight batch go"):
        open_table(str(tmp_path / "new.parquet"))


def test_a_page_loads_nothing_and_names_cannot_end_its_script(tmp_path: Path) -> None:
    text = page(HOSTILE, {"rows": [HOSTILE]})
    assert "<script>document.title" not in text
    assert "<!--<img" not in text
    assert text.count("</script>") == 2
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", text)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert json.loads(data) == {"rows": [HOSTILE]}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Runs over small pictures of four qualities, one with a name that is hostile."""
    from .kills import make_pictures

    folder = tmp_path_factory.mktemp("runs")
    make_pictures(folder / "pictures", 40)
    first = folder / "pictures" / "000" / "000000.jpg"
    (first.with_name(HOSTILE.replace("/", "_"))).write_bytes(first.read_bytes())
    outs = []
    for name, least in (("old", 2.0), ("new", 3.0)):
        settings = Settings(gate=Gate(min_score=least))
        with Worker(settings) as worker:
            version = worker.scorer_version
        outs.append(str(folder / f"{name}.parquet"))
        list(run(open_job(str(folder / "pictures"), outs[-1], settings, version), workers=1))
    return outs[0], outs[1]


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(CHROMIUM is None, reason="not installed: chromium")
def test_a_browser_draws_the_page(two_runs: tuple[str, str], tmp_path: Path) -> None:
    old, new = two_runs
    out = tmp_path / "report.html"
    done = CliRunner().invoke(
        cli, ["report", new, "--against", old, "-o", str(out), "--title", "A"]
    )
    assert done.exit_code == 0, done.output
    # A filter is set before the page draws, as a user would after it.
    filtered = tmp_path / "filtered.html"
    script = (
        "filters.verdict.value = 'rejected'; filters.verdict.dispatchEvent(new Event('change'));"
    )
    whole = out.read_text("utf-8")
    filtered.write_text(
        whole.replace("showErrors();\ndraw();", f"showErrors();\ndraw();\n{script}")
    )
    table = summarise(open_table(new), 24)
    for file, cards in ((out, 2 * 24), (filtered, 2 * min(24, table.rejected))):
        shown = dom(file)
        assert "<title>A</title>" in shown, "a name has become a script"
        assert shown.count('class="card"') <= cards
        assert "quality map" in shown
        assert "Since the earlier run" in shown
        assert "<!--<img" not in shown
    assert f"{table.rows - 1} of" not in dom(filtered)
    kept = re.findall(r'id="shown"[^>]*>(\d+) of (\d+) pictures', dom(filtered))
    unscored = sum(table.errors.values())
    assert kept == [(str(table.rejected - unscored), str(table.rows - unscored))]
    assert '<span class="accepted">' not in dom(filtered)
    assert '<span class="rejected">' in dom(filtered)


def dom(file: Path) -> str:
    """The page as Chromium has it once its scripts have run."""
    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom")
    with_profile = f"--user-data-dir={file.parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *flags, with_profile, file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_a_picture_that_is_gone_or_a_model_that_changed_is_a_note(
    tmp_path: Path, astronaut: Pixels
) -> None:
    from qinsight_plugin.batch.shown import with_pictures
    from qinsight_plugin.pipeline import Pipeline

    pipeline = Pipeline()
    row: dict[str, Any] = {"source": str(tmp_path / "a.png"), "scorer_version": "other"}
    assert "does not exist" in with_pictures(row, pipeline)["note"]
    PILImage.fromarray(astronaut).save(tmp_path / "a.png")
    changed = with_pictures(row, pipeline)
    assert changed["note"].startswith("no map: student here is sha256:")
    assert changed["thumbnail"].startswith("data:image/jpeg;base64,")
    same = with_pictures(row | {"scorer_version": pipeline.scorer.spec.version}, pipeline)
    assert same["map"].startswith("data:image/jpeg;base64,")
    assert "note" not in same
    assert "map" not in with_pictures(row, None)
