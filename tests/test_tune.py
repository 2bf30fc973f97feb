"""Tuning: the study, what guards it, the pipelines, the camera, the command."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qinsight_plugin.errors import ConfigError, RenderError
from qinsight_plugin.tune import Choice, Number, Space, tune
from qinsight_plugin.tune.objective import Look, Objective
from qinsight_plugin.tune.pipelines import Camera, Command, control_number, find
from qinsight_plugin.tune.rendering import Guarded, Here
from qinsight_plugin.tune.taste import SCALES, fit

from . import tune_parts as parts
from .conftest import ROOT, Run

pytest.importorskip("optuna")

QUIET = Space({"quiet": Number(0.0, 1.0, default=0.2)})


def scene() -> Any:
    return parts.photograph()[:96, :96]


# The space.


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({}, "no parameter"),
        ({"a": Number(1, 1, 1)}, "not below"),
        ({"a": Number(0, 1, 2)}, "default 2 is not from 0 to 1"),
        ({"a": Number(0, 1, 0.5, step=3)}, "no step of 3"),
        ({"a": Number(0, 1, 0.5, log=True)}, "log needs"),
        ({"a": Number(0, 1, 0.5, whole=True)}, "is whole"),
        ({"a": Number(0, float("nan"), 0)}, "finite"),
        ({"a": Number(-1e308, 1e308, 0)}, "too large"),
        ({"a": Number(0.5, 1.5, 0.8, step=0.5)}, "whole steps of 0.5"),
        ({"a": Number(0.5, 1.5, 0.9, step=0.4)}, "whole steps of 0.4"),
        ({"a": Number(1, 9, 1, step=0.5, whole=True)}, "is whole"),
        ({"a": Choice(([1], [2]), [1])}, "must be numbers"),  # type: ignore[arg-type]
        ({"a": Choice(("x",), "x")}, "at least two values"),
        ({"a": Choice(("x", "y"), "z")}, "none of its values"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(
    parameters: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Space(parameters)


# The study.


def test_tuning_finds_what_is_better_and_checks_it_elsewhere() -> None:
    held_out = [parts.photograph()[96:192, :96]]
    tuned = tune(parts.develop, QUIET, [scene()], held_out=held_out, trials=25, time_limit=None)
    assert tuned.best["quiet"] == pytest.approx(0.7, abs=0.15)
    assert tuned.outcome.mean > tuned.default.mean + 0.5
    assert tuned.held_out is not None
    assert tuned.held_out.objection == ""
    assert tuned.recommended == tuned.best
    assert (tuned.trials, tuned.failed) == (25, 0)
    assert tuned.study.trials[0].params == QUIET.defaults


def test_what_only_looks_better_on_the_scenes_is_not_recommended() -> None:
    """The second scene becomes the noisier, the quieter the first does."""

    def render(params: Any, bad: bool) -> Any:
        quiet = params["quiet"] if not bad else 0.9 - params["quiet"]
        return parts.develop({"quiet": quiet}, scene())

    tuned = tune(render, QUIET, [False], held_out=[True], trials=12, time_limit=None)
    assert tuned.held_out is not None
    assert "the default's" in tuned.held_out.objection
    assert tuned.recommended == QUIET.defaults != tuned.best


def test_patience_ends_a_study() -> None:
    tuned = tune(
        parts.develop, QUIET, [scene()], trials=200, patience=5, sampler="random", time_limit=None
    )
    assert tuned.trials < 200
    assert tuned.stopped == "no better setting in 5 trials"


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "nsga2"])
def test_every_sampler_runs(sampler: str) -> None:
    tuned = tune(parts.develop, QUIET, [scene()], trials=6, sampler=sampler, time_limit=None)
    assert tuned.outcome.quality >= tuned.default.quality


def test_several_goals_give_a_front() -> None:
    tuned = tune(
        parts.develop,
        QUIET,
        [scene()],
        trials=8,
        goals=("quality", "seconds"),
        time_limit=None,
    )
    values = [found for _, found in tuned.front]
    assert all(len(found) == 2 for found in values)
    assert not any(a[0] > b[0] and a[1] < b[1] for a in values for b in values)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"scenes": []}, "no scenes"),
        ({"trials": 0}, "trials must be"),
        ({"goals": ("beauty",)}, "goals beauty"),
        ({"sampler": "grid"}, "sampler 'grid'"),
        ({"goals": ("quality", "seconds"), "sampler": "cmaes"}, "for one goal"),
        ({"time_limit": 0}, "time_limit must be"),
        ({"time_limit": float("inf")}, "time_limit must be"),
        ({"seed": -1, "sampler": "random"}, "seed must be"),
        ({"scorer": "ssimulacra2"}, "cannot be maximised"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], problem: str) -> None:
    told = {"scenes": [scene()], "time_limit": None, **arguments}
    with pytest.raises(ConfigError, match=problem):
        tune(parts.develop, QUIET, **told)


def test_cmaes_is_refused_where_there_are_words() -> None:
    space = Space({**QUIET.parameters, "how": Choice(("well", "fast"), "well")})
    with pytest.raises(ConfigError, match="cmaes searches numbers, and how is none"):
        tune(parts.develop, space, [scene()], time_limit=None, sampler="cmaes")


def test_the_worst_decile_and_the_penalty_count() -> None:
    from qinsight_plugin.tune.bounds import traits

    found = traits(scene())
    looks = [Look(float(score), found) for score in range(1, 21)]
    outcome = Objective(worst=0.25).outcome(looks, [found] * 20)
    assert (outcome.mean, outcome.worst) == (10.5, 1.5)
    assert outcome.quality == 0.75 * 10.5 + 0.25 * 1.5


# What a pipeline may do wrong.

PROBLEMS = {
    "raises": "raised ValueError: no light",
    "nothing": "returned nothing",
    "nan": "returned no picture",
    "shape": "returned no picture",
    "hangs": "longer than",
    "dies": "ended its process",
}


@pytest.mark.slow
def test_a_pipeline_that_misbehaves_fails_its_trial_and_no_more() -> None:
    """In a process of its own, which is ended and started anew."""
    renderer = Guarded(parts.misbehave, [scene()], time_limit=3)
    try:
        for how, problem in PROBLEMS.items():
            with pytest.raises(RenderError, match=problem) as caught:
                renderer.render({"how": how}, 0)
            assert "\n" not in str(caught.value)
            image, seconds = renderer.render({"how": "well"}, 0)
            assert (image.pixels == scene()).all()
            assert seconds >= 0
    finally:
        renderer.close()


@pytest.mark.parametrize("how", ["raises", "nothing", "nan", "shape"])
def test_the_same_without_a_process(how: str) -> None:
    with pytest.raises(RenderError, match=PROBLEMS[how]):
        Here(parts.misbehave, [scene()]).render({"how": how}, 0)


def test_failed_trials_are_counted_with_their_reasons(tmp_path: Path) -> None:
    from qinsight_plugin.tune.report import write

    hows = ("well", "raises", "nothing", "nan", "shape", "size")
    space = Space({"how": Choice(hows, "well")})
    tuned = tune(parts.misbehave, space, [scene()], trials=30, sampler="random", time_limit=None)
    errors = [t.user_attrs["error"] for t in tuned.study.trials if "error" in t.user_attrs]
    assert tuned.failed == len(errors) > 10
    assert tuned.best == {"how": "well"}
    assert any("keep the size" in error for error in errors)
    page = write(tuned, tmp_path / "report", ("quality",)).read_text("utf-8")
    assert f"{tuned.failed} of 30 failed" in page
    assert "no light" in page
    assert json.loads((tmp_path / "report" / "best.json").read_text())["failed"] == tuned.failed


def test_a_default_that_cannot_be_rendered_is_an_error() -> None:
    space = Space({"how": Choice(("raises", "well"), "raises")})
    with pytest.raises(ConfigError, match=r"default setting cannot be judged.*no light"):
        tune(parts.misbehave, space, [scene()], time_limit=None)


def test_what_cannot_be_sent_to_a_process_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be sent to another process"):
        tune(lambda params, scene: scene, QUIET, [scene()])


# A study that is killed, and several processes.

STUDY = """
import sys
from pathlib import Path
from qinsight_plugin.tune import Number, Space, tune
from tests import tune_parts as parts
space = Space({"quiet": Number(0.0, 1.0, default=0.2)})
journal, trials, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
scenes = [parts.photograph()[:96, :96]]
done = tune(parts.slowly, space, scenes, trials=trials, seed=seed, time_limit=None, storage=journal)
print(done.trials)
"""


def start(journal: Path, trials: int, seed: int = 0) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", STUDY, str(journal), str(trials), str(seed)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    first = start(journal, 1000)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        journal.exists() and journal.read_text().count("outcome") >= 5
    ):
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    tuned = tune(parts.slowly, QUIET, [scene()], trials=20, time_limit=None, storage=journal)
    assert tuned.trials == 20
    running = [trial for trial in tuned.study.trials if trial.state.name == "RUNNING"]
    # The one that was cut off has been buried, but for one that had not yet said whose it was.
    assert not any("worker" in trial.user_attrs for trial in running)
    assert sum(trial.params == QUIET.defaults for trial in tuned.study.trials) == 1


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    workers = [start(journal, 24, seed) for seed in (0, 1)]
    counts = [int(worker.communicate(timeout=120)[0]) for worker in workers]
    assert max(counts) in (24, 25)  # both may have begun the last one
    tuned = tune(parts.slowly, QUIET, [scene()], trials=1, time_limit=None, storage=journal)
    workers_seen = {tuple(t.user_attrs["worker"]) for t in tuned.study.trials}
    assert len(workers_seen) == 2


def test_a_storage_of_another_study_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    tune(parts.develop, QUIET, [scene()], trials=1, time_limit=None, storage=journal)
    other = Space({"quiet": Number(0.0, 2.0, default=0.2)})
    with pytest.raises(ConfigError, match="with another space"):
        tune(parts.develop, other, [scene()], trials=1, time_limit=None, storage=journal)


# Pipelines.


def test_a_command_renders(tmp_path: Path) -> None:
    picture = tmp_path / "a b.png"
    Image.fromarray(scene()).save(picture)
    script = tmp_path / "isp.py"
    script.write_text(
        "import sys; from PIL import Image\n"
        "Image.open(sys.argv[1]).point(lambda v: int(v * float(sys.argv[2]))).save(sys.argv[3])\n"
    )
    command = Command(f"{sys.executable} {script} {{scene}} {{gain:.2f}} {{output}}")
    command.check({"gain": 0.5})
    image, _ = Here(command, [picture]).render({"gain": 0.5}, 0)
    assert image.pixels == pytest.approx(scene() // 2, abs=1)
    with pytest.raises(RenderError, match="failed with exit code 1"):
        Here(command, ["nowhere.png"]).render({"gain": 0.5}, 0)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("isp {scene}", "must name the file to write"),
        ("isp {scene} {output}", r"does not use \{gain\}"),
        ("isp {scene} {output} {gain} {other}", "'other' is no parameter"),
        ("isp '{scene} {output} {gain}", "cannot be split"),
        ("isp {scene} {output} {gain.db}", "has no attribute"),
    ],
)
def test_a_command_that_does_not_fit_the_space_is_refused(line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Command(line).check({"gain": 1.0})


def test_a_camera_is_tuned() -> None:
    """A simulated one: no camera is at hand where tests run."""
    pytest.importorskip("cv2")
    camera = Camera(0, {"gain": 2}, driver="tests.tune_parts:Camera")
    space = Space({"exposure": Number(20.0, 200.0, default=60.0)})
    tuned = tune(camera, space, ["shot 1"], trials=10, time_limit=None, sampler="random")
    assert tuned.failed == 0
    image, _ = Here(camera, [""]).render({"exposure": 140.0}, 0)
    assert float(image.pixels.mean()) == pytest.approx(float(parts.photograph().mean()), rel=0.1)


@pytest.mark.parametrize(
    ("device", "params", "problem"),
    [
        (9, {}, "camera 9 cannot be opened"),
        (0, {"focus": 3.0}, "refuses focus = 3"),
        (0, {"exposure": 900.0}, "refuses exposure = 900: it is 200"),
    ],
)
def test_a_camera_that_is_not_there_or_refuses(
    device: int, params: dict[str, float], problem: str
) -> None:
    pytest.importorskip("cv2")
    camera = Camera(device, driver="tests.tune_parts:Camera")
    with pytest.raises(RenderError, match=problem):
        Here(camera, [""]).render(params, 0)
    with pytest.raises(ConfigError, match="no camera control 'glow'"):
        control_number("glow")


@pytest.mark.parametrize("path", ["nowhere:f", "json:nothing", "json", "json:__name__"])
def test_an_import_path_that_leads_nowhere(path: str) -> None:
    with pytest.raises(ConfigError):
        find(path)


# People's preferences.


def test_a_taste_is_learnt_from_comparisons() -> None:
    """Raters who like it lighter, whatever the score says."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.3, 400)
    differences = rng.normal(0, 1, (400, len(SCALES)))
    leads = scores + 0.8 * differences[:, 0]
    preferred = (rng.uniform(size=400) < 1 / (1 + np.exp(-leads / 0.6))).astype(float)
    taste = fit(scores, differences, preferred)
    lighter = taste.weights["lightness"] * SCALES["lightness"]
    assert lighter == pytest.approx(0.8, abs=0.2)
    others = [taste.weights[name] * scale for name, scale in SCALES.items() if name != "lightness"]
    assert np.abs(others).max() < 0.2
    few = fit(scores[:5], differences[:5], preferred[:5])
    assert few.weights["lightness"] * SCALES["lightness"] < lighter / 2
    with pytest.raises(ConfigError, match="no answers"):
        fit(scores[:0], differences[:0], preferred[:0])


def test_the_taste_agrees_with_scikit_learn() -> None:
    """Its logistic regression, the score's part taken away by giving none."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    differences = rng.normal(0, 1, (200, len(SCALES)))
    preferred = (differences[:, 1] + rng.normal(0, 1, 200) > 0).astype(float)
    taste = fit(np.zeros(200), differences, preferred)
    # Weights there are per logit: ours over 0.6; the prior's variance is (0.25 / 0.6) squared.
    model = LogisticRegression(C=(0.25 / 0.6) ** 2, fit_intercept=False, tol=1e-8)
    expected = 0.6 * model.fit(differences, preferred).coef_[0]
    ours = [taste.weights[name] * scale for name, scale in SCALES.items()]
    assert ours == pytest.approx(expected, abs=2e-3)


# The command.

CONFIG = """
output = "out"
[pipeline]
isp = true
[scenes]
train = ["a.png"]
held_out = ["b.png"]
[space]
exposure = {{ low = -1, high = 1, default = 0 }}
{rest}
[search]
trials = 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, left in (("a.png", 0), ("b.png", 100)):
        Image.fromarray(parts.photograph()[:128, left : left + 128]).save(tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_the_command_tunes_reports_and_goes_on(folder: Path, qinsight: Run) -> None:
    pytest.importorskip("matplotlib")
    rest = "denoise = { low = 0, high = 1, default = 0 }"
    config = folder / "isp.toml"
    config.write_text(CONFIG.format(rest=rest))
    done = qinsight("tune", config)
    assert done.returncode in (0, 1), done.stderr
    assert "5 trials, 0 of 5 failed" in done.stdout
    names = {path.name for path in (folder / "out").iterdir()}
    assert names >= {"report.html", "best.json", "study.journal", "before-0.jpg", "after-0.jpg"}
    again = qinsight("tune", config, "--trials", "25", "--workers", "2", "--json")
    assert again.returncode in (0, 1), again.stderr
    found = json.loads(again.stdout)
    assert found["trials"] in (25, 26)
    assert (folder / "out" / "importance-quality.png").exists()
    assert again.stderr == ""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("isp = true", "lens = 1"), "must name one of isp"),
        (("[space]\n", "[space]\nred = 3\n"), "red must be a table"),
        (("default = 0 }", "default = 5 }"), "default 5 is not from"),
        (("low = -1, ", ""), "lacks low"),
        (('["a.png"]', '["*.dng"]'), "no file matches"),
        (('["a.png"]', '[""]'), "no file matches"),
        (('["a.png"]', '["**.png"]'), "no file matches"),
        (('["a.png"]', "[3]"), "train must be a list of words"),
        (("trials = 5", 'goals = "quality"'), "goals must be a list of words"),
        (("trials = 5", 'goals = [["quality"]]'), "goals must be a list of words"),
        (("[search]", "[objective]\npairs = 3\n[search]"), "pairs must be the name"),
        (("isp = true", "camera = true"), "camera must be a number"),
        (("isp = true", "camera = 0\nfixed = 3"), "fixed must be a table"),
        (("isp = true", 'camera = 0\nsettle = "x"'), "settle must be of type int"),
        (('["b.png"]', '["a.png"]'), "both a scene to tune on and one held out"),
        (("exposure =", "exposures ="), "did you mean 'exposure'"),
        (("trials = 5", "trails = 5"), "did you mean 'trials'"),
        (("trials = 5", "trials = true"), "trials must be of type int"),
        (("[search]", "[bounds]\ncolour = -1\n[search]"), "bound colour"),
    ],
)
def test_a_configuration_that_is_wrong_is_named(
    folder: Path, change: tuple[str, str], problem: str
) -> None:
    from qinsight_plugin.tune.config import read_config

    path = folder / "isp.toml"
    text = CONFIG.format(rest="")
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=problem):
        read_config(path)


@pytest.fixture
def hanging(tmp_path: Path) -> str:
    script = tmp_path / "hang.py"
    script.write_text(
        "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    )
    return f"{sys.executable} {script} {tmp_path / 'pid'} {{output}}"


def assert_ended(pid: str) -> None:
    status = Path(f"/proc/{pid}/status")
    deadline = time.monotonic() + 10
    while status.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not status.exists()


@pytest.mark.slow
def test_what_a_pipeline_started_is_ended_with_it(tmp_path: Path, hanging: str) -> None:
    renderer = Guarded(Command(hanging), [scene()], 5)
    with pytest.raises(RenderError, match="longer than 5 s"):
        renderer.render({}, 0)
    renderer.close()
    assert_ended((tmp_path / "pid").read_text())


@pytest.mark.slow
def test_a_pipeline_that_hangs_is_ended_when_the_study_is_killed(
    tmp_path: Path, hanging: str
) -> None:
    study = tmp_path / "study.py"
    study.write_text(
        "from qinsight_plugin.tune.pipelines import Command\n"
        "from qinsight_plugin.tune.rendering import Guarded\n"
        "if __name__ == '__main__':\n"
        f"    Guarded(Command({hanging!r}), [''], 50).render({{}}, 0)\n"
    )
    process = subprocess.Popen([sys.executable, study])
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert_ended(pid.read_text())


def test_the_configuration_in_the_readme_is_one(folder: Path) -> None:
    from qinsight_plugin.tune.bounds import Bounds
    from qinsight_plugin.tune.config import Search, read_config

    page = (ROOT / "qinsight_plugin" / "tune" / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```toml\n(# isp\.toml.*?)^```", page, re.M | re.S)
    for name, picture in (("raw", "a.png"), ("raw2", "b.png")):
        (folder / name).mkdir()
        (folder / picture).rename(folder / name / picture)
    (folder / "isp.toml").write_text(block)
    config = read_config(folder / "isp.toml")
    assert config.objective.bounds == Bounds()
    assert config.search == Search()
    assert (len(config.scenes), len(config.held_out)) == (1, 1)
    assert set(config.space.parameters) == {"denoise", "sharpen"}
    assert config.render(config.space.defaults, config.scenes[0]).shape == (128, 128, 3)
