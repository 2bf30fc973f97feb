"""The yardstick, held against scorers whose figures are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.stats
import skimage.data
import sklearn.metrics
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from skimage.metrics import mean_squared_error

from qinsight_plugin import evaluate_distortions as e
from qinsight_plugin import hookimpl
from qinsight_plugin.cli.main import cli
from qinsight_plugin.degradations import DEGRADATIONS, degrade
from qinsight_plugin.errors import ConfigError, ImageNotFoundError, ScorerError
from qinsight_plugin.examine import cases, examine, first_named, spaced, window
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Distortion, Image, Score, ScorerSpec

from .conftest import Pixels, Run

Judge = Callable[[Pixels, "Pixels | None"], Score]


class Fake:
    """A plugin whose one scorer, `fake`, is a function of the pixels and the reference's."""

    def __init__(
        self,
        judge: Judge,
        kind: Literal["NR", "FR"] = "NR",
        higher_is_better: bool = True,
    ) -> None:
        self.judge = judge
        self.spec = ScorerSpec(
            "fake",
            lambda argument: self,
            "for tests",
            kind=kind,
            range=(-1000.0, 1000.0),
            higher_is_better=higher_is_better,
        )

    @hookimpl
    def qinsight_register_scorers(self, register: Callable[[ScorerSpec], None]) -> None:
        register(self.spec)

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        others: Sequence[Image | None] = references or [None] * len(images)
        return [
            self.judge(image.pixels, None if other is None else other.pixels)
            for image, other in zip(images, others, strict=True)
        ]


def pipeline(judge: Judge, **spec: Any) -> Pipeline:
    host = PluginHost(discover=False)
    host.add(Fake(judge, **spec), "fake", "tests")
    return Pipeline("fake", host)


def says(name: str, severity: str) -> Judge:
    return lambda pixels, reference: Score(3.0, (Distortion(name, severity),))


def finds_nothing(pixels: Pixels, reference: Pixels | None) -> Score:
    return Score(3.0, ())


@pytest.fixture(scope="module")
def photographs() -> list[Pixels]:
    """Three, 64x64."""
    names = ("astronaut", "chelsea", "coffee")
    return [getattr(skimage.data, name)()[100:164, 150:214] for name in names]


@pytest.fixture
def folder(tmp_path: Path, photographs: list[Pixels]) -> Path:
    root = tmp_path / "pristine"
    root.mkdir()
    for i, pixels in enumerate(photographs):
        PILImage.fromarray(pixels).save(root / f"{i}.png")
    return root


def cheat(photographs: list[Pixels], every_variant: bool = False) -> Judge:
    """A judge that has been told what will be done to each picture."""
    truth: dict[bytes, e.Case] = {}
    for seed, pixels in enumerate(photographs):
        rng = np.random.default_rng(seed)
        for case in cases(rng, every_variant):
            made = pixels
            if case.level:
                made = degrade(pixels, case.distortion, case.variant, case.level, rng)
            truth[made.tobytes()] = case

    def judge(pixels: Pixels, reference: Pixels | None) -> Score:
        case = truth.get(pixels.tobytes(), e.Case())
        if not case.level:
            return Score(5.0, ())
        return Score(3.0, (Distortion(case.distortion, SEVERITIES[case.level - 1]),))

    return judge


def measure(photographs: list[Pixels], judge: Judge, **settings: Any) -> e.Result:
    asked = pipeline(judge)
    return e.summarise(
        [examine(asked, p, seed=seed, **settings) for seed, p in enumerate(photographs)]
    )


@pytest.mark.parametrize("every_variant", [False, True])
def test_a_scorer_that_knows_the_truth_is_always_right(
    photographs: list[Pixels], every_variant: bool
) -> None:
    judge = cheat(photographs, every_variant)
    naming = measure(photographs, judge, every_variant=every_variant).naming
    assert naming is not None
    assert naming.near is not None
    figures = [naming.accuracy, naming.near, naming.near_of_all]
    figures += [*naming.by_class.values(), *naming.by_level.values(), *naming.by_variant.values()]
    assert {(f.low, f.value, f.high) for f in figures} == {(1.0, 1.0, 1.0)}
    variants = {f"{name}/{variant}" for name in DEGRADATIONS for variant in DEGRADATIONS[name]}
    assert set(naming.by_variant) <= variants
    a_level = [len(DEGRADATIONS[name]) if every_variant else 1 for name in DISTORTIONS]
    counts = len(photographs) * np.array([1, *(5 * count for count in a_level)])
    assert naming.confusion == tuple(map(tuple, np.diag(counts).tolist()))
    if every_variant:
        assert set(naming.by_variant) == variants


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_scorer_that_always_says_the_same_is_right_by_chance(
    photographs: list[Pixels], name: str
) -> None:
    naming = measure(photographs, says(name, "moderate")).naming
    assert naming is not None
    assert naming.near is not None
    assert naming.accuracy.value == pytest.approx(1 / 5)
    assert {key: share.value for key, share in naming.by_class.items()} == {
        key: float(key == name) for key in ("none", *DISTORTIONS)
    }
    assert {share.value for share in naming.by_level.values()} == {1 / 4}
    assert naming.near.value == pytest.approx(3 / 5)  # slight, moderate, obvious
    assert naming.near_of_all.value == pytest.approx(3 / 20)


def test_a_scorer_that_never_finds_anything_raises_no_false_alarm(
    photographs: list[Pixels],
) -> None:
    naming = measure(photographs, finds_nothing).naming
    assert naming is not None
    assert naming.by_class["none"].value == 1
    assert naming.accuracy.value == pytest.approx(1 / 5)
    assert naming.near is None
    assert naming.near_of_all.value == 0


def test_a_scorer_that_does_not_look_for_distortions_is_measured_on_ladders_alone(
    photographs: list[Pixels],
) -> None:
    result = measure(photographs, lambda pixels, reference: Score(3.0))
    assert result.naming is None
    assert set(result.inversions) == {"JPEG", "WEBP", "AVIF"}


def test_only_the_distortion_named_first_counts() -> None:
    named = (Distortion("blur", "obvious"), Distortion("noise", "slight"))
    assert first_named(e.Case("noise", "shot", 2), named) == e.Finding(
        e.Case("noise", "shot", 2), "blur", 3
    )


@pytest.mark.parametrize(("name", "severity"), [("snow", "slight"), ("blur", "somewhat")])
def test_a_word_of_the_scorer_s_own_is_refused(
    photographs: list[Pixels], name: str, severity: str
) -> None:
    with pytest.raises(ScorerError, match=f"named '{name}' at '{severity}'"):
        examine(pipeline(says(name, severity)), photographs[0])


def test_the_same_seed_gives_the_same_outcome(photographs: list[Pixels]) -> None:
    def brightness(pixels: Pixels, reference: Pixels | None) -> Score:
        level = float(pixels.mean())
        severity = SEVERITIES[int(pixels.std()) % 5]
        return Score(level, (Distortion(DISTORTIONS[int(level) % 4], severity),))

    asked = pipeline(brightness)
    first, again, other = (examine(asked, photographs[0], seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.findings != other.findings


random_findings = st.lists(  # pictures, each with all 21 cases, named at random
    st.lists(st.tuples(st.sampled_from(e.CLASSES), st.integers(1, 5)), min_size=21, max_size=21),
    min_size=2,
    max_size=4,
)


@given(random_findings)
def test_figures_of_naming_are_those_of_sklearn(named: list[list[tuple[str, int]]]) -> None:
    asked = cases(np.random.default_rng(0))
    found = [
        [e.Finding(case, name, level) for case, (name, level) in zip(asked, row, strict=True)]
        for row in named
    ]
    naming = e.summarise_naming(found)
    flat = list(chain.from_iterable(found))
    true, said = [f.case.distortion for f in flat], [f.distortion for f in flat]
    labels = ["none", *DISTORTIONS]
    expected = sklearn.metrics.confusion_matrix(true, said, labels=labels)
    np.testing.assert_array_equal(naming.confusion, expected)
    recall = sklearn.metrics.recall_score(true, said, labels=labels, average=None, zero_division=0)
    assert [naming.by_class[name].value for name in labels] == pytest.approx(recall)
    assert naming.accuracy.value == pytest.approx(recall.mean())
    truth, answers = np.array(true), np.array(said)
    levels = np.array([f.case.level for f in flat])
    variants = np.array([f"{f.case.distortion}/{f.case.variant}" for f in flat])
    parts = [(share, levels == level) for level, share in naming.by_level.items()]
    parts += [(share, variants == variant) for variant, share in naming.by_variant.items()]
    for share, rows in parts:
        expected_share = sklearn.metrics.accuracy_score(truth[rows], answers[rows])
        assert share.value == pytest.approx(expected_share)


def test_severity_is_counted_among_the_right_and_among_all_distorted() -> None:
    case = e.Case("blur", "box", 3)
    found = [
        [
            e.Finding(e.Case(), "none", 0),
            e.Finding(case, "blur", 3),
            e.Finding(case, "blur", 4),
            e.Finding(case, "blur", 5),
            e.Finding(case, "noise", 3),
            e.Finding(case, "none", 0),
            *(
                e.Finding(e.Case(name, "a", level), "none", 0)
                for name in ("noise", "compression", "darken")
                for level in range(1, 6)
            ),
            *(e.Finding(e.Case("blur", "box", level), "none", 0) for level in (1, 2, 4, 5)),
        ]
    ]
    naming = e.summarise_naming(found)
    assert naming.near is not None
    assert naming.near.value == pytest.approx(2 / 3)
    assert naming.near_of_all.value == pytest.approx(2 / 24)


def test_rises_are_counted_by_hand() -> None:
    scores = (5.0, 4.0, 4.01, 4.05, 3.0, 3.5)
    assert e.rises(scores) == 3
    assert e.rises(scores, 0.02) == 2
    assert e.rises((1.0, 1.0)) == 0
    ladders = [scores, (5.0, 4.0, 3.0, 2.0, 1.0, 0.0)]
    inversions = e.summarise_ladders(ladders)
    assert inversions.steps == 10
    assert inversions.share.value == pytest.approx(0.2)
    assert inversions.any_rise.value == pytest.approx(0.3)
    assert [inversions.share.low, inversions.share.high] == pytest.approx([0, 0.4])


@given(st.lists(st.floats(1, 5), min_size=2, max_size=12), st.floats(0, 1))
def test_a_ladder_and_its_reverse_share_the_steps_that_matter(
    scores: list[float], threshold: float
) -> None:
    steep = int((np.abs(np.diff(scores)) > threshold).sum())
    assert e.rises(scores, threshold) + e.rises(scores[::-1], threshold) == steep


def error(pixels: Pixels, reference: Pixels | None) -> Score:
    assert reference is not None
    return Score(float(mean_squared_error(reference, pixels)))


def negative_error(pixels: Pixels, reference: Pixels | None) -> Score:
    return Score(-error(pixels, reference).value)


@pytest.mark.parametrize(
    ("judge", "higher_is_better", "share"),
    [(error, False, 0), (negative_error, True, 0), (error, True, 1), (negative_error, False, 1)],
)
def test_a_reference_is_given_and_the_direction_of_the_scale_is_minded(
    photographs: list[Pixels], judge: Judge, higher_is_better: bool, share: float
) -> None:
    asked = pipeline(judge, kind="FR", higher_is_better=higher_is_better)
    result = e.summarise([examine(asked, pixels) for pixels in photographs[:2]])
    for codec, row in result.inversions.items():
        assert row.share.value == share, codec
        assert row.steps == 2 * (len(e.QUALITY_FACTORS) - 1)


def test_one_picture_is_too_few(photographs: list[Pixels]) -> None:
    with pytest.raises(ConfigError, match="could be measured: 1, too few"):
        measure(photographs[:1], finds_nothing)


def test_a_missing_picture_is_its_own_error() -> None:
    with pytest.raises(ImageNotFoundError, match=r"nowhere\.png"):
        examine(pipeline(finds_nothing), "nowhere.png")


@given(st.lists(st.integers(0, 20), min_size=3, max_size=40))
def test_the_interval_holds_the_mean(hits: list[int]) -> None:
    tally = np.array([(count, 20) for count in hits])
    share = e.estimate(tally)
    assert share.value == pytest.approx(np.mean(hits) / 20)
    assert 0 <= share.low <= share.value + 1e-12
    assert share.value - 1e-12 <= share.high <= 1


def test_the_interval_is_scipy_s_over_pictures() -> None:
    rng = np.random.default_rng(5)
    asked = rng.integers(5, 30, 40)
    hits = rng.binomial(asked, rng.beta(2, 2, 40))
    share = e.estimate(np.column_stack((hits, asked)))
    expected = scipy.stats.bootstrap(
        (hits, asked),
        lambda h, c, axis=-1: h.sum(axis) / c.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=rng,
    ).confidence_interval
    assert (share.low, share.high) == pytest.approx(tuple(expected), abs=0.01)


def test_cases_of_one_picture_do_not_narrow_the_interval() -> None:
    """Where a picture is all right or all wrong, its twenty cases say as much as one."""
    right = np.arange(100) % 4 == 0
    many = e.estimate(np.column_stack((20 * right, np.full(100, 20))))
    normal = 1.96 * np.sqrt(0.25 * 0.75 / 100)
    assert (many.low, many.high) == pytest.approx((0.25 - normal, 0.25 + normal), abs=0.015)


def test_draws_without_a_case_are_left_out() -> None:
    share = e.estimate(np.array([[1, 2], [0, 0]]))
    assert (share.low, share.value, share.high) == (0.5, 0.5, 0.5)


@given(st.integers(1, 500), st.integers(1, 500))
def test_pictures_are_spread_from_the_first_to_the_last(count: int, limit: int) -> None:
    chosen = spaced(count, limit)
    assert len(chosen) == min(count, limit)
    assert chosen[0] == 0
    assert chosen[-1] == count - 1 or limit == 1
    gaps = np.diff(chosen)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((768, 768), (768, 768)),
        ((769, 600), (512, 512)),
        ((300, 2000), (300, 512)),
        ((100, 90), (100, 90)),
    ],
)
def test_large_pictures_are_cut_to_their_centre(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    rows, columns = np.indices(shape)
    pixels = np.stack((rows % 251, columns % 251, rows // 251), -1).astype(np.uint8)
    cut = window(pixels)
    assert cut.shape[:2] == expected
    top, left = (shape[0] - expected[0]) // 2, (shape[1] - expected[1]) // 2
    assert cut[0, 0].tolist() == pixels[top, left].tolist()


@pytest.fixture
def cheater(photographs: list[Pixels]) -> Iterator[None]:
    """The scorer that knows the truth, as an installed plugin."""
    host, plugin = default_host(), Fake(cheat(photographs))
    host.add(plugin, "cheater", "tests")
    yield
    host.manager.unregister(plugin)


@pytest.mark.usefixtures("cheater")
def test_the_command_measures_a_plugin_s_scorer(folder: Path) -> None:
    arguments = ["eval-distortions", str(folder), "--scorer", "fake"]
    as_json = CliRunner().invoke(cli, [*arguments, "--json"], standalone_mode=False)
    assert as_json.return_value == 0
    result = json.loads(as_json.stdout)
    assert result["pictures"] == 3
    assert result["naming"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert result["inversions"]["AVIF"]["steps"] == 24
    table = CliRunner().invoke(cli, arguments, standalone_mode=False).stdout
    assert "3 pictures" in table
    assert "Named rightly            1.000 [1.000, 1.000]" in table
    for name in ("none", *DISTORTIONS, "level 5", *result["naming"]["by_variant"]):
        assert any(line.startswith(f"{name} ") for line in table.splitlines()), name
    limited = CliRunner().invoke(cli, [*arguments, "--limit", "2", "--json"], standalone_mode=False)
    assert json.loads(limited.stdout)["pictures"] == 2


def test_a_broken_picture_is_named_and_left_out(qinsight: Run, folder: Path) -> None:
    """With the student, as a process."""
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    done = qinsight("eval-distortions", folder, "--json")
    assert done.returncode == 3
    assert f"Not measured: {folder / 'broken.png'}: " in done.stderr
    result = json.loads(done.stdout)
    assert result["pictures"] == 3
    assert all(0 <= row["share"]["value"] <= 1 for row in result["inversions"].values())


def test_a_folder_without_pictures_is_an_error_in_one_line(qinsight: Run, tmp_path: Path) -> None:
    done = qinsight("eval-distortions", tmp_path)
    assert done.returncode == 3
    assert "no pictures in" in done.stderr
    assert "Traceback" not in done.stderr
