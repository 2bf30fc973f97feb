"""Thresholds from a site's decisions: the curve, the bound, the rates; and what reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from scipy import stats

from qinsight_plugin.calibrate import (
    Aims,
    Calibration,
    allowed_below,
    area,
    calibrate,
    costs,
    proportion,
    roc,
)
from qinsight_plugin.cli.main import cli
from qinsight_plugin.decisions import decisions_of, read_decisions
from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.gate import load_policy

from .conftest import Pixels

FREE = Aims(most_wrong_rejections=1.0)


def drawn(n: int, m: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(3.6, 0.6, n), rng.normal(2.4, 0.6, m)


few = st.lists(st.integers(10, 50).map(lambda tenth: tenth / 10), min_size=20, max_size=60)


@settings(max_examples=30)
@given(few, few)
def test_the_curve_and_its_area_are_sklearns(good: list[float], bad: list[float]) -> None:
    curve = roc(np.array(good), np.array(bad))
    truth, score = [1] * len(bad) + [0] * len(good), [-x for x in (*bad, *good)]
    false, true, _ = sklearn.metrics.roc_curve(truth, score, drop_intermediate=False)
    assert np.allclose(curve.wrong_rejections, false)
    assert np.allclose(1 - curve.wrong_acceptances, true)
    auc = area(np.array(good), np.array(bad), 0.95)
    assert auc.value == pytest.approx(sklearn.metrics.roc_auc_score(truth, score))


@settings(max_examples=15)
@given(few, few, st.floats(0.1, 10), st.floats(0.05, 0.95))
def test_no_threshold_costs_less(
    good: list[float], bad: list[float], cost: float, share: float
) -> None:
    aims = Aims(cost, 1.0, share, 1.0)
    found = calibrate(good, bad, aims)
    wrong = np.mean(np.array(good) < found.min_score), np.mean(np.array(bad) >= found.min_score)
    own = cost * (1 - share) * wrong[0] + share * wrong[1]
    assert own == pytest.approx(costs(found.curve, found.aims).min())


def test_how_many_may_fall_below_is_wilks() -> None:
    """59 are the least for 95 % of the population at 95 %, 299 for 99 % (Wilks 1941)."""
    assert [allowed_below(n, Aims(most_wrong_rejections=0.05)) for n in (59, 92, 93)] == [0, 0, 1]
    assert allowed_below(299, Aims(most_wrong_rejections=0.01)) == 0
    with pytest.raises(LabelsError, match=r"58 accepted pictures cannot show .* 5\.00%.* 59 can"):
        allowed_below(58, Aims(most_wrong_rejections=0.05))
    with pytest.raises(LabelsError, match="299 can"):
        allowed_below(298, Aims(most_wrong_rejections=0.01))


@pytest.mark.slow
def test_the_bound_holds_on_the_population_as_often_as_it_says() -> None:
    """Of 200 calibrations, drawn from distributions that are known, 95 % or more keep it."""
    aims = Aims(1.0, 100.0, 0.5, most_wrong_rejections=0.1)  # the cost pushes against the bound
    broken = sum(
        stats.norm.cdf(calibrate(*drawn(120, 60, seed), aims).min_score, 3.6, 0.6) > 0.1
        for seed in range(200)
    )
    assert broken <= stats.binom.ppf(0.999, 200, 0.05)
    assert broken > 0, "a bound that is never broken is no bound at 95 %"


@pytest.mark.slow
def test_the_rates_to_expect_are_those_of_other_pictures() -> None:
    """What the examples themselves show is too good: the threshold was chosen on them."""
    expected, seen, true = [], [], []
    for seed in range(150):
        good, bad = drawn(40, 40, seed)
        found = calibrate(good, bad, FREE)
        expected.append(found.wrong_rejections.value + found.wrong_acceptances.value)
        seen.append(np.mean(good < found.min_score) + np.mean(bad >= found.min_score))
        true.append(
            stats.norm.cdf(found.min_score, 3.6, 0.6) + stats.norm.sf(found.min_score, 2.4, 0.6)
        )
    assert np.mean(expected) == pytest.approx(np.mean(true), abs=0.03)
    assert np.mean(seen) < np.mean(true) - 0.03


def test_delongs_interval_holds_the_area_as_often_as_it_says() -> None:
    true = stats.norm.cdf(1.2 / np.hypot(0.6, 0.6))
    held = 0
    for seed in range(400):
        found = area(*drawn(60, 60, seed), 0.95)
        held += found.low <= true <= found.high
    assert stats.binom.ppf(0.001, 400, 0.93) <= held


def test_a_share_has_the_interval_of_clopper_and_pearson() -> None:
    """Their bounds are quantiles of beta distributions."""
    found = proportion(3, 50, 0.95)
    assert found.low == pytest.approx(stats.beta.ppf(0.025, 3, 48))
    assert found.high == pytest.approx(stats.beta.ppf(0.975, 4, 47))


def warned(good: object, bad: object, aims: Aims) -> str:
    found: Calibration = calibrate(good, bad, aims)  # type: ignore[arg-type]
    return "; ".join(found.warnings)


def test_what_is_doubtful_is_said() -> None:
    good, bad = drawn(100, 100)
    assert warned(good, bad, FREE) == ""
    assert "hardly tell" in warned(good, good[::-1], FREE)
    nothing = warned(good, good + 1, Aims(most_wrong_rejections=1, rejected_share=0.01))
    assert "rejects nothing" in nothing
    assert "rejects everything" in warned(bad, good, Aims(1, 1, 0.99, 1))
    assert "the bound" in warned(good, bad, Aims(1, 100))


def test_a_threshold_is_short_and_rejects_the_same() -> None:
    good, bad = np.linspace(3, 4, 50), np.linspace(1, 2, 50)
    assert calibrate(good, bad, FREE).min_score == 2.5
    close = calibrate(2 + np.arange(1, 51) / 1e9, 2 - np.arange(50) / 1e9, FREE).min_score
    assert 2 < close <= 2 + 1e-9


@pytest.mark.parametrize(
    ("aims", "complaint"),
    [
        (Aims(wrong_rejection_cost=0), "costs 0 and 1"),
        (Aims(wrong_acceptance_cost=float("nan")), "costs 1 and nan"),
        (Aims(rejected_share=1.0), "rejected share 1"),
        (Aims(most_wrong_rejections=0), "at most 0 wrong"),
        (Aims(confidence=1), "confidence 1"),
    ],
)
def test_impossible_aims_are_refused(aims: Aims, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        calibrate(*drawn(100, 100), aims)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(LabelsError, match="19 rejected pictures have a score, 20 are the least"):
        calibrate(*drawn(100, 19))


# Where the decisions come from


def make(folder: Path, count: int, pixels: Pixels, dark: float = 1.0) -> list[Path]:
    """Windows of a photograph, darkened."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        window = pixels[3 * number : 3 * number + 64, 4 * number : 4 * number + 64]
        PILImage.fromarray((dark * window).astype(np.uint8)).save(path)
    return paths


def test_a_picture_in_both_folders_is_refused(tmp_path: Path, astronaut: Pixels) -> None:
    good, bad = (make(tmp_path / name, 2, astronaut) for name in ("good", "bad"))
    with pytest.raises(LabelsError, match=r"was accepted and rejected: good/000\.png \(accepted\)"):
        decisions_of(good, bad[1:] + good[:1])
    with pytest.raises(LabelsError, match=r"bad/001\.png"):
        decisions_of(good, bad)
    bad = make(tmp_path / "bad", 2, astronaut, 0.5)
    assert decisions_of(good, bad).accepted == (True, True, False, False)


def test_labels_and_ratings_are_read(tmp_path: Path, astronaut: Pixels) -> None:
    make(tmp_path, 3, astronaut)
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n000.png,accepted\n001.png,No\n002.png,1\n")
    assert read_decisions(table).accepted == (True, False, True)
    table.write_text("path,label\n000.png,perhaps\n")
    with pytest.raises(LabelsError, match=r"the label is unknown: line 2 \(000\.png, perhaps\)"):
        read_decisions(table)
    table.write_text("path,mos\n000.png,60\n001.png,59.9\n002.png,100\n")
    rated = read_decisions(table, scale=(0, 100), accept_from=60)
    assert rated.accepted == (True, False, True)
    with pytest.raises(ConfigError, match="--accept-from"):
        read_decisions(table, scale=(0, 100))


@pytest.mark.slow
def test_the_command_writes_a_policy_that_the_gate_reads(tmp_path: Path, astronaut: Pixels) -> None:
    for name, dark in (("good", 1.0), ("bad", 0.3)):
        make(tmp_path / name, 60, astronaut, dark)
    (tmp_path / "bad" / "junk.jpg").write_bytes(b"junk")
    policy, plot = tmp_path / "policy.toml", tmp_path / "plot.png"
    command = ["calibrate", "--accepted", str(tmp_path / "good"), "--rejected"]
    command += [str(tmp_path / "bad"), "-o", str(policy)]
    runner = CliRunner()
    undrawn = runner.invoke(cli, [*command, "--plot", str(tmp_path / "plot.gif")])
    assert undrawn.exit_code == 2
    assert "plot.gif must end in .png or .svg" in undrawn.output
    assert not policy.exists(), "what failed would have to be said again with --overwrite"
    done = runner.invoke(cli, [*command, "--plot", str(plot), "--json"], standalone_mode=False)
    assert done.return_value == 3, "one could not be scored"
    assert "Left out:" in done.stderr
    told = json.loads(done.stdout)
    assert load_policy(policy).min_score == told["min_score"]
    assert told["accepted"] == told["rejected"] == 60
    assert "# expected wrong rejections: " in policy.read_text()
    with PILImage.open(plot) as drawn_plot:
        assert drawn_plot.width == 1200
    assert "is there already" in runner.invoke(cli, command).stderr
    shadowed = runner.invoke(
        cli, ["gate", str(tmp_path / "bad"), "--policy", str(policy), "--shadow", "--jsonl"]
    )
    rows = [json.loads(line) for line in shadowed.stdout.splitlines()]
    assert shadowed.exit_code == 0
    assert all(row["accepted"] for row in rows)
    assert "would be rejected: cannot be scored" in rows[-1]["reasons"][0]
