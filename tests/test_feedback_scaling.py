"""From answers to one scale: the standards' formulas, choix and numerical integration are asked
what is right; made-up raters, whether it helps."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import choix
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kurtosis, norm

from qinsight_plugin.cli.main import cli
from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.feedback.choosing import best_pairs, flat_prior, information, posterior
from qinsight_plugin.feedback.comparisons import Comparison, Latent, latent_scale
from qinsight_plugin.feedback.gathering import export, gather
from qinsight_plugin.feedback.joining import join
from qinsight_plugin.feedback.judgements import Judgement
from qinsight_plugin.feedback.mos import (
    Model,
    Mos,
    Opinions,
    run_model,
    scale,
    suited_model,
    tabulate,
)
from qinsight_plugin.feedback.outputs import write_labels, write_pairs, write_severities
from qinsight_plugin.feedback.raters import report
from qinsight_plugin.labels import read_labels
from qinsight_plugin.pairs import read_pairs

from .simulated_raters import Sort, comparing, needed, rated, rmse, screening


def scaled(judgements: Sequence[Judgement]) -> Mos:
    table = tabulate(judgements)
    return scale(table, suited_model(table))


# Ratings


def opinions(seed: int, pictures: int = 30, raters: int = 6, missing: float = 0.2) -> Opinions:
    rng = np.random.default_rng(seed)
    truth, bias = rng.uniform(1.5, 4.5, pictures), rng.normal(0, 0.4, raters)
    noise = rng.normal(size=(pictures, raters)) * rng.uniform(0.3, 0.9, raters)
    ratings = np.clip(np.round(truth[:, None] + bias + noise), 1, 5)
    ratings[rng.random(ratings.shape) < missing] = np.nan
    ratings[np.isnan(ratings).all(1), 0] = 3
    names = tuple(f"{k}.png" for k in range(pictures))
    return Opinions(names, tuple(f"r{k}" for k in range(raters)), ratings[:, :, None])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_model_of_p910_is_where_its_equations_hold(seed: int) -> None:
    """MOS, bias and inconsistency of ITU-T P.910's alternating projection, each from the others."""
    table = opinions(seed, raters=15)
    found = scale(table, "p910-ml")
    x = table.ratings[:, :, 0]
    bias = np.array([found.bias[name] for name in table.raters])
    error = np.array([found.inconsistency[name] for name in table.raters])
    weight = np.where(np.isnan(x), 0, 1 / error**2)
    value = np.nansum(weight * (x - bias), 1) / weight.sum(1)
    assert found.value == pytest.approx(value, abs=1e-5)
    assert bias == pytest.approx(np.nanmean(x - found.value[:, None], 0), abs=1e-5)
    assert error == pytest.approx(np.nanstd(x - found.value[:, None] - bias, 0), abs=1e-5)


@pytest.mark.slow
def test_with_many_ratings_ours_is_sureal_s_solution() -> None:
    table = opinions(0, pictures=300, raters=40, missing=0)
    ours, theirs = scale(table, "p910"), scale(table, "p910-ml")
    assert ours.value == pytest.approx(theirs.value, abs=0.02)
    for name in table.raters:
        assert ours.bias[name] == pytest.approx(theirs.bias[name], abs=0.02)
        assert ours.inconsistency[name] == pytest.approx(theirs.inconsistency[name], rel=0.05)


def test_the_mean_is_the_mean() -> None:
    table = opinions(0)
    found = scale(table, "mean")
    x = table.ratings[:, :, 0]
    assert found.value == pytest.approx(np.nanmean(x, 1))
    known = (~np.isnan(x)).sum(1) > 1
    assert found.spread[known] == pytest.approx(np.nanstd(x[known], 1, ddof=1))
    assert found.count.tolist() == (~np.isnan(x)).sum(1).tolist()


@pytest.mark.slow
def test_bt500_rejects_whom_its_annex_rejects() -> None:
    """ITU-R BT.500, annex 1, 2.3.1, written out."""
    _, judgements = rated(0, pictures=40)
    table = tabulate(judgements)
    x = table.ratings[:, :, 0]
    over, under = np.zeros(len(table.raters)), np.zeros(len(table.raters))
    for row in x:
        width = (2 if 2 <= kurtosis(row, fisher=False) <= 4 else 20**0.5) * row.std()
        over += row >= row.mean() + width
        under += row <= row.mean() - width
    with np.errstate(invalid="ignore"):
        out = ((over + under) / len(x) > 0.05) & (abs(over - under) / (over + under) < 0.3)
    assert set(scale(table, "bt500").rejected) == {
        n for n, o in zip(table.raters, out, strict=True) if o
    }
    assert out.any()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bt500", "p913"])
def test_whoever_is_rejected_counts_no_more(model: Model) -> None:
    """12 people, two of them at random; by P.913, clause 12.4, less each one's mean difference."""
    rng = np.random.default_rng(3)
    truth = rng.uniform(2, 4, 60)
    steady = truth[:, None] + np.linspace(-0.3, 0.3, 10) + 0.3 * rng.normal(size=(60, 10))
    x: np.ndarray = np.clip(np.round(np.hstack([steady, rng.uniform(0.5, 5.5, (60, 2))])), 1, 5)
    names = tuple(f"r{k:02}" for k in range(12))
    found = scale(Opinions(tuple(f"{k}" for k in range(60)), names, x[:, :, None]), model)
    assert found.rejected == names[10:]
    if model == "p913":
        x = x - (x - x.mean(1, keepdims=True)).mean(0)
    spread = x[:, :10].std(1, ddof=1)
    assert found.count.tolist() == [10] * 60
    assert found.spread == pytest.approx(spread)
    assert found.error == pytest.approx(np.maximum(spread, 12**-0.5) / 10**0.5)


@pytest.mark.slow
def test_sureal_writes_nothing_on_our_output(capfd: pytest.CaptureFixture[str]) -> None:
    run_model(opinions(0), "p910-ml")
    assert capfd.readouterr() == ("", "")


def test_too_few_people_are_said_to_be() -> None:
    table = opinions(0, raters=2, missing=0)
    assert suited_model(table) == "mean"
    with pytest.raises(LabelsError, match=r"2 people: the model p910 needs 3: take --model mean"):
        scale(table, "p910")
    visitor = opinions(0, raters=5, missing=0)
    visitor.ratings[3:, 4] = np.nan
    assert suited_model(visitor) == "mean"
    with pytest.raises(LabelsError, match=r"r4 rated under 5 pictures .* --leave-out them"):
        scale(visitor, "p910")


@pytest.mark.slow
def test_nobody_is_taken_for_infallible() -> None:
    """With few people the likelihood of P.910's model runs away, and its MOS with it."""
    ran_away = 0
    for seed in range(6):
        truth, judgements = rated(seed, 100, ("honest",) * 4 + ("noisy",))
        table = tabulate(judgements)
        assert min(scale(table, "p910").inconsistency.values()) > 0.35
        assert rmse(table, truth, "p910") < rmse(table, truth, "mean") + 0.01
        try:
            scale(table, "p910-ml")
        except LabelsError as error:
            ran_away += "for infallible" in str(error)
    assert ran_away >= 2


@pytest.mark.slow
def test_a_model_that_leaves_a_picture_without_a_rating_says_so() -> None:
    _, judgements = rated(5, share=0.3)
    with pytest.raises(LabelsError, match=r"bt500 leaves none of 0000.png: take --model mean"):
        scale(tabulate(judgements), "bt500")


# Comparisons


def comparisons(seed: int, pictures: int = 12, count: int = 80) -> list[Comparison]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.5, pictures)
    found = []
    for _ in range(count):
        a, b = (int(k) for k in rng.choice(pictures, 2, replace=False))
        found.append((a, b, float(truth[a] - truth[b] + rng.normal() > 0)))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_our_posterior_is_near_choix_own(seed: int) -> None:
    """Laplace's approximation beside expectation propagation, which is nearer the truth."""
    given_pairs = comparisons(seed)
    ours, theirs = posterior(flat_prior(12), given_pairs), latent_scale(12, given_pairs)
    assert np.corrcoef(ours.mean, theirs.mean)[0, 1] > 0.995
    assert np.diag(ours.covariance) == pytest.approx(np.diag(theirs.covariance), rel=0.2)


def test_the_mode_is_that_of_choix() -> None:
    """Its maximum-likelihood fit of the probit model, under the same penalty."""
    given_pairs = comparisons(5)

    def objective(mean: np.ndarray) -> float:
        apart = np.array([mean[a] - mean[b] if w else mean[b] - mean[a] for a, b, w in given_pairs])
        return float(-norm.logcdf(apart).sum() + (mean**2).sum() / 8)

    from scipy.optimize import minimize

    best = minimize(objective, np.zeros(12), method="BFGS", options={"gtol": 1e-7})
    assert posterior(flat_prior(12), given_pairs).mean == pytest.approx(best.x, abs=1e-4)


def test_a_tie_says_that_two_are_alike_and_no_more_than_an_answer_does() -> None:
    prior = flat_prior(2)
    for scaled in (latent_scale(2, [(0, 1, 0.5)] * 8), posterior(prior, [(0, 1, 0.5)] * 8)):
        assert scaled.mean == pytest.approx([0, 0], abs=1e-3)
    one, two = latent_scale(2, [(0, 1, 1.0)]), latent_scale(2, [(0, 1, 1.0), (0, 1, 0.5)])
    assert two.variance()[0, 1] < one.variance()[0, 1]
    assert two.mean[0] < one.mean[0]
    plain = choix.ep_pairwise(2, [(0, 1)], 0.25, "probit")[0]
    assert one.mean == pytest.approx(plain)


def test_a_tie_moves_no_picture_that_has_nothing_to_do_with_it() -> None:
    """What three wins make of two pictures is asked of numerical integration."""
    wins: list[Comparison] = [(0, 1, 1.0)] * 3
    latent = latent_scale(4, [*wins, (2, 3, 0.5)])
    apart = np.linspace(-30, 30, 60_001)
    density = norm.pdf(apart, 0, 8**0.5) * norm.cdf(apart) ** 3
    expected = (apart * density).sum() / density.sum()
    assert expected == pytest.approx(2.7, abs=0.02)
    assert latent.mean[0] - latent.mean[1] == pytest.approx(expected, abs=0.02)
    assert latent.mean[2:] == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize(("wins", "ties"), [(0, 1), (0, 8), (1, 1), (3, 1), (8, 2)])
def test_a_tie_is_half_an_answer_each_way(wins: int, ties: int) -> None:
    """Numerical integration of the posterior of the difference between two pictures."""
    latent = latent_scale(2, [(0, 1, 1.0)] * wins + [(0, 1, 0.5)] * ties)
    apart = np.linspace(-30, 30, 60_001)
    both = norm.logcdf(apart) + norm.logcdf(-apart)
    density = norm.pdf(apart, 0, 8**0.5) * np.exp(wins * norm.logcdf(apart) + ties * both / 2)
    density /= density.sum()
    mean = (apart * density).sum()
    deviation = ((apart - mean) ** 2 * density).sum() ** 0.5
    assert latent.mean[0] - latent.mean[1] == pytest.approx(mean, abs=0.15)
    assert latent.variance()[0, 1] ** 0.5 == pytest.approx(deviation, rel=0.06)


@pytest.mark.slow
@settings(max_examples=25)
@given(mean=st.floats(-3, 3), variance=st.floats(0.05, 8))
def test_the_expected_information_is_the_integral(mean: float, variance: float) -> None:
    """In closed form to 0.02 bits of what numerical integration of its definition gives."""

    def entropy(p: float) -> float:
        return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)

    def noise(apart: float) -> float:
        return entropy(float(norm.cdf(apart))) * float(norm.pdf(apart, mean, variance**0.5))

    reach = 8 * variance**0.5
    expected = entropy(float(norm.cdf(mean / math.sqrt(1 + variance))))
    expected -= quad(noise, mean - reach, mean + reach, limit=200)[0]
    latent = Latent(np.array([mean, 0.0]), np.diag([variance / 2, variance / 2]))
    assert information(latent)[0, 1] == pytest.approx(expected, abs=0.02)


def test_pairs_that_are_taken_are_not_chosen_and_none_shares_a_picture() -> None:
    chosen = best_pairs(flat_prior(6), [frozenset((0, 1))], 3)
    assert (0, 1) not in chosen
    assert sorted(k for pair in chosen for k in pair) == list(range(6))
    everything = [frozenset((a, b)) for a in range(6) for b in range(a)]
    assert best_pairs(flat_prior(6), everything, 3) == []


# Both


def both(seed: int, pairs: int = 300) -> tuple[np.ndarray, list[Judgement]]:
    """40 pictures; 20 of them rated by 5 people, all compared."""
    sorts: Sequence[Sort] = ("honest",) * 5
    truth, judgements = rated(seed, 40, sorts)
    kept = [one for one in judgements if int(one.pictures[0][:4]) < 20]
    rng = np.random.default_rng(seed)
    for _ in range(pairs):
        a, b = (int(k) for k in rng.choice(40, 2, replace=False))
        better = "left" if truth[a] - truth[b] + 0.6 * rng.normal() > 0 else "right"
        kept.append(Judgement("ann", "pair", (f"{a:04}.png", f"{b:04}.png"), better))
    return truth, kept


@pytest.mark.slow
def test_pictures_that_were_only_compared_get_a_mos_and_its_interval_holds() -> None:
    inside = total = 0
    for seed in range(4):
        truth, judgements = both(seed)
        joined = join(scaled(judgements), judgements)
        rows = [int(name[:4]) for name in joined.pictures]
        off = joined.value - truth[rows]
        compared = np.array(rows) >= 20
        assert len(rows) == 40
        assert np.sqrt(np.mean(off[compared] ** 2)) < 0.5
        assert (joined.ratings[compared] == 0).all()
        inside += int((abs(off) < 1.96 * joined.error).sum())
        total += 40
    # Of 95 % intervals: they know of chance, not of a bias that all share, as ACR's ends make one.
    assert 0.85 < inside / total <= 1


@pytest.mark.slow
def test_comparisons_make_the_mos_of_rated_pictures_more_exact() -> None:
    for seed in range(3):
        _, judgements = both(seed)
        alone = scaled(judgements)
        joined = join(alone, judgements)
        rows = [joined.pictures.index(name) for name in alone.pictures]
        assert (joined.error[rows] < alone.error).all()


def test_too_few_shared_pictures_are_not_joined_by_guess() -> None:
    _, judgements = both(0)
    kept = [one for one in judgements if one.kind == "pair" or int(one.pictures[0][:4]) < 3]
    joined = join(scale(tabulate(kept), "mean"), kept)
    assert joined.unit is None
    assert len(joined.pictures) == 3
    assert len(joined.unplaced) == 37


# Raters


def rating(rater: str, picture: int, value: float, **more: object) -> Judgement:
    return Judgement(rater, "rating", (f"{picture}.png",), value, **more)  # type: ignore[arg-type]


def crowd_with(odd: Sequence[Judgement]) -> list[Judgement]:
    rng = np.random.default_rng(0)
    usual = []
    for rater in "abcd":
        for k in range(40):
            value = int(np.clip(round(1 + k / 10 + 0.5 * rng.normal()), 1, 5))
            usual.append(rating(rater, k, value, seconds=3.0, order=float(k)))
    return [*usual, *odd]


def of(name: str, judgements: Sequence[Judgement]):  # type: ignore[no-untyped-def]
    return next(one for one in report(judgements, None) if one.rater == name)


def test_whoever_answers_everything_the_same_is_named_and_stays_in() -> None:
    mixed = np.random.default_rng(1).permutation(40).tolist()
    odd = [rating("x", k, 4, seconds=0.3, order=float(o)) for o, k in enumerate(mixed)]
    judgements = crowd_with(odd)
    found = of("x", judgements)
    assert any("rates 4 in 40 of 40" in reason for reason in found.leave_out)
    assert found.notes == ("100% of answers in under 0.6 s",)
    assert all(not of(name, judgements).leave_out for name in "abcd")
    assert "x" in tabulate(judgements).raters


def test_drift_is_seen() -> None:
    odd = [
        rating("x", k, min(5, max(1, 1 + k / 10 + 1.5 * o / 39)), order=float(o))
        for o, k in enumerate(np.random.default_rng(1).permutation(40).tolist())
    ]
    found = of("x", crowd_with(odd))
    assert found.drift == pytest.approx(1.2, abs=0.5)
    assert any("drift" in note for note in found.notes)


def test_a_preference_for_the_left_side_is_seen() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        Judgement("x", "pair", tuple(f"{k}.png" for k in rng.choice(40, 2, replace=False)), "left")
        for _ in range(30)
    ]
    found = of("x", crowd_with(pairs))
    assert found.left == 1.0
    assert "chooses the left side in 100%" in found.notes


def test_failed_golden_questions_are_counted() -> None:
    odd = [rating("x", k, 1 + k / 10) for k in range(40)]
    odd += [rating("x", 50 + k, 5, role="golden", right=k > 2) for k in range(6)]
    found = of("x", crowd_with(odd))
    assert found.golden == (3, 6)
    assert found.leave_out == ("failed 3 of 6 golden questions",)


# Files


def test_what_is_written_is_what_fit_and_grpo_read(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for k in range(40):
        (tmp_path / "pictures" / f"{k:04}.png").touch()
    truth, judgements = both(0)
    judgements.append(
        Judgement("ann", "severity", ("0001.png",), "obvious", about={"distortion": "blur"})
    )
    judgements.append(
        Judgement("ben", "severity", ("0001.png",), "none", about={"distortion": "noise"})
    )
    folder = tmp_path / "pictures"
    joined = join(scaled(judgements), judgements)
    write_labels(joined, folder, tmp_path / "labels.csv")
    write_pairs(judgements, folder, tmp_path / "pairs.csv")
    write_severities(judgements, folder, tmp_path / "severities.csv")
    labels = read_labels(tmp_path / "labels.csv", scale=(1, 5))
    assert len(labels.paths) == 40
    assert labels.std is not None
    for path, mos in zip(labels.paths, labels.mos, strict=True):
        value = joined.value[joined.pictures.index(path.name)]
        assert mos == pytest.approx(min(5, max(1, value)), abs=1e-4)
    pairs = read_pairs(tmp_path / "pairs.csv")
    asked = {frozenset(one.pictures) for one in judgements if one.kind == "pair"}
    assert len(pairs.a) == len(asked)
    agree = [
        (truth[int(pairs.paths[a].stem)] > truth[int(pairs.paths[b].stem)]) == (better == 1.0)
        for a, b, better in zip(pairs.a, pairs.b, pairs.preference, strict=True)
        if better != 0.5
    ]
    assert np.mean(agree) > 0.8
    with (tmp_path / "severities.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["distortion"], row["severity"]) == ("blur", "obvious")


def test_nothing_is_wrong_only_where_everything_was_asked_about(tmp_path: Path) -> None:
    def said(picture: str, **words: str) -> list[Judgement]:
        return [
            Judgement(f"r{k}", "severity", (picture,), word, about={"distortion": name})
            for name, both in words.items()
            for k, word in enumerate(both.split())
        ]

    judgements = [
        *said("asked-of-blur.png", blur="none"),
        *said("clean.png", blur="none", noise="none", compression="none", darken="none none"),
        *said("halves.png", blur="none slight"),
        *said("median.png", blur="none none serious", noise="moderate"),
    ]
    target = tmp_path / "severities.csv"
    assert write_severities(judgements, tmp_path, target) == 3
    assert target.read_text().splitlines() == [
        "path,distortion,severity",
        "clean.png,null,null",
        "halves.png,blur,slight",
        "median.png,noise,moderate",
    ]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_answers_come_back_from_a_file_as_they_went(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "photos").mkdir()
    for k in range(40):
        (tmp_path / "photos" / f"{k:04}.png").touch()
    _, judgements = both(0, pairs=30)
    from qinsight_plugin.feedback.judgements import Gathered

    files = export(Gathered(tuple(judgements)), tmp_path / f"all{suffix}", "photos")
    back = [
        one
        for path in files
        for one in gather(path, images=tmp_path / "photos", scale=(1, 5)).judgements
    ]

    def key(one: Judgement) -> tuple[object, ...]:
        return one.rater, one.kind, one.pictures, one.value

    assert sorted(map(key, back), key=str) == sorted(map(key, judgements), key=str)


def test_an_export_of_label_studio_is_read(tmp_path: Path) -> None:
    """As its documentation shows it: uploaded files, people by number, what was cancelled."""
    for name in ("cat.jpg", "a dog.jpg"):
        (tmp_path / name).touch()

    def task(image: str, rating: int, **more: object) -> dict[str, object]:
        result = {"type": "rating", "from_name": "q", "to_name": "img", "value": {"rating": rating}}
        annotation = {"completed_by": 10, "lead_time": 4.288, "result": [result], **more}
        return {"data": {"image": image}, "annotations": [annotation], "predictions": []}

    tasks = [
        task("/data/upload/1/1a2b3c4d-cat.jpg", 4),
        task("/data/local-files/?d=pets/a%20dog.jpg", 2),
        task("https://example.com/pets/cat.jpg?x=1", 1, was_cancelled=True),
    ]
    source = tmp_path / "export.json"
    source.write_text(json.dumps(tasks))
    found = gather(source, scale=(1, 5)).judgements
    assert [(one.rater, one.pictures, one.value, one.seconds) for one in found] == [
        ("10", ("cat.jpg",), 4, 4.288),
        ("10", ("a dog.jpg",), 2, 4.288),
    ]
    with pytest.raises(LabelsError, match="scale of its ratings"):
        gather(source)
    (tmp_path / "cat.jpg").unlink()
    with pytest.raises(LabelsError, match="no such picture"):
        gather(source, scale=(1, 5))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("x.csv", "rater,path,rating\nann,a.png,7\n", "no number from 1 to 5"),
        ("x.csv", "rater,path,rating\n,a.png,3\n", "nobody is named"),
        ("x.csv", "rater,a,b,better\nann,a.png,b.png,maybe\n", "the answer is unknown"),
        ("x.csv", "path,rating\na.png,3\n", "no column for the rater"),
        ("x.json", "{}", "not a list of tasks"),
        ("x.json", "[", "cannot be read as JSON"),
        ("x.json", "[]", "no result of type rating"),
        ("x.sqlite", "text", "cannot be opened"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(
    tmp_path: Path, name: str, text: str, why: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises((LabelsError, ConfigError), match=why):
        gather(tmp_path / name, scale=(1, 5))


def test_the_command_says_what_people_are_like_and_leaves_nobody_out_by_itself(
    tmp_path: Path,
) -> None:
    def qinsight(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    _, judgements = rated(0, 20, ("honest",) * 10 + ("constant",))
    for k in range(20):
        (tmp_path / f"{k:04}.png").touch()
    from qinsight_plugin.feedback.judgement_table import to_csv

    (tmp_path / "all.csv").write_text(to_csv(judgements, "rating"))
    done = qinsight(
        "scale", tmp_path / "all.csv", "--scale", "1:5", "--out", tmp_path / "labels.csv"
    )
    assert done.exit_code == 0, done.output
    assert (
        "constant-10: rates 4 in 20 of 20 cases; to leave them out: --leave-out 'constant-10'"
        in done.output
    )
    assert re.search("20 pictures by the model p910: MOS within", done.output)
    left = qinsight(
        "scale", tmp_path / "all.csv", "--scale", "1:5", "--json", "--leave-out", "constant-10"
    )
    told = json.loads(left.output)
    assert [one["rater"] for one in told["raters"]] == [f"honest-{k}" for k in range(10)]
    unknown = qinsight("scale", tmp_path / "all.csv", "--scale", "1:5", "--leave-out", "who")
    assert "there is no such rater" in str(unknown.exception)


# Made-up raters: does it help?


@pytest.mark.slow
def test_spammers_are_found_and_the_model_beats_the_mean() -> None:
    found = screening(range(5))
    assert found.precision >= 0.9
    assert found.recall >= 0.9
    assert all(
        model < mean for model, mean in zip(found.errors["p910"], found.errors["mean"], strict=True)
    )


@pytest.mark.slow
def test_an_honest_crowd_loses_nobody_and_little_by_the_model() -> None:
    for seed in range(3):
        truth, judgements = rated(seed, sorts=("honest",) * 12)
        assert [one.rater for one in report(judgements, None) if one.leave_out] == []
        table = tabulate(judgements)
        assert rmse(table, truth, "p910") < rmse(table, truth, "mean") + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_chosen_pairs_need_half_the_comparisons_of_random_ones(seed: int) -> None:
    """From the student's scores (errors of 0.5) to a rank correlation of 0.97."""
    chosen = needed(comparing(seed, True, total=400, student_error=0.5), 0.97)
    random = needed(comparing(seed, False, total=800, student_error=0.5), 0.97)
    assert chosen is not None
    assert random is None or chosen <= random / 2
