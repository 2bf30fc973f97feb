"""What is said of labels before a training; and which pictures stand for a folder."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner
from PIL import Image
from scipy.stats import ttest_1samp

from qinsight_plugin.cli.label_command import people
from qinsight_plugin.cli.label_study import adjust_block, study_of
from qinsight_plugin.cli.main import cli
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.feedback.adjustments import adjustment, exposure
from qinsight_plugin.feedback.checks import Looks, check
from qinsight_plugin.feedback.checks_page import findings, write_page
from qinsight_plugin.feedback.coverage import describe, diverse, least_sure
from qinsight_plugin.feedback.duplicates import near_duplicates, thumbnail
from qinsight_plugin.feedback.showing import serve
from qinsight_plugin.labels import Labels
from qinsight_plugin.records import Distortion, Score

from .conftest import ROOT, Pixels

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def photographs() -> list[Pixels]:
    return [getattr(skimage.data, name)() for name in PHOTOGRAPHS]


def versions(pixels: Pixels) -> list[Pixels]:
    """The same picture as it comes back from other hands."""
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    smaller = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3))
    brighter = Image.eval(picture, lambda level: min(255, round(level * 1.1)))
    return [np.asarray(Image.open(buffer)), np.asarray(smaller), np.asarray(brighter)]


# Near-duplicates and coverage


def test_other_versions_of_a_picture_are_found_and_other_pictures_are_not() -> None:
    everything = [own for pixels in photographs() for own in (pixels, *versions(pixels))]
    groups = near_duplicates([thumbnail(pixels) for pixels in everything])
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    windows = [photographs()[0][k : k + 128, k : k + 128] for k in range(0, 384, 64)]
    assert near_duplicates([thumbnail(window) for window in windows]) == []
    assert near_duplicates([]) == []


def kinds(sizes: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Windows of photographs: of each photograph that many, and whose they are."""
    rng = np.random.default_rng(0)
    features, owners = [], []
    for owner, (pixels, size) in enumerate(zip(photographs(), sizes, strict=True)):
        for _ in range(size):
            top, left = rng.integers(0, 30, 2)
            features.append(describe(pixels[top : top + 220, left : left + 220]))
            owners.append(owner)
    return np.array(features), owners


@pytest.mark.slow
def test_a_few_pictures_cover_what_a_random_few_would_miss() -> None:
    features, owners = kinds([180, 6, 4, 10])
    chosen = diverse(features, 8)
    assert len(set(chosen)) == 8
    assert {owners[k] for k in chosen} == {0, 1, 2, 3}
    random = np.random.default_rng(0)
    missed = [len({owners[k] for k in random.choice(200, 8, replace=False)}) < 4 for _ in range(50)]
    assert np.mean(missed) > 0.8


def test_as_many_are_chosen_as_were_asked_for_even_of_pictures_all_alike() -> None:
    features = np.repeat(kinds([1, 1, 0, 0])[0], 10, 0)
    assert len(set(diverse(features, 7))) == 7
    assert diverse(features, 100) == list(range(20))


def test_who_is_unsure_or_disagrees_with_the_teacher_comes_first() -> None:
    assert least_sure([3, 3, 3], [0.1, 0.9, 0.4]) == [1, 2, 0]
    order = least_sure([3, 3, 3, 3], [0.1, 0.9, 0.4, 0.2], [5, 3, 3, 3.1])
    assert set(order[:2]) == {0, 1}


# Findings


def labelled(**columns: object) -> tuple[Labels, Looks]:
    features, owners = kinds([20, 20, 20, 20])
    rng = np.random.default_rng(0)
    mos = tuple(float(value) for value in rng.uniform(2.2, 5, 80))
    paths = tuple(Path(f"{k}.png") for k in range(80))
    thumbnails = tuple(rng.normal(size=(32, 32)) for _ in owners)
    return Labels(paths, mos, **columns), Looks(features, thumbnails)  # type: ignore[arg-type]


def test_the_same_picture_in_two_splits_is_a_leak_unless_it_is_known() -> None:
    labels, looks = labelled(split=("train", "test") * 40)
    alike = (looks.thumbnails[0], *looks.thumbnails[:79])
    looks = Looks(looks.features, alike)
    found = check(labels, looks, [None] * 80)
    assert found.leaks == found.duplicates == ((0, 1),)
    assert next(findings(found, labels))[0] is False
    known, _ = labelled(split=("train", "test") * 40, cluster=("same",) * 2 + ("",) * 78)
    assert check(known, looks, [None] * 80).leaks == ()


def test_a_thin_stretch_of_the_scale_is_named() -> None:
    labels, looks = labelled()
    found = check(labels, looks, [None] * 80)
    assert found.thin == (1.0, 1.5)
    assert sum(found.bins.values()) == 80
    counts, _ = np.histogram(labels.mos, np.arange(1, 5.5, 0.5))
    assert list(found.bins.values()) == counts.tolist()


def test_a_bias_is_named_with_its_interval_and_chance_is_not() -> None:
    labels, looks = labelled(group=tuple("ab" * 40))
    rng = np.random.default_rng(1)
    off = [0.8 * (k % 2) + 0.3 * rng.normal() for k in range(80)]
    scores = [Score(mos + o) for mos, o in zip(labels.mos, off, strict=True)]
    found = {bias.part: bias for bias in check(labels, looks, scores).biases}
    assert found["group b"].sure
    assert not found["group a"].sure
    interval = ttest_1samp(off[1::2], 0).confidence_interval(0.95)
    assert (found["group b"].low, found["group b"].high) == pytest.approx(tuple(interval))
    assert found["group b"].bias == pytest.approx(np.mean(off[1::2]))
    teams = {"lab": [(k, labels.mos[k] - 1.0 + 0.1 * rng.normal()) for k in range(20)]}
    parts = check(labels, looks, [Score(mos) for mos in labels.mos], teams=teams).biases
    (lab,) = (bias for bias in parts if bias.part == "team lab")
    assert lab.sure
    assert lab.bias == pytest.approx(1.0, abs=0.1)


def test_a_teams_ratings_of_one_picture_are_no_independent_witnesses_of_a_bias() -> None:
    """They share the score's error: 12 people's ratings of 10 pictures are 10 observations."""
    labels, looks = labelled()
    rng = np.random.default_rng(0)
    scores = [Score(mos + 0.5 * rng.normal()) for mos in labels.mos]
    people = [12] * 9 + [3]
    ratings = [(k, labels.mos[k] + 0.3 * rng.normal()) for k in range(10) for _ in range(people[k])]
    parts = check(labels, looks, scores, teams={"lab": ratings[::-1]}).biases
    (lab,) = (bias for bias in parts if bias.part == "team lab")
    off = [scores[k].value - np.mean([r for own, r in ratings if own == k]) for k in range(10)]
    interval = ttest_1samp(off, 0).confidence_interval(0.95)
    assert lab.n == 10
    assert sorted(lab.pictures) == list(range(10))
    assert (lab.low, lab.bias, lab.high) == pytest.approx((interval[0], np.mean(off), interval[1]))


def test_kinds_of_picture_without_a_label_are_found() -> None:
    features, owners = kinds([20, 20, 20, 20])
    looks = Looks(features, (np.zeros((32, 32)),) * 80)
    some = [k for k, owner in enumerate(owners) if owner != 2]
    labels = Labels(tuple(Path(f"{k}") for k in some), tuple(2.0 + k / 80 for k in some))
    own = Looks(features[some], tuple(np.random.default_rng(k).normal(size=(32, 32)) for k in some))
    unlabelled = check(labels, own, [None] * len(some), folder=looks).unlabelled
    assert unlabelled is not None
    missing = [k for group in unlabelled for k in group]
    assert {owners[k] for k in missing} == {2}
    assert len(missing) >= 15


def test_disagreement_and_distortions_are_counted() -> None:
    labels, looks = labelled(std=tuple(k / 100 for k in range(80)))
    scores = [Score(3.0, (Distortion("blur", "obvious"),))] * 30 + [Score(3.0, ())] * 50
    found = check(labels, looks, scores)
    assert found.disagreement == tuple(range(79, 67, -1))
    assert found.distortions == {("blur", "obvious"): 30}


def test_the_page_holds_its_pictures_and_no_name_can_break_it(tmp_path: Path) -> None:
    name = tmp_path / "<b>&.png"
    for path in (name, tmp_path / "other.png"):
        Image.fromarray(skimage.data.coffee()).save(path)
    labels = Labels((name, tmp_path / "other.png"), (2.0, 4.0), split=("train", "test"))
    thumb = thumbnail(skimage.data.coffee())
    looks = Looks(np.stack([describe(skimage.data.coffee())] * 2), (thumb, thumb))
    page = write_page(check(labels, looks, [None, None]), labels, [], "l<i>.csv")
    assert "<b>&" not in page
    assert "l<i>" not in page
    assert "1 groups of near-duplicates are in more than one split" in page
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "http" not in page


# What is shown


def test_browsers_get_the_file_itself_where_they_show_it_and_png_where_not(tmp_path: Path) -> None:
    pixels = skimage.data.coffee()
    picture = Image.fromarray(pixels)
    for name in ("a.jpg", "a.png", "a.webp"):
        picture.save(tmp_path / name)
        assert serve(tmp_path / name).data == (tmp_path / name).read_bytes()
    picture.save(tmp_path / "a.tif")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.save(tmp_path / "moves.webp", save_all=True, append_images=[picture.rotate(90)])
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("a.tif", "cmyk.jpg", "moves.webp", "deep.png"):
        served = serve(tmp_path / name)
        assert served.media_type == "image/png"
        assert Image.open(io.BytesIO(served.data)).size == picture.size
    lossless = np.asarray(Image.open(io.BytesIO(serve(tmp_path / "a.tif").data)))
    assert np.array_equal(lossless, pixels)


@pytest.mark.slow
def test_heic_is_converted(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    pixels = skimage.data.coffee()
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=-1)
    shown = np.asarray(Image.open(io.BytesIO(serve(tmp_path / "a.heic").data)), np.float64)
    assert np.abs(shown - pixels).mean() < 2


def test_exposure_is_in_stops_of_light() -> None:
    """One stop doubles light; 188 is sRGB's code for half of it (IEC 61966-2-1)."""
    grey = np.full((1, 1, 3), 188, np.uint8)
    assert exposure(grey, 1)[0, 0].tolist() == pytest.approx([255] * 3, abs=2)
    assert exposure(grey, 0)[0, 0].tolist() == [188] * 3
    assert exposure(np.full((1, 1, 3), 255, np.uint8), -1)[0, 0, 0] == pytest.approx(188, abs=1)


def test_any_function_is_a_slider_and_a_misspelt_one_is_named() -> None:
    block = adjust_block("numpy:clip:0:255=3")
    assert (block.count, block.about["low"], block.about["label"]) == (3, 0.0, "clip")
    with pytest.raises(ConfigError, match="does not load"):
        adjustment("numpy:no_such")
    with pytest.raises(ConfigError, match="not known"):
        adjustment("warmth")


# The commands


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return done.exit_code, f"{done.output} {done.exception or ''}"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--rater", "ann", "--rater", "Ann@lab"), "two people of one name"),
        (("--rater", "@lab"), "a name is empty"),
        (("--severity", "rain=3"), "rain: not one of noise"),
        (("--severity", "blur"), "write it as NAME=N"),
        (("--adjust", "numpy:clip=3"), "give its range"),
        (("--ratings", 0), "nothing is asked"),
        ((), "no picture in"),
    ],
)
def test_label_says_in_a_line_what_is_wrong(
    tmp_path: Path, arguments: tuple[object, ...], why: str
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 junk")
    code, said = invoke("label", tmp_path, "--port", 0, *arguments)
    assert code != 0
    assert why in said


def test_golden_answers_must_lie_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "outside.png")
    (tmp_path / "golden.csv").write_text("path,mos\n../outside.png,3\n")
    code, said = invoke("label", tmp_path / "photos", "--golden", tmp_path / "golden.csv")
    assert code == 1
    assert re.search(r"outside.png is not in .*: only what lies there is shown", said)


def test_people_and_what_they_are_asked() -> None:
    assert people(["ann", "ben@lab"]) == [("ann", ""), ("ben", "lab")]
    assert len(people([])) == 1
    usual = {"best": 0, "set_size": 4, "severities": (), "adjusts": ()}
    study = study_of(Path(), None, people=2, ratings=None, pairs=60, **usual)  # type: ignore[arg-type]
    assert [(block.kind, block.count) for block in study.blocks] == [("pair", 60)]
    assert study.compared == 48
    study = study_of(Path(), None, people=1, ratings=None, pairs=0, **usual)  # type: ignore[arg-type]
    assert [(block.kind, block.count) for block in study.blocks] == [("rating", 100)]


@pytest.mark.parametrize(
    "place",
    ["README.md", "qinsight_plugin/feedback/README.md", "qinsight_plugin/cli/label_command.py"],
)
def test_what_the_examples_ask_for_is_enough_to_learn_from(place: str) -> None:
    """A hundred answers are not to be given in vain: `fit` refuses fewer than 50 pictures."""
    text = (ROOT / place).read_text("utf-8")
    (asked,) = re.findall(r"qinsight label photos/ .*--ratings (\d+) --pairs", text)
    assert int(asked) >= 50


@pytest.mark.slow
def test_check_writes_a_page_and_groups_that_fit_reads(tmp_path: Path) -> None:
    rows = ["path,mos,split"]
    for k, pixels in enumerate(photographs()):
        for version, own in enumerate((pixels, *versions(pixels))):
            Image.fromarray(own).save(tmp_path / f"{k}-{version}.png")
            rows.append(f"{k}-{version}.png,{4.5 - version},{'train' if version else 'test'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    out, groups = tmp_path / "checks.html", tmp_path / "grouped.csv"
    code, said = invoke(
        "check", tmp_path / "labels.csv", "--scale", "1:5", "--out", out,
        "--folder", tmp_path, "--groups", groups,
    )  # fmt: skip
    assert code == 0, said
    assert "check  4 groups of near-duplicates are in more than one split" in said
    assert out.read_text().count("<figure>") > 16
    _, again = invoke("check", groups, "--scale", "1:5", "--out", out)
    assert "ok     0 groups of near-duplicates are in more than one split" in again
