from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import optimize, stats

import qinsight_plugin.errors
from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, LabelsError, MissingExtraError, ScoreRangeError
from qinsight_plugin.evaluate import agreement_by_group, calibration, evaluate, foresight
from qinsight_plugin.scatter import scatter_plot

Vector: TypeAlias = npt.NDArray[np.float64]

STATISTICS: dict[str, Callable[[Vector, Vector], float]] = {
    "srcc": lambda x, y: stats.spearmanr(x, y).statistic,
    "plcc": lambda x, y: stats.pearsonr(x, y).statistic,
    "krcc": lambda x, y: stats.kendalltau(x, y).statistic,
    "rmse": lambda x, y: np.linalg.norm(x - y) / np.sqrt(len(x)),
}


def rated(n: int = 150, seed: int = 0) -> tuple[Vector, Vector]:
    """Scores and MOS that roughly agree, with ties on both sides."""
    rng = np.random.default_rng(seed)
    mos = rng.uniform(1, 5, n).round(1)
    scores: Vector = np.clip(0.7 * mos + 1.1 + rng.normal(0, 0.5, n), 1, 5)
    return scores.round(1), mos


# Distinct integers, scaled: far enough apart for every transform below to keep their order.
samples = st.integers(5, 30).flatmap(
    lambda n: st.tuples(
        *[
            st.lists(st.integers(-50, 50), min_size=n, max_size=n, unique=True).map(
                lambda values: np.array(values) / 10
            )
        ]
        * 2
    )
)


@pytest.mark.parametrize("name", STATISTICS)
def test_figures_are_those_of_scipy(name: str) -> None:
    x, y = rated()
    assert getattr(evaluate(x, y, resamples=1), name).value == pytest.approx(
        STATISTICS[name](x, y), abs=1e-12
    )


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("confidence", [0.95, 0.6])
def test_intervals_are_those_of_scipys_percentile_bootstrap(name: str, confidence: float) -> None:
    x, y = rated()
    ours = getattr(evaluate(x, y, confidence=confidence), name)
    theirs = stats.bootstrap(
        (x, y),
        STATISTICS[name],
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        confidence_level=confidence,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.15 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.15 * width)
    assert ours.low < ours.value < ours.high


def test_small_figures_agree_with_a_hand_computation() -> None:
    # Ranks 1 2 3 4 and 2 1 3 4: SRCC = 1 - 6 * 2 / (4 * 15); one of six pairs is turned.
    found = evaluate([1, 2, 3, 4], [3, 2, 4, 7], resamples=1)
    assert found.n == 4
    assert found.srcc.value == pytest.approx(0.8)
    assert found.krcc.value == pytest.approx(4 / 6)
    assert found.plcc.value == pytest.approx(7 / np.sqrt(5 * 14))
    assert found.rmse.value == pytest.approx(np.sqrt(14 / 4))
    assert found.bias == pytest.approx(-1.5)


@pytest.mark.parametrize("falling", [False, True])
def test_the_logistic_fit_is_that_of_vqeg(falling: bool) -> None:
    rng = np.random.default_rng(3)
    scores = rng.uniform(0, 100, 300)
    mos = 1.2 + 3.5 / (1 + np.exp(-(scores - 60) / 9)) + rng.normal(0, 0.2, 300)
    if falling:
        scores = 100 - scores

    def logistic(x: Vector, b1: float, b2: float, b3: float, b4: float) -> Vector:
        return (b1 - b2) / (1 + np.exp(-(x - b3) / b4)) + b2

    start = (4.7, 1.2, 40, -9) if falling else (4.7, 1.2, 60, 9)
    fitted, _ = optimize.curve_fit(logistic, scores, mos, p0=start)
    expected = stats.pearsonr(logistic(scores, *fitted), mos).statistic
    found = evaluate(scores, mos, resamples=1)
    assert found.plcc_logistic is not None
    assert found.plcc_logistic == pytest.approx(expected, abs=1e-6)
    assert found.plcc_logistic > abs(found.plcc.value) + 0.01


@pytest.mark.parametrize("seed", range(6))
def test_the_logistic_fit_converges_on_what_is_nearly_a_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 1, 200)
    found = evaluate(x, x + rng.normal(0, 0.7, 200), resamples=1)
    assert found.plcc_logistic is not None
    assert found.plcc_logistic == pytest.approx(found.plcc.value, abs=0.01)


def test_a_logistic_fit_that_does_not_converge_is_none() -> None:
    x = np.linspace(0, 10, 50)  # an exponential is a logistic whose ends are out of reach
    assert evaluate(x, np.exp(x), resamples=1).plcc_logistic is None


def test_four_points_are_too_few_for_a_fit_of_four_parameters() -> None:
    assert evaluate([1, 2, 4, 3], [1, 2, 3, 4], resamples=1).plcc_logistic is None
    assert evaluate([1, 2, 4, 3, 5], [1, 2, 3, 4, 5], resamples=1).plcc_logistic is not None


@settings(max_examples=20, deadline=None)
@given(samples, st.sampled_from([np.exp, np.cbrt, np.arctan, lambda x: x**3, lambda x: 9 * x - 4]))
def test_increasing_maps_of_the_scores_leave_rank_correlations_alone(
    pair: tuple[Vector, Vector], increasing: Callable[[Vector], Vector]
) -> None:
    x, y = pair
    before, after = evaluate(x, y, resamples=20), evaluate(increasing(x), y, resamples=20)
    assert after.srcc == before.srcc
    assert after.krcc == before.krcc


@settings(max_examples=20, deadline=None)
@given(samples, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_affine_maps_of_the_scores_leave_plcc_alone(
    pair: tuple[Vector, Vector], slope: float, shift: float
) -> None:
    x, y = pair
    before, after = evaluate(x, y, resamples=20), evaluate(slope * x + shift, y, resamples=20)
    for end in ("value", "low", "high"):
        assert getattr(after.plcc, end) == pytest.approx(getattr(before.plcc, end), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(samples)
def test_reversing_the_scores_reverses_every_correlation(pair: tuple[Vector, Vector]) -> None:
    x, y = pair
    forward, back = evaluate(x, y, resamples=20), evaluate(-x, y, resamples=20)
    for name in ("srcc", "plcc", "krcc"):
        one, other = getattr(forward, name), getattr(back, name)
        assert (other.value, other.low, other.high) == pytest.approx(
            (-one.value, -one.high, -one.low), abs=1e-9
        )


@settings(max_examples=20, deadline=None)
@given(samples)
def test_exchanging_scores_and_ratings_changes_only_the_sign_of_the_bias(
    pair: tuple[Vector, Vector],
) -> None:
    x, y = pair
    one, other = evaluate(x, y, resamples=20), evaluate(y, x, resamples=20)
    for name in STATISTICS:
        assert getattr(other, name).value == pytest.approx(getattr(one, name).value, abs=1e-9)
    assert other.bias == pytest.approx(-one.bias)


@settings(max_examples=20, deadline=None)
@given(samples)
def test_figures_and_their_intervals_stay_in_range(pair: tuple[Vector, Vector]) -> None:
    x, y = pair
    found = evaluate(x, y, resamples=50)
    for name in ("srcc", "plcc", "krcc"):
        figure = getattr(found, name)
        assert -1 <= figure.low <= figure.high <= 1
        assert -1 <= figure.value <= 1
    assert 0 <= found.rmse.low <= found.rmse.high
    assert found.plcc_logistic is None or found.plcc_logistic <= 1


def test_intervals_hold_the_value_and_narrow_with_more_pictures() -> None:
    widths = []
    for n in (30, 300, 3000):
        found = evaluate(*rated(n), resamples=200)
        for name in STATISTICS:
            figure = getattr(found, name)
            assert figure.low <= figure.value <= figure.high
        widths.append(found.srcc.high - found.srcc.low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_the_seed_alone_decides_the_interval() -> None:
    x, y = rated()
    assert evaluate(x, y, resamples=50) == evaluate(list(x), tuple(y), resamples=50)
    assert evaluate(x, y, resamples=50).srcc != evaluate(x, y, resamples=50, seed=1).srcc


@pytest.mark.parametrize("value", [3.0, 0.1, -1e9])
def test_a_constant_scorer_correlates_with_nothing(value: float) -> None:
    found = evaluate([value] * 7, [1.0, 2, 3, 4, 5, 2, 3], resamples=50)
    for figure in (found.srcc, found.plcc, found.krcc):
        assert (figure.value, figure.low, figure.high) == (0, 0, 0)
    assert found.plcc_logistic == 0


def test_few_or_nearly_constant_ratings_give_figures_without_a_warning() -> None:
    # Many of these resamples hold one rating alone; they count as ordering nothing.
    for scores, mos in (([1, 2, 3], [1, 1, 2]), ([1, 1, 1, 1, 2], [3, 3, 3, 3, 4])):
        srcc = evaluate(scores, mos, resamples=200).srcc
        assert srcc.value > 0.8
        assert srcc.low == 0


def test_perfect_agreement_is_one_and_without_error() -> None:
    found = evaluate([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], resamples=50)
    assert [found.srcc.value, found.krcc.value, found.plcc.value] == pytest.approx([1, 1, 1])
    assert (found.rmse.value, found.rmse.high, found.bias) == (0, 0, 0)


@pytest.mark.parametrize(
    ("scores", "mos", "error", "said"),
    [
        ([], [], LabelsError, "0 ratings are too few"),
        ([1, 2], [1, 2], LabelsError, "2 ratings are too few"),
        ([1, 2, 3], [2, 2, 2], LabelsError, "all 3 ratings are 2"),
        ([1, 2, 3], [1, 2, np.nan], LabelsError, "rating 2 of 3 is not finite"),
        ([1, np.nan, 3], [1, 2, 3], ScoreRangeError, "score 1 of 3 is not finite"),
        ([1, None, 3], [1, 2, 3], ScoreRangeError, "score 1 of 3 is not finite"),
        ([1, np.inf, 3], [1, 2, 3], ScoreRangeError, "score 1 of 3 is not finite"),
        ([1, 2, 3], [1, 2, 3, 4], ConfigError, "do not pair up"),
        ([[1, 2, 3]], [[1, 2, 3]], ConfigError, "do not pair up"),
        (3, 4, ConfigError, "do not pair up"),
        ([1, [2], 3], [1, 2, 3], ConfigError, "not all numbers"),
        (["good", 2, 3], [1, 2, 3], ConfigError, "not all numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    scores: Any, mos: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        evaluate(scores, mos)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"resamples": 0}, {"confidence": 0}, {"confidence": 1}, {"confidence": 95}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(wrong)))):
        evaluate([1, 2, 3], [1, 2, 3], **wrong)


def test_groups_are_measured_apart_and_pooled() -> None:
    x, y = rated(90)
    groups = ["sea", "land", "land"] * 30
    found = agreement_by_group(x, y, groups, resamples=50, seed=4, confidence=0.8)
    sea = np.arange(90) % 3 == 0
    settings: dict[str, Any] = {"resamples": 50, "seed": 4, "confidence": 0.8}
    assert found.pooled == evaluate(x, y, **settings)
    assert list(found.groups) == ["land", "sea"]
    assert found.groups["sea"] == evaluate(x[sea], y[sea], **settings)
    assert found.groups["land"] == evaluate(x[~sea], y[~sea], **settings)


def test_pooling_can_turn_the_order_that_holds_within_every_group() -> None:
    found = agreement_by_group([3, 2, 1, 6, 5, 4], [1, 2, 3, 4, 5, 6], list("aaabbb"), resamples=10)
    assert found.pooled.srcc.value > 0.5
    assert [group.srcc.value for group in found.groups.values()] == pytest.approx([-1, -1])


def test_a_group_that_cannot_be_measured_is_named() -> None:
    x, y = rated(10)
    with pytest.raises(LabelsError, match="group tiny: 2 ratings are too few"):
        agreement_by_group(x, y, ["tiny"] * 2 + ["rest"] * 8, resamples=5)
    with pytest.raises(ConfigError, match="9 groups for 10 scores"):
        agreement_by_group(x, y, ["a"] * 9)


def picture(path: Path) -> npt.NDArray[np.int_]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(pixels: npt.NDArray[np.int_]) -> npt.NDArray[np.intp]:
    """[rows, columns] of pixels that are not grey: the points and the legend's marks."""
    return np.argwhere(np.ptp(pixels, axis=2) > 60)


def test_the_plot_is_a_thousand_pixels_wide_and_places_points_truly(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    found = []
    for scores, mos in (
        ([1, 1, 1], [1, 1, 1.001]),
        ([5, 5, 5], [1, 1, 1.001]),
        ([1] * 3, [5, 5, 4.999]),
    ):
        scatter_plot(scores, mos, path, title="corners")
        pixels = picture(path)
        assert pixels.shape[1] == 1000
        found.append(coloured(pixels).mean(axis=0))
    (bottom, left), (bottom_too, right), (top, left_too) = found
    assert bottom == pytest.approx(bottom_too, abs=0.6)
    assert left == pytest.approx(left_too, abs=0.6)
    assert right - left == pytest.approx(bottom - top, abs=2)  # equal axes
    assert right - left > 700


def test_an_svg_plot_says_the_figures_the_groups_and_odd_names_as_they_are(
    tmp_path: Path,
) -> None:
    x, y = rated(40)
    path = tmp_path / "plot.svg"
    scatter_plot(
        x, y, path, title="a $\\x$ title_", groups=["_a $\\x$"] * 37 + ["pair"] * 2 + ["lone"]
    )
    text = path.read_text(encoding="utf-8")
    found = evaluate(x, y)
    within = stats.spearmanr(x[:37], y[:37]).statistic
    for said in (
        "a $\\x$ title_",
        "n 40 ",
        f"SRCC {found.srcc}",
        f"PLCC {found.plcc.value:.3f} [{found.plcc.low:.3f}, {found.plcc.high:.3f}]",
        f"_a $\\x$: n 37, SRCC {within:.3f}",
        "lone: n 1 ",
        "pair: n 2 ",
    ):
        assert said in text


def test_groups_have_colours_of_their_own_and_none_is_hidden(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    x, y = rated(400)
    scatter_plot(x, y, path, title="two", groups=["a", "b"] * 200)
    pixels = picture(path)[:900]  # without the legend
    blue = pixels[..., 2] - pixels[..., 0] > 60
    orange = pixels[..., 0] - pixels[..., 2] > 60
    assert min(blue.sum(), orange.sum()) > 0.7 * max(blue.sum(), orange.sum())


def test_points_outside_one_to_five_are_drawn_too(tmp_path: Path) -> None:
    x, y = np.array([10.0, 50, 90]), np.array([20.0, 40, 100])
    scatter_plot(x, y, tmp_path / "plot.PNG", title="percent")
    rows, columns = coloured(picture(tmp_path / "plot.PNG")).T
    assert np.ptp(rows) > 0.75 * 850
    assert np.ptp(columns) > 0.75 * 850


def test_a_plot_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    x, y = rated(20)
    with pytest.raises(ConfigError, match=r"name it \.png or \.svg"):
        scatter_plot(x, y, tmp_path / "plot.jpg", title="t")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        scatter_plot(x, y, tmp_path / "none" / "plot.png", title="t")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ConfigError, match="9 groups"):
        scatter_plot(x[:9], y[:9], tmp_path / "plot.png", title="t", groups=list("abcdefghi"))


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    root = Path(qinsight_plugin.errors.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_loads_neither_scipy_nor_matplotlib() -> None:
    loaded = run("import sys, qinsight_plugin.evaluate; print(*sys.modules)").split()
    assert "qinsight_plugin.evaluate" in loaded
    assert not {"scipy", "matplotlib"} & set(loaded)


def test_plotting_leaves_the_hosts_matplotlib_alone(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib\n"
        "before = matplotlib.rcParams.copy()\n"
        "from qinsight_plugin.scatter import scatter_plot\n"
        f"scatter_plot([1, 2, 3], [2, 1, 4], {str(tmp_path / 'p.png')!r}, title='t')\n"
        "print('matplotlib.pyplot' in sys.modules, matplotlib.rcParams.copy() == before)"
    )
    assert run(code).split() == ["False", "True"]


@pytest.mark.parametrize("package", ["scipy", "matplotlib"])
def test_a_missing_package_is_named_with_its_extra(package: str, tmp_path: Path) -> None:
    code = (
        f"import sys\nsys.modules[{package!r}] = None\n"
        "from qinsight_plugin.scatter import scatter_plot\n"
        "from qinsight_plugin.errors import MissingExtraError\n"
        "try:\n"
        f"    scatter_plot([1, 2, 3], [1, 2, 4], {str(tmp_path / 'p.png')!r}, title='t')\n"
        "except MissingExtraError as error:\n"
        "    print(error.name, error.extra, error)"
    )
    said = run(code)
    assert said.startswith(f"{package} eval ")
    assert "pip install 'qinsight-plugin[eval]'" in said


def test_an_absent_module_is_a_missing_extra() -> None:
    for module in ("no_such_module_anywhere", "no_such_module_anywhere.part"):
        with pytest.raises(MissingExtraError, match="flying needs wings") as caught:
            require(module, package="wings", extra="air", purpose="flying")
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module_anywhere", ModuleNotFoundError),
        ("from math import no_such_name", ImportError),
        ("raise OSError('libwings.so.1: cannot open\\nshared object file')", OSError),
        ("no_such_name", NameError),
    ],
)
def test_a_module_that_is_there_and_broken_shows_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, cause: type[Exception]
) -> None:
    (tmp_path / "broken_wings.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="which is installed and fails to load") as caught:
        require("broken_wings", package="wings", extra="air", purpose="flying")
    assert not isinstance(caught.value, MissingExtraError)
    assert type(caught.value.__cause__) is cause
    assert cause.__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_part_of_a_package_is_broken_and_not_absent() -> None:
    with pytest.raises(ImportError, match="fails to load") as caught:
        require("scipy.no_such_part", package="scipy", extra="eval", purpose="measuring")
    assert not isinstance(caught.value, MissingExtraError)
    assert require("scipy.stats", package="scipy", extra="eval", purpose="measuring") is stats


def test_calibration_is_the_mean_rating_of_the_pictures_scored_alike() -> None:
    bins = calibration([1.0, 1.4, 2.6, 4.5, 4.75], [2.0, 3.0, 2.0, 4.0, 5.0])
    assert [(b.low, b.high, b.n) for b in bins] == [(1, 1.5, 2), (2.5, 3, 1), (4.5, 5, 2)]
    assert [b.score for b in bins] == pytest.approx([1.2, 2.6, 4.625])
    assert [b.mos for b in bins] == pytest.approx([2.5, 2.0, 4.5])


def test_foresight_of_gaussian_errors_is_what_the_normal_distribution_says() -> None:
    """Errors drawn with the stated deviations: 90 % coverage, and a rank correlation that scipy
    finds too; stated half as wide, they cover what scipy's normal distribution says."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 0.9, 4000)
    mos = rng.uniform(1, 5, 4000)
    scores = mos + spread * rng.standard_normal(4000)
    found = foresight(scores, spread, mos, resamples=200)
    expected = stats.spearmanr(spread, np.abs(scores - mos)).statistic
    assert found.srcc.value == pytest.approx(expected, abs=1e-9)
    assert found.srcc.low < expected < found.srcc.high
    assert found.coverage.low < 0.9 < found.coverage.high
    half = foresight(scores, spread / 2, mos, resamples=10).coverage.value
    assert half == pytest.approx(2 * stats.norm.cdf(0.5 * 1.6449) - 1, abs=0.02)


def test_foresight_refuses_what_is_no_deviation() -> None:
    with pytest.raises(ConfigError, match="from 0 up"):
        foresight([1, 2, 3], [0.1, -0.1, 0.2], [1, 2, 3])
