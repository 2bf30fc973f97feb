"""Training of whole networks on pictures: the packed pictures, imitation, and teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.labels import Labels
from qinsight_plugin.student.cache import CELL, STEP, PictureCache, StemCache
from qinsight_plugin.student.export import load_student
from qinsight_plugin.student.fit import TrainingData, batches_of_one_view, fit
from qinsight_plugin.student.imitate import common_ends, features_at, imitate
from qinsight_plugin.student.layouts import LAYOUTS, lite_parts
from qinsight_plugin.student.network import Student
from qinsight_plugin.student.training import Job, Trainer
from qinsight_plugin.student.views import RatedSet, cache_rated

from .conftest import Pixels
from .toy import toy_recipe, toy_student, write_pictures

SIDE = STEP + 32


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[PictureCache]:
    with closing(PictureCache(tmp_path / "pictures")) as cache:
        yield cache


def noise(number: int, height: int = SIDE, width: int = SIDE) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def test_pictures_come_back_as_they_were(cache: PictureCache) -> None:
    records = [cache.add(str(n), noise(n, SIDE + n, SIDE - n)) for n in range(3)]
    for n, record in enumerate(records):
        assert (cache.whole(record)[0].numpy() == noise(n, SIDE + n, SIDE - n)).all()
    later = cache.add("later", noise(9))
    assert (cache.whole(later)[0].numpy() == noise(9)).all()


def test_a_window_is_a_part_of_the_picture_or_its_mirror_image(cache: PictureCache) -> None:
    record, rng = cache.add("a", noise(0)), np.random.default_rng(0)
    mirrored = 0
    for _ in range(20):
        (window,) = cache.cropped([record], STEP // CELL, rng).numpy()
        assert window.shape == (STEP, STEP, 3)
        places = {
            (top, left, flip)
            for flip, picture in enumerate((noise(0), noise(0)[:, ::-1]))
            for top in range(SIDE - STEP + 1)
            for left in range(SIDE - STEP + 1)
            if (picture[top, left] == window[0, 0]).all()
            and (picture[top : top + STEP, left : left + STEP] == window).all()
        }
        assert len(places) == 1
        mirrored += places.pop()[2]
    assert 3 <= mirrored <= 17


def test_versions_of_a_picture_share_their_window(cache: PictureCache) -> None:
    """Each picture has a window of its own, and each version of it the same one."""
    versions = [[cache.add(f"{n}:{k}", noise(n) ^ np.uint8(k)) for k in range(3)] for n in range(2)]
    windows = cache.aligned(versions, STEP // CELL, np.random.default_rng(0)).numpy()
    assert windows.shape == (6, STEP, STEP, 3)
    for n in range(2):
        for k in range(3):
            assert (windows[3 * n + k] == windows[3 * n] ^ np.uint8(k)).all()


def test_pictures_smaller_than_a_step_are_seen_as_large_as_they_are(cache: PictureCache) -> None:
    records = [cache.add("a", noise(0, 50, 70)), cache.add("b", noise(1, 80, 60))]
    assert cache.cropped(records, 24, np.random.default_rng(0)).shape == (2, 50, 50, 3)


def test_a_folder_of_pictures_is_no_folder_of_stems(tmp_path: Path) -> None:
    PictureCache(tmp_path / "x").close()
    with pytest.raises(ConfigError, match="was filled by a network with another stem"):
        StemCache(tmp_path / "x", toy_student())


def test_batches_hold_views_of_one_kind_and_every_view_comes_once() -> None:
    view = np.array([0, 1] * 50 + [0] * 7)
    order = batches_of_one_view(view, 8, np.random.default_rng(0))
    assert sorted(order) == list(range(len(view)))
    mixed = [len(set(view[order[start : start + 8]])) > 1 for start in range(0, 104, 8)]
    assert sum(mixed) <= 1


def test_what_is_imitated_is_what_both_networks_put_out() -> None:
    fast, lite0 = LAYOUTS["fast"], LAYOUTS["lite0"]
    for ours, theirs in common_ends(fast, lite0):
        assert fast.blocks[ours].outputs == lite0.blocks[theirs].outputs
        assert fast.strides[ours] == lite0.strides[theirs]
    assert [fast.blocks[n].outputs for n, _ in common_ends(fast, lite0)] == [40, 80, 112, 192]
    assert len(common_ends(lite0, lite0)) == 6


@pytest.mark.slow
def test_new_blocks_come_nearer_to_those_they_replace(
    cache: PictureCache, astronaut: Pixels
) -> None:
    """On a window of the photograph that was not among those it learnt from."""
    for n in range(8):
        top, left = 48 * n, 40 * n
        cache.add(str(n), np.ascontiguousarray(astronaut[top : top + SIDE, left : left + SIDE]))
    torch.manual_seed(0)
    original, student = Student("lite0").eval(), Student("fast").eval()
    for n, block in enumerate(student.layout.blocks):
        if block.origin is not None:
            student.features[n].load_state_dict(original.features[block.origin + 1].state_dict())
    recipe = toy_recipe(imitation=20.0, batch=4, crop=STEP // CELL)
    losses: list[float] = []
    learnt = imitate(
        student,
        original,
        cache,
        [cache[str(n)] for n in range(8)],
        recipe,
        lambda _, __, found: losses.append(found["imitation"]),
    )
    assert len(losses) == 40
    unseen = torch.from_numpy(astronaut[None, 350:478, 20:148].copy())
    ours, theirs = zip(*common_ends(student.layout, original.layout), strict=True)
    with torch.inference_mode():
        wanted = features_at(original, unseen, theirs)
        for before, after, target in zip(
            features_at(student, unseen, ours),
            features_at(learnt, unseen, ours),
            wanted,
            strict=True,
        ):
            assert (after - target).square().mean() < 0.8 * (before - target).square().mean()


# Training on pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 60)
    return folder


def rated_set(folder: Path) -> RatedSet:
    paths = tuple(folder / f"{k}.png" for k in range(60))
    return RatedSet(Labels(paths, tuple(4.5 - 0.45 * (k % 8) for k in range(60))), range(60))


@pytest.mark.slow
def test_all_of_a_network_learns_and_its_teacher_is_listened_to(
    folder: Path, cache: PictureCache
) -> None:
    rated = cache_rated(cache, [rated_set(folder)])
    teacher, student = toy_student(seed=1), toy_student()
    with torch.no_grad():
        teacher.heads.last_layer.weight.zero_()
        teacher.heads.last_layer.bias.fill_(-2.0)  # it finds every picture bad: 1.48
    recipe = toy_recipe(whole=True, epochs=3.0, mse=0.0, plcc=0.0, fidelity=0.0, taught=5.0)
    data = TrainingData(cache, rated, [], teachers=[teacher])
    seen: list[float] = []
    trained = fit(student, data, recipe, fresh=True, on_step=lambda *a: seen.append(a[2]["taught"]))
    assert np.mean(seen[-3:]) < 0.5 * np.mean(seen[:3])
    start = student.state_dict()
    changed = {k.split(".")[1] for k, v in trained.state_dict().items() if (v != start[k]).any()}
    assert {str(n) for n in range(len(student.features))} <= changed


def test_teachers_and_new_blocks_need_pictures(folder: Path, tmp_path: Path) -> None:
    job = Job([rated_set(folder)], toy_recipe(), tmp_path, teachers=[toy_student()])
    with pytest.raises(ConfigError, match="need a recipe with whole = true"):
        Trainer(toy_student(), job, fresh=True)
    other = dataclasses.replace(job, teachers=(), original=Student("lite0"))
    with pytest.raises(ConfigError, match="need a recipe with whole = true"):
        Trainer(Student("fast"), other, fresh=True)


def test_imitation_is_found_again_by_its_own_run_and_no_other(folder: Path, tmp_path: Path) -> None:
    torch.save(lite0_state(), tmp_path / "lite0.pth")
    told: list[int] = []

    def run(seed: int) -> dict[str, torch.Tensor]:
        student, original = (load_student(tmp_path / "lite0.pth", n)[0] for n in ("fast", "lite0"))
        recipe = toy_recipe(whole=True, imitation=0.1, batch=4, crop=4, seed=seed)
        job = Job([rated_set(folder)], recipe, tmp_path / "work", original=original)
        told.clear()
        trainer = Trainer(student, job, fresh=True, on_step=lambda step, *_: told.append(step))
        with closing(trainer):
            rated = cache_rated(trainer.cache, [rated_set(folder)])
            trainer.imitate(TrainingData(trainer.cache, rated, []))
        return trainer.student.state_dict()

    first = run(0)
    assert told
    again = run(0)
    assert not told
    assert all(torch.equal(weights, again[key]) for key, weights in first.items())
    run(1)
    assert told


def lite0_state() -> dict[str, torch.Tensor]:
    """Random weights in the published names: what `pretrained_weights` asks for."""
    state: dict[str, torch.Tensor] = {}
    student = Student("lite0")
    for n, block in enumerate(student.layout.blocks):
        weights = student.features[n].state_dict()
        for part, conv, norm in lite_parts(block):
            state[f"{conv}.weight"] = weights[f"{part}.weight"]
            bias = weights[f"{part}.bias"]
            for name in ("weight", "running_var"):
                state[f"{norm}.{name}"] = torch.ones_like(bias)
            state[f"{norm}.bias"], state[f"{norm}.running_mean"] = bias, torch.zeros_like(bias)
    return state
