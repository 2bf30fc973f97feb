"""The plugin surface, with a third party's package really installed, in processes of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image as PILImage
from skimage.metrics import peak_signal_noise_ratio

from qinsight_plugin import hookimpl
from qinsight_plugin.errors import PluginError, ReferenceMissingError, ScorerUnknownError
from qinsight_plugin.pipeline import Pipeline, judge
from qinsight_plugin.plugins import PluginHost
from qinsight_plugin.records import Gate, Image, Report, Score, ScorerSpec, Source

from .conftest import Pixels, Run

BLOCK_BROKEN = {"QINSIGHT_BLOCK_PLUGINS": "broken"}


@pytest.fixture
def installed(plugin_folder: Path) -> dict[str, str]:
    """The environment of a user who has installed the plugin package."""
    return {"PYTHONPATH": str(plugin_folder)}


def test_plugins_lists_what_is_loaded_and_names_what_is_not(
    qinsight: Run, installed: dict[str, str]
) -> None:
    done = qinsight("plugins", "--json", env=installed)
    assert done.returncode == 0, done.stderr
    listed = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}
    assert listed["sample"]["origin"] == "qinsight-sample-plugin 1.2.3"
    assert listed["sample"]["error"] is None
    assert "qinsight_register_scorers" in listed["sample"]["hooks"]
    assert listed["broken"]["error"] == "SystemExit: no licence found bye"


def test_a_plugin_scorer_is_asked_by_name_and_gets_its_argument(
    qinsight: Run, installed: dict[str, str], photo: Path, astronaut: Pixels
) -> None:
    done = qinsight("score", photo, "--scorer", "brightness:0.5", "--json", env=installed)
    (row,) = json.loads(done.stdout)
    assert row["score"] == pytest.approx(astronaut.mean() / 2)
    assert row["blocks"] == {"sample": {"mean": round(float(astronaut.mean()), 3)}}
    assert "Skipped plugin broken (qinsight-sample-plugin 1.2.3): SystemExit" in done.stderr


def test_an_unknown_scorer_may_be_in_a_plugin_that_did_not_load(
    qinsight: Run, installed: dict[str, str], photo: Path
) -> None:
    done = qinsight("score", photo, "--scorer", "lost", env=installed)
    assert done.stderr.endswith("plugins that did not load: broken (see qinsight plugins)\n")


def test_a_plugin_decodes_and_answers_for_the_scorer(
    qinsight: Run, installed: dict[str, str]
) -> None:
    (row,) = json.loads(qinsight("score", "flat:7", "--json", env=installed).stdout)
    assert (row["score"], row["format"], row["width"]) == (4.75, "FLAT", 64)


def test_a_plugin_that_raises_is_named_in_the_row(qinsight: Run, installed: dict[str, str]) -> None:
    done = qinsight("score", "flat:seven", "--json", env=installed)
    (row,) = json.loads(done.stdout)
    assert done.returncode == 3
    assert row["error_type"] == "PluginError"
    assert row["error"].startswith("plugin sample: qinsight_decode_image failed: ValueError:")


def test_a_score_outside_the_declared_range_is_an_error(
    qinsight: Run, installed: dict[str, str], tmp_path: Path
) -> None:
    PILImage.new("RGB", (40, 40), "gray").save(tmp_path / "gray.png")
    done = qinsight(
        "score", tmp_path / "gray.png", "--scorer", "brightness", "--json", env=installed
    )
    (row,) = json.loads(done.stdout)
    assert row["score"] is None
    assert row["error_type"] == "ScoreRangeError"


def test_a_scorer_that_does_not_load_is_named(
    qinsight: Run, installed: dict[str, str], photo: Path
) -> None:
    done = qinsight("score", photo, "--scorer", "brightness:much", env=installed)
    assert done.returncode == 3
    assert "Error: scorer brightness did not load: ValueError: could not convert" in done.stderr


def test_a_scorer_that_fails_is_named_with_the_picture(astronaut: Pixels) -> None:
    class Failing:
        spec = ScorerSpec("failing", lambda _: Failing(), "fails")

        def score(self, images: object, references: object = None) -> list[Score]:
            raise ZeroDivisionError("no pixels")

    class Plugin:
        @hookimpl
        def qinsight_register_scorers(self, register: object) -> None:
            assert callable(register)
            register(Failing.spec)

    host = PluginHost(discover=False)
    host.add(Plugin(), "failing", "test")
    report = Pipeline("failing", host).report_or_error(astronaut)
    assert report.error == "scorer failing failed on <array>: ZeroDivisionError: no pixels"
    assert report.error_type == "ScorerError"


def test_a_gate_refuses_to_decide_without_a_plugin_that_failed(
    qinsight: Run, installed: dict[str, str], photo: Path
) -> None:
    done = qinsight("gate", photo, "--min-score", "1", env=installed)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("Error: plugin broken: did not load")
    assert "QINSIGHT_BLOCK_PLUGINS=broken" in done.stderr


def test_a_blocked_plugin_does_not_stop_the_gate_and_a_policy_plugin_decides(
    qinsight: Run, installed: dict[str, str], photo: Path, tmp_path: Path
) -> None:
    vip = photo.rename(photo.with_name("vip.png"))
    log = tmp_path / "log.jsonl"
    env = {**installed, **BLOCK_BROKEN, "SAMPLE_LOG": str(log)}
    done = qinsight("gate", vip, "--min-score", "5", "--json", env=env)
    (row,) = json.loads(done.stdout)
    assert (done.returncode, row["accepted"]) == (0, True)
    assert row["reasons"] == ["very important picture"]
    assert [json.loads(line) for line in log.read_text().splitlines()] == [[str(vip), True]]


def test_a_plugin_adds_a_command(qinsight: Run, installed: dict[str, str]) -> None:
    assert "hello" in qinsight("--help", env=installed).stdout
    assert qinsight("hello", env=installed).stdout == "hello from the sample plugin\n"


class Clashing:
    @hookimpl
    def qinsight_register_scorers(self, register: object) -> None:
        assert callable(register)
        register(ScorerSpec("student", lambda _: pytest.fail("loaded"), "another student"))


class Misspelt:
    @hookimpl
    def qinsight_decode_picture(self, source: Source) -> None: ...


class WrongArgument:
    @hookimpl
    def qinsight_decode_image(self, sauce: Source) -> None: ...


class FailingSink:
    @hookimpl
    def qinsight_report_ready(self, report: Report) -> None:
        raise OSError("disk full")


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    @hookimpl
    def qinsight_report_ready(self, report: Report) -> None:
        self.heard.append(report.source)


class Enriching:
    def __init__(self, block: object) -> None:
        self.block = block

    @hookimpl
    def qinsight_enrich_report(self, report: Report) -> dict[str, object]:
        return {"extra": self.block}


class TooFew:
    @hookimpl
    def qinsight_score_images(self, images: list[Image]) -> list[Score]:
        return []


@pytest.fixture
def host() -> PluginHost:
    return PluginHost(discover=False)


def test_two_scorers_of_one_name_are_an_error_that_names_the_second(host: PluginHost) -> None:
    host.add(Clashing(), "clashing", "test")
    with pytest.raises(PluginError, match="'student' is registered already"):
        host.scorer_specs()


@pytest.mark.parametrize("plugin", [Misspelt(), WrongArgument()])
def test_a_hook_that_does_not_exist_is_refused_and_changes_nothing(
    host: PluginHost, plugin: object
) -> None:
    before = host.plugins()
    with pytest.raises(PluginError, match="plugin wrong: "):
        host.add(plugin, "wrong", "test")
    assert host.plugins() == before
    host.add(Listener(), "right", "test")


def test_a_failing_observer_is_named_and_the_others_still_hear(host: PluginHost) -> None:
    first, last = Listener(), Listener()
    for name, plugin in (("first", first), ("failing", FailingSink()), ("last", last)):
        host.add(plugin, name, "test")
    with pytest.raises(PluginError, match=r"plugin failing: .*OSError: disk full"):
        Pipeline(host=host).ready(Report("a.png", "student"))
    assert first.heard == last.heard == ["a.png"]


def test_blocks_of_one_name_are_an_error(host: PluginHost, astronaut: Pixels) -> None:
    host.add(Enriching({"a": 1}), "one", "test")
    host.add(Enriching({"b": 2}), "two", "test")
    with pytest.raises(PluginError, match="plugin one: adds the block 'extra', which is taken"):
        Pipeline(host=host).report(astronaut)


def test_a_block_that_json_cannot_hold_is_an_error(host: PluginHost, astronaut: Pixels) -> None:
    host.add(Enriching(float("nan")), "nan", "test")
    with pytest.raises(PluginError, match="plugin nan: added a block that JSON cannot hold"):
        Pipeline(host=host).report(astronaut)


def test_the_wrong_number_of_scores_is_an_error(host: PluginHost, astronaut: Pixels) -> None:
    host.add(TooFew(), "few", "test")
    report = Pipeline(host=host).report_or_error(astronaut)
    assert report.error == "scorer student gave 0 scores for 1 images"


class Careless:
    """Answers with what the hook does not ask for."""

    @hookimpl
    def qinsight_score_images(self, images: list[Image]) -> list[None]:
        return [None for _ in images]

    @hookimpl
    def qinsight_judge_report(self, report: Report) -> bool:
        return True


class CarelessBlocks:
    @hookimpl
    def qinsight_enrich_report(self) -> list[int]:
        return [1]


def test_an_answer_of_the_wrong_kind_is_an_error(host: PluginHost, astronaut: Pixels) -> None:
    host.add(CarelessBlocks(), "blocks", "test")
    report = Pipeline(host=host).report_or_error(astronaut)
    assert report.error == "plugin blocks: gave a list, no dict of named blocks"
    host.add(Careless(), "careless", "test")
    report = Pipeline(host=host).report_or_error(astronaut)
    assert report.error == "scorer student, or a plugin for it, gave what is no Score"
    with pytest.raises(PluginError, match="answered a bool, no Verdict"):
        judge(report, Gate(), host=host)


def test_an_unknown_scorer_is_answered_with_the_known_ones(host: PluginHost) -> None:
    with pytest.raises(ScorerUnknownError, match=r"named 'studnet'; there are: .*student"):
        host.scorer("studnet")


def test_a_gate_needs_a_scale_on_which_more_is_better(host: PluginHost) -> None:
    class Lower:
        spec = ScorerSpec("worse", lambda _: Lower(), "lower is better", higher_is_better=False)

        def score(self, images: object, references: object = None) -> list[Score]:
            return []

    class Plugin:
        @hookimpl
        def qinsight_register_scorers(self, register: object) -> None:
            assert callable(register)
            register(Lower.spec)

    host.add(Plugin(), "lower", "test")
    with pytest.raises(ValueError, match="gives lower numbers to better pictures"):
        Pipeline("worse", host).require_judgeable()


class Psnr:
    """A full-reference scorer, by skimage."""

    spec = ScorerSpec("psnr", lambda _: Psnr(), "PSNR in dB", kind="FR", range=(0.0, 100.0))

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        assert references is not None
        pairs = zip(references, images, strict=True)
        return [Score(peak_signal_noise_ratio(r.pixels, i.pixels)) for r, i in pairs]


class PsnrPlugin:
    @hookimpl
    def qinsight_register_scorers(self, register: object) -> None:
        assert callable(register)
        register(Psnr.spec)


def test_a_full_reference_scorer_gets_the_reference_or_is_not_asked(
    host: PluginHost, astronaut: Pixels
) -> None:
    host.add(PsnrPlugin(), "psnr", "test")
    pipeline = Pipeline("psnr", host)
    darker = astronaut // 2
    report = pipeline.report(darker, pipeline.reference(astronaut))
    assert report.value == peak_signal_noise_ratio(astronaut, darker)
    assert report.reference_score is None
    with pytest.raises(ReferenceMissingError, match="pass one with --reference"):
        pipeline.report(darker)
