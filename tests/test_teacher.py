"""Teachers: their answers against numpy, the cache against kills, damage and full disks.

Run as a program, this module is the process that is killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

import qinsight_plugin
from qinsight_plugin import hookimpl
from qinsight_plugin.answers import BATCH_PICTURES, Answer, AnswerCache, Finding
from qinsight_plugin.errors import (
    ConfigError,
    ImageDecodeError,
    ImageError,
    ImageUnreadableError,
    LabelsError,
    MissingExtraError,
    ScoreParseError,
    ScorerError,
)
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.plugins import PluginHost
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Distortion, Image, Score, ScorerSpec
from qinsight_plugin.teacher import sample_teacher
from qinsight_plugin.teacher_labels import teacher_labels

from .conftest import ROOT

LOW, HIGH = 0.0, 100.0
HANG_AT = 160
"""The picture over which the process that will be killed never ends: two and a half batches."""


def reply(picture: int, turn: int) -> Score | None:
    """What the made-up teacher says of a picture when asked for the nth time; None: gibberish."""
    if picture % 10 == 9 or (3 * picture + turn) % 7 == 0:
        return None
    noise = np.random.default_rng((picture, turn)).normal()
    blur = Distortion("blur", SEVERITIES[(picture + turn) % 5])
    return Score(
        float(np.clip(20 + picture % 61 + 5 * noise, LOW, HIGH)),
        distortions=(blur, Distortion("noise", "slight")) if turn % 2 else (),
        uncertainty=2.0 + turn,
        levels=(0.1 * turn, 0.2, 0.3, 0.4 - 0.1 * turn, 0.1),
    )


class Sampler:
    """A teacher that knows its pictures by their colour, and logs every question."""

    def __init__(self, spec: ScorerSpec, log: Path, hang_at: int = -1) -> None:
        self.spec, self.log, self.hang_at = spec, log, hang_at
        self.turns: Counter[int] = Counter()
        self.answer: Callable[[int, int], Score | None] = reply

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        return [self.one(image) for image in images]

    def one(self, image: Image) -> Score:
        red, green, _ = (int(level) for level in image.pixels[0, 0])
        picture = 256 * red + green
        turn = self.turns[picture]
        self.turns[picture] += 1
        with self.log.open("a") as log:
            log.write(f"{picture}\n")
        if picture == self.hang_at:
            time.sleep(600)
        score = self.answer(picture, turn)
        if score is None and picture % 2:
            raise ScoreParseError(f"{image.source}: the reply ends in the middle")
        return Score(math.nan) if score is None else score


class Plugin:
    """Registers the teacher, and counts the pictures that are decoded."""

    def __init__(self, log: Path, hang_at: int = -1, **fields: Any) -> None:
        spec = ScorerSpec("sampler", self.load, "samples", range=(LOW, HIGH), version="1")
        self.spec = dataclasses.replace(spec, **fields)
        self.scorer = Sampler(self.spec, log, hang_at)
        self.decoded: list[str] = []
        self.trouble: ImageError | None = None

    def load(self, argument: str) -> Sampler:
        return self.scorer

    @hookimpl
    def qinsight_register_scorers(self, register: Callable[[ScorerSpec], None]) -> None:
        register(self.spec)

    @hookimpl
    def qinsight_decode_image(self, source: str) -> None:
        self.decoded.append(source)
        if self.trouble is not None:
            raise self.trouble


def pipeline_of(plugin: Plugin) -> Pipeline:
    host = PluginHost(discover=False)
    host.add(plugin, "sampler", "test")
    return Pipeline("sampler", host)


def make_pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        PILImage.new("RGB", (8, 8), (number // 256, number % 256, 0)).save(path)
    return paths


def asked(log: Path) -> Counter[int]:
    return Counter(map(int, log.read_text().split())) if log.exists() else Counter()


def rows(cache: Path) -> list[dict[str, Any]]:
    """The cache as a stranger reads it, by picture."""
    table = pyarrow.dataset.dataset(cache).to_table()
    return sorted(table.to_pylist(), key=lambda row: str(row["path"]))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "answers.parquet"


def test_the_shipped_student_teaches_what_it_scores(tmp_path: Path, cache: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("astronaut", "chelsea", "coffee")]
    for path in paths:
        PILImage.fromarray(getattr(skimage.data, path.stem)()[:200, :200]).save(path)
    answers = sample_teacher("student", paths, samples=2, cache=cache, workers=2)
    for path, answer in zip(paths, answers, strict=True):
        assert answer.path == path
        assert answer.digest == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (answer.samples, answer.readable, answer.unreadable_rate) == (2, 2, 0.0)
        assert answer.mean == pytest.approx(qinsight_plugin.score(path).value, abs=1e-6)
        assert answer.spread == 0.0
    kept = rows(cache)
    assert [row["mean"] for row in kept] == [answer.mean for answer in answers]
    assert {row["scorer"] for row in kept} == {"student"}
    assert {row["scorer_version"] for row in kept} == {Pipeline("student").scorer.spec.version}


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_sum_up_the_readable_replies_as_numpy_does(
    tmp_path: Path, log: Path, cache: Path, workers: int
) -> None:
    paths = make_pictures(tmp_path, 40)
    pipeline = pipeline_of(Plugin(log))
    answers = sample_teacher(pipeline, paths, samples=4, cache=cache, workers=workers)
    spreads = set()
    for picture, answer in enumerate(answers):
        replies = [r for turn in range(4) if (r := reply(picture, turn)) is not None]
        assert answer.path == paths[picture]
        assert (answer.samples, answer.readable, answer.error) == (4, len(replies), None)
        assert answer.unreadable_rate == pytest.approx((4 - len(replies)) / 4)
        if not replies:
            nothing = (answer.mean, answer.spread, answer.distortions, answer.uncertainty)
            assert nothing == (None, None, None, None)
            continue
        mos = np.interp([r.value for r in replies], [LOW, HIGH], [1, 5])
        assert answer.mean == pytest.approx(np.mean(mos))
        assert answer.spread == pytest.approx(np.std(mos, ddof=1) if len(mos) > 1 else 0.0)
        spreads.add(answer.spread)
        assert answer.uncertainty == pytest.approx(np.mean([r.uncertainty for r in replies]) / 25)
        assert answer.levels == pytest.approx(np.mean([r.levels or () for r in replies], axis=0))
        severities = [
            SEVERITIES.index(r.distortions[0].severity) + 1 if r.distortions else 0 for r in replies
        ]
        assert answer.distortions is not None
        assert answer.distortions["blur"] == pytest.approx(
            (np.mean(severities), np.mean(np.array(severities) > 0))
        )
        assert answer.distortions["noise"].severity == answer.distortions["noise"].share
        assert answer.distortions["darken"] == (0, 0)
    assert len(spreads) > 10
    assert asked(log) == dict.fromkeys(range(40), 4)
    null = [row for row in rows(cache) if row["readable"] == 0]
    assert {row["mean"] for row in null} == {None}
    assert len(null) == sum(answer.readable == 0 for answer in answers) >= 4


def test_a_scorer_that_judges_no_distortions_has_none(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    plugin = Plugin(log)
    plugin.scorer.answer = lambda picture, turn: Score(50.0)
    (answer,) = sample_teacher(
        pipeline_of(plugin), make_pictures(tmp_path, 1), samples=3, cache=cache
    )
    assert answer == Answer(answer.path, answer.digest, 3, 3, 3.0, 0.0)


def test_what_the_cache_holds_is_not_asked_again_and_comes_back_the_same(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    paths = make_pictures(tmp_path, 20)
    told: list[Answer] = []
    first = sample_teacher(pipeline_of(Plugin(log)), paths[:15], samples=2, cache=cache)
    second = sample_teacher(
        pipeline_of(Plugin(log)), paths, samples=2, cache=cache, on_answer=told.append
    )
    assert second[:15] == first
    assert told == second
    assert asked(log) == dict.fromkeys(range(20), 2)


def test_equal_pictures_are_asked_about_once(tmp_path: Path, log: Path, cache: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    copy = tmp_path / "copy.png"
    copy.write_bytes(path.read_bytes())
    paths = [path, copy, path]
    answers = sample_teacher(pipeline_of(Plugin(log)), paths, samples=3, cache=cache, workers=3)
    assert [answer.path for answer in answers] == paths
    assert len({answer.mean for answer in answers}) == 1
    assert asked(log) == {0: 3}
    assert len(rows(cache)) == 1


def test_another_question_is_asked_anew(tmp_path: Path, log: Path, cache: Path) -> None:
    paths = make_pictures(tmp_path, 2)

    def ask(samples: int, version: str) -> int:
        before = asked(log).total()
        sample_teacher(
            pipeline_of(Plugin(log, version=version)), paths, samples=samples, cache=cache
        )
        return asked(log).total() - before

    assert ask(2, "1") == 4
    assert ask(3, "1") == 6
    assert ask(2, "2") == 4
    assert ask(2, "1") == ask(3, "1") == ask(2, "2") == 0
    PILImage.new("RGB", (8, 8), (0, 7, 0)).save(paths[0])
    assert ask(2, "1") == 2


def test_a_picture_that_cannot_be_decoded_is_listed_and_left_alone_until_it_changes(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    good, bad = make_pictures(tmp_path, 2)
    whole = bad.read_bytes()
    bad.write_bytes(whole[:40])

    def ask() -> tuple[list[Answer], list[str]]:
        plugin = Plugin(log)
        return (
            sample_teacher(pipeline_of(plugin), [bad, good], samples=1, cache=cache),
            plugin.decoded,
        )

    for decoded in ([str(bad), str(good)], []):
        answers, tried = ask()
        assert tried == decoded
        error = answers[0].error
        assert error is not None
        assert str(bad) in error
        assert "\n" not in error
        assert (answers[0].mean, answers[0].unreadable_rate) == (None, 0.0)
        assert answers[1].error is None
    assert [row["error"] for row in rows(cache)] == [None, error]
    bad.write_bytes(whole)
    answers, tried = ask()
    assert tried == [str(bad)]
    assert answers[0].mean is not None


def test_a_missing_file_is_an_error_that_is_not_remembered(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    path, gone = make_pictures(tmp_path, 2)
    moved = gone.rename(tmp_path / "elsewhere.png")
    paths = [gone, path, gone]
    answers = sample_teacher(pipeline_of(Plugin(log)), paths, samples=1, cache=cache)
    assert answers[0] == answers[2] == Answer(gone, "", 1, error=answers[0].error)
    assert f"{gone} does not exist" in str(answers[0].error)
    assert len(rows(cache)) == 1
    moved.rename(gone)
    answers = sample_teacher(pipeline_of(Plugin(log)), paths, samples=1, cache=cache)
    assert [answer.error for answer in answers] == [None] * 3


def test_what_the_system_will_not_read_now_is_not_remembered_either(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    """Such as a file of which the digest could be taken just before, and its equal."""
    (path,) = make_pictures(tmp_path, 1)
    plugin = Plugin(log)
    plugin.trouble = ImageUnreadableError("too many open files")
    answers = sample_teacher(pipeline_of(plugin), [path, path], samples=1, cache=cache)
    assert [answer.error for answer in answers] == ["too many open files"] * 2
    assert list(cache.iterdir()) == []


def test_a_machine_out_of_memory_is_no_fault_of_the_picture(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    plugin = Plugin(log)
    plugin.trouble = ImageDecodeError("the decoder gave up")
    plugin.trouble.__cause__ = MemoryError()
    with pytest.raises(ImageDecodeError, match="gave up"):
        sample_teacher(pipeline_of(plugin), make_pictures(tmp_path, 1), samples=1, cache=cache)
    assert list(cache.iterdir()) == []


def test_file_names_that_are_not_text_are_no_obstacle(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    odd = path.rename(tmp_path / os.fsdecode(b"odd\xff.png"))
    (answer,) = sample_teacher(pipeline_of(Plugin(log)), [odd], samples=2, cache=cache)
    assert answer.path == odd
    assert rows(cache)[0]["path"].endswith("odd?.png")


def test_any_other_failure_ends_the_run_and_keeps_what_was_answered(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    paths = make_pictures(tmp_path, 12)

    def run_out_of_memory(picture: int, turn: int) -> Score | None:
        if picture == 8:
            raise MemoryError("CUDA out of memory")
        return reply(picture, turn)

    plugin = Plugin(log)
    plugin.scorer.answer = run_out_of_memory
    with pytest.raises(ScorerError, match=r"008\.png: MemoryError: CUDA out of memory") as caught:
        sample_teacher(pipeline_of(plugin), paths, samples=2, cache=cache)
    assert "\n" not in str(caught.value)
    assert [Path(row["path"]) for row in rows(cache)] == paths[:8]
    sample_teacher(pipeline_of(Plugin(log)), paths, samples=2, cache=cache)
    assert {picture: asked(log)[picture] for picture in range(8)} == dict.fromkeys(range(8), 2)


@pytest.mark.parametrize(
    "score",
    [
        Score(50.0, distortions=(Distortion("banding", "slight"),)),
        Score(50.0, distortions=(Distortion("blur", "awful"),)),
    ],
)
def test_an_answer_in_unknown_words_is_the_scorers_fault(
    tmp_path: Path, log: Path, cache: Path, score: Score
) -> None:
    plugin = Plugin(log)
    plugin.scorer.answer = lambda picture, turn: score
    with pytest.raises(ScorerError, match=r"sampler gave .*000\.png .* \(there (is|are) "):
        sample_teacher(pipeline_of(plugin), make_pictures(tmp_path, 1), samples=2, cache=cache)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"higher_is_better": False}, "gives lower numbers to better pictures"),
        ({"range": (0.0, math.inf)}, "scores from 0 to inf, which cannot be mapped"),
        ({"range": (3.0, 3.0)}, "scores from 3 to 3, which cannot be mapped"),
        ({"kind": "FR"}, "compares with a reference"),
    ],
)
def test_a_scorer_that_cannot_teach_is_refused(
    log: Path, cache: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sample_teacher(pipeline_of(Plugin(log, **fields)), [], samples=1, cache=cache)
    assert not cache.exists()


def test_settings_are_refused_before_the_teacher_works(tmp_path: Path, log: Path) -> None:
    pipeline = pipeline_of(Plugin(log))
    paths = make_pictures(tmp_path, 1)
    (tmp_path / "file.parquet").write_bytes(b"")
    for samples, name, message in (
        (0, "a.parquet", "samples 0"),
        (1, "a.csv", "must end in .parquet"),
        (1, "gone/a.parquet", "No such file or directory"),
        (1, "file.parquet", "File exists"),
    ):
        with pytest.raises(ConfigError, match=message):
            sample_teacher(pipeline, paths, samples=samples, cache=tmp_path / name)
    assert asked(log) == {}


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, log: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"qinsight-plugin\[distill\]"):
        sample_teacher(pipeline_of(Plugin(log)), [], samples=1, cache=cache)


def run_here(folder: Path, cache: Path, log: Path, hang_at: int = -1) -> None:
    """What the killed process does, and the one that goes on after it."""
    sample_teacher(
        pipeline_of(Plugin(log, hang_at)), sorted(folder.glob("*.png")), samples=2, cache=cache
    )


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, log: Path, cache: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    make_pictures(folder, 200)
    command = [sys.executable, "-m", "tests.test_teacher", str(folder), str(cache), str(log)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        while asked(log).total() <= 2 * HANG_AT and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    kept = 2 * BATCH_PICTURES
    assert [Path(row["path"]).stem for row in rows(cache)] == [f"{n:03}" for n in range(kept)]

    run_here(folder, cache, log)
    run_here(folder, tmp_path / "whole.parquet", tmp_path / "other_log")
    assert rows(cache) == rows(tmp_path / "whole.parquet")
    twice = dict.fromkeys(range(kept, HANG_AT), 4) | {HANG_AT: 3}
    assert asked(log) == dict.fromkeys(range(200), 2) | twice


def test_a_part_is_written_when_enough_time_has_passed(
    tmp_path: Path, log: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinsight_plugin.answers.BATCH_SECONDS", 0.0)
    sample_teacher(pipeline_of(Plugin(log)), make_pictures(tmp_path, 5), samples=1, cache=cache)
    assert len(list(cache.iterdir())) == 5
    assert len(rows(cache)) == 5


def filled(tmp_path: Path, log: Path, cache: Path) -> tuple[Path, list[Path]]:
    paths = make_pictures(tmp_path, 3)
    sample_teacher(pipeline_of(Plugin(log)), paths, samples=2, cache=cache)
    (part,) = cache.iterdir()
    return part, paths


@pytest.mark.parametrize("length", [0, 3, 2000, -1])
def test_a_truncated_part_is_refused_by_name_and_may_be_deleted(
    tmp_path: Path, log: Path, cache: Path, length: int
) -> None:
    part, paths = filled(tmp_path, log, cache)
    part.write_bytes(part.read_bytes()[:length])
    with pytest.raises(LabelsError, match=r"damaged .* delete this file") as caught:
        sample_teacher(pipeline_of(Plugin(log)), paths, samples=2, cache=cache)
    assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)
    part.unlink()
    sample_teacher(pipeline_of(Plugin(log)), paths, samples=2, cache=cache)
    assert asked(log) == dict.fromkeys(range(3), 4)


def test_a_part_of_another_kind_is_refused(tmp_path: Path, log: Path, cache: Path) -> None:
    _, paths = filled(tmp_path, log, cache)
    pa.parquet.write_table(pa.table({"digest": ["a"]}), cache / "other.parquet")
    with pytest.raises(LabelsError, match=r"other\.parquet: its columns are not those"):
        sample_teacher(pipeline_of(Plugin(log)), paths, samples=2, cache=cache)


def test_leftovers_are_ignored_and_old_ones_removed(tmp_path: Path, log: Path, cache: Path) -> None:
    part, paths = filled(tmp_path, log, cache)
    old, young = cache / ".part-000002-aa.tmp", cache / ".part-000002-bb.tmp"
    for leftover in (old, young):
        leftover.write_bytes(part.read_bytes()[:100])
    os.utime(old, (time.time() - 7200,) * 2)
    assert len(rows(cache)) == 3
    sample_teacher(pipeline_of(Plugin(log)), paths, samples=2, cache=cache)
    assert sorted(cache.iterdir()) == [young, part]


def test_a_full_disk_is_an_error_and_leaves_no_half_a_part(
    tmp_path: Path, log: Path, cache: Path
) -> None:
    _, paths = filled(tmp_path, log, cache)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # a file may not grow past this
    try:
        with pytest.raises(ConfigError, match=r"cannot be written to .*space on the disk"):
            sample_teacher(pipeline_of(Plugin(log)), paths, samples=1, cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(rows(cache)) == len(list(cache.iterdir())) * 3 == 3
    sample_teacher(pipeline_of(Plugin(log)), paths, samples=1, cache=cache)
    assert len(rows(cache)) == 6


def test_runs_at_the_same_time_share_a_cache(tmp_path: Path, log: Path, cache: Path) -> None:
    question = ("sampler", "1", 2)
    one, two = (AnswerCache(cache, *question) for _ in range(2))
    one.add(Answer(Path("a"), "aa", 2))
    two.add(Answer(Path("b"), "bb", 2))
    one.flush()
    two.flush()
    assert AnswerCache(cache, *question).held.keys() == {"aa", "bb"}


fractions = st.floats(0, 1)
marks = st.floats(1, 5)


@given(
    answer=st.builds(
        Answer,
        path=st.text(st.characters(exclude_characters="\0/"), min_size=1).map(Path),
        digest=st.text("0123456789abcdef", min_size=64, max_size=64),
        samples=st.just(4),
        readable=st.integers(0, 4),
        mean=st.none() | marks,
        spread=st.none() | fractions,
        distortions=st.none()
        | st.fixed_dictionaries(
            {name: st.builds(Finding, st.floats(0, 5), fractions) for name in DISTORTIONS}
        ),
        uncertainty=st.none() | fractions,
        levels=st.none() | st.tuples(*[fractions] * 5),
        error=st.none() | st.text(),
    )
)
@settings(max_examples=40)
def test_an_answer_comes_back_from_the_cache_as_it_was(answer: Answer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "a.parquet")
        kept = AnswerCache(cache, "scorer:é", "", 4)
        kept.add(answer)
        kept.flush()
        assert AnswerCache(cache, "scorer:é", "", 4).held == {answer.digest: answer}
        assert AnswerCache(cache, "scorer:e", "", 4).held == {}


def answers_of(replies: Sequence[Sequence[float]], samples: int) -> list[Answer]:
    return [
        Answer(
            Path(f"{number}.png"),
            f"{number:064}",
            samples,
            len(own),
            float(np.mean(own)) if len(own) else None,
            float(np.std(own, ddof=1)) if len(own) > 1 else 0.0 if len(own) else None,
        )
        for number, own in enumerate(replies)
    ]


@pytest.mark.parametrize("samples", [2, 8])
def test_reliability_is_how_well_the_means_agree_with_what_the_teacher_thinks(samples: int) -> None:
    """Its definition: the squared correlation of measurements with what they measure."""
    rng = np.random.default_rng(samples)
    thought = rng.normal(3, 0.5, 4000)
    replies = thought[:, None] + rng.normal(0, 0.6, (4000, samples))
    labels = teacher_labels(answers_of(replies.tolist(), samples))
    expected = np.corrcoef(thought, labels.mos)[0, 1] ** 2
    assert labels.reliability.mean() == pytest.approx(expected, abs=0.03)
    assert labels.variance.mean() == pytest.approx(0.6**2 / samples, rel=0.05)


def test_weights_by_reliability_beat_equal_weights_where_the_teacher_wavers_unequally() -> None:
    """A line through the replies lies nearer the truth when wavering answers count for less."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.5, 1.5, (300, 40))
    deviation = rng.choice([0.1, 2.0], x.shape)
    replies = (3 + x)[..., None] + rng.normal(0, 1, (*x.shape, 6)) * deviation[..., None]
    misses: dict[str, list[float]] = {"equal": [], "weighted": []}
    for position, own in zip(x, replies, strict=True):
        labels = teacher_labels(answers_of(own.tolist(), 6))
        for name, weight in (("equal", np.ones(40)), ("weighted", labels.reliability)):
            slope = np.polyfit(position, labels.mos, 1, w=np.sqrt(weight))[0]
            misses[name].append((slope - 1) ** 2)
    assert np.mean(misses["weighted"]) < 0.8 * np.mean(misses["equal"])


def test_labels_are_the_formula_by_hand() -> None:
    """31 pictures of two replies, one of three, one of one; B and v_i worked out apart."""
    replies = [[2 + 0.05 * i, 2.2 + 0.05 * i] for i in range(31)] + [[3.0, 4.0, 5.0], [1.5], []]
    answers = answers_of(replies, 3)
    distortions = dict.fromkeys(DISTORTIONS, Finding(0.0, 0.0)) | {"blur": Finding(2.5, 0.5)}
    answers[0] = dataclasses.replace(answers[0], distortions=distortions)
    labels = teacher_labels([*answers, Answer(Path("torn.png"), "e" * 64, 3, error="torn")])

    pooled = (31 * 0.02 + 2 * 1.0) / 33  # variances 0.02 of two replies, 1 of three
    variance = np.array(
        [(4 * pooled + 0.02) / 5 / 2] * 31 + [(4 * pooled + 2 * 1.0) / 6 / 3, pooled]
    )
    means = np.array([2.1 + 0.05 * i for i in range(31)] + [4.0, 1.5])
    between = np.cov(means) - variance.mean()
    assert labels.paths == tuple(Path(f"{i}.png") for i in range(33))
    assert labels.mos == pytest.approx(means)
    assert labels.variance == pytest.approx(variance)
    assert labels.reliability == pytest.approx(between / (between + variance))
    assert labels.severities.shape == (33, 4)
    assert labels.severities[0] == pytest.approx([0, 0, 2.5, 0])
    assert np.isnan(labels.severities[1:]).all()
    for field in (labels.mos, labels.variance, labels.reliability, labels.severities):
        assert field.dtype == np.float32


def test_single_replies_weigh_the_same_and_their_variance_is_unknown() -> None:
    labels = teacher_labels(answers_of([[1 + i / 10] for i in range(40)], 1))
    assert (labels.reliability == 1).all()
    assert np.isnan(labels.variance).all()


@given(st.lists(st.lists(marks, min_size=1, max_size=5), min_size=30, max_size=40))
def test_labels_keep_to_their_ranges_or_are_refused(replies: list[list[float]]) -> None:
    answers = answers_of(replies, 5)
    try:
        labels = teacher_labels(answers)
    except LabelsError:
        return
    assert ((labels.reliability >= 0) & (labels.reliability <= 1)).all()
    assert ((labels.mos >= 1) & (labels.mos <= 5)).all()
    order: npt.NDArray[np.intp] = np.argsort(labels.variance)
    assert (np.diff(labels.reliability[order]) <= 0).all() or np.isnan(labels.variance).all()


swapped = [[2.0, 4.0], [4.5, 1.5]] * 20


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (answers_of([[1.0 + i / 9] for i in range(29)], 1), "29 of 29 pictures have an answer, 30"),
        ([], "0 of 0 pictures have an answer"),
        ([Answer(Path("a"), "", 4, error="torn")] * 40, "0 of 40 pictures have an answer"),
        (answers_of([[3.25]] * 40, 1), "all 40 pictures were given 3.25, so there is nothing"),
        (answers_of(swapped, 2), "all 40 pictures were given 3, "),
        (
            answers_of([[1 + i / 10, 2 + i / 10] for i in range(30)], 5),
            "90 of 150 replies could not be read",
        ),
        (answers_of([[1.0, 5.0], [5.0, 1.2]] * 20, 2), "differ as much about one picture as"),
    ],
)
def test_answers_from_which_nothing_can_be_learnt_are_refused(
    answers: list[Answer], message: str
) -> None:
    with pytest.raises(LabelsError, match=message) as caught:
        teacher_labels(answers)
    assert "\n" not in str(caught.value)


def test_half_of_the_replies_may_be_unreadable() -> None:
    answers = answers_of([[1 + i / 10, 1.1 + i / 10] for i in range(30)], 4)
    assert len(teacher_labels(answers).paths) == 30


if __name__ == "__main__":
    run_here(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), hang_at=HANG_AT)
