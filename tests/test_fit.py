"""Training on the cache: the same bits whatever kills it, and only what is meant to learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.student.cache import StemCache
from qinsight_plugin.student.families import Family
from qinsight_plugin.student.fit import (
    Scales,
    TrainingData,
    family_losses,
    fit,
    judged,
    make_optimizer,
    map_loss,
    next_batch,
    patched_map_loss,
    start,
    update_average,
)
from qinsight_plugin.student.network import AnyStudent, StemOutput
from qinsight_plugin.student.preferences import Compared
from qinsight_plugin.student.recipe import Recipe
from qinsight_plugin.student.views import Rated

from .toy import blurred_windows, toy_recipe, toy_student

PICTURES = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingData]:
    """Two sets of ratings, the second of another scale, two families, answers about pairs."""
    with closing(StemCache(tmp_path_factory.mktemp("stem"), toy_student())) as cache:
        windows = blurred_windows(PICTURES)
        records = [cache.add(f"picture {k}", pixels) for k, (pixels, _) in enumerate(windows)]
        second = np.arange(PICTURES) % 4 == 3
        blur = np.array([blur for _, blur in windows], np.float32)
        mos = np.where(second, 3.0 - blur / 8, 4.5 - blur / 2).astype(np.float32)
        severities = np.full((PICTURES, 4), np.nan, np.float32)
        severities[second] = np.stack([0 * blur, 0 * blur, blur / 2, 0 * blur], 1)[second]
        rated = Rated(
            views=[[record] * (1 + k % 2) for k, record in enumerate(records)],
            mos=mos,
            variance=np.full(PICTURES, 0.1, np.float32),
            weight=np.linspace(0.5, 1, PICTURES, dtype=np.float32),
            severities=severities,
            group=second.astype(np.int64),
            scale=second.astype(np.int64),
        )
        levels = np.zeros((6, 4), np.float32)
        levels[:, 2] = range(6)
        likeness = np.linspace(100, 0, 6, dtype=np.float32)
        families = [Family(records[first : first + 6], levels, likeness) for first in (0, 8)]
        answers = np.arange(PICTURES - 1)
        compared = Compared(answers, answers + 1, (mos[1:] < mos[:-1]).astype(np.float32))
        yield TrainingData(cache, rated, families, compared)


class StopError(Exception):
    """Stands for the kill."""


def stop_after(step: int) -> Callable[[int, int, Mapping[str, float]], None]:
    def on_step(now: int, _: int, __: Mapping[str, float]) -> None:
        if now == step:
            raise StopError

    return on_step


def weights(student: AnyStudent) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = student.state_dict()
    return state


def changed(one: AnyStudent, other: AnyStudent) -> set[str]:
    """The tensors in which two students differ at all."""
    theirs = weights(other)
    return {name for name, tensor in weights(one).items() if (tensor != theirs[name]).any()}


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2], ids=["in the probe", "with the backbone"])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    data: TrainingData, tmp_path: Path, step: int, fresh: bool
) -> None:
    recipe, student, file = toy_recipe(epochs=1.0), toy_student(), tmp_path / "checkpoint.pt"
    straight = fit(student, data, recipe, fresh=fresh)
    with pytest.raises(StopError):
        fit(student, data, recipe, fresh=fresh, checkpoint=file, on_step=stop_after(step))
    seen: list[int] = []
    resumed = fit(
        student,
        data,
        recipe,
        fresh=fresh,
        checkpoint=file,
        on_step=lambda now, _, __: seen.append(now),
    )
    assert seen == list(range(step + 1, 5))
    assert changed(resumed, straight) == set()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}


@pytest.mark.slow
def test_a_run_that_had_ended_takes_no_further_step(data: TrainingData, tmp_path: Path) -> None:
    recipe, student, file = toy_recipe(epochs=1.0), toy_student(), tmp_path / "checkpoint.pt"
    first = fit(student, data, recipe, fresh=True, checkpoint=file)
    again = fit(student, data, recipe, fresh=True, checkpoint=file, on_step=stop_after(1))
    assert changed(first, again) == set()


@pytest.mark.slow
def test_between_two_savings_passes_the_stated_time(data: TrainingData, tmp_path: Path) -> None:
    recipe = toy_recipe(epochs=1.0, checkpoint_seconds=3600.0)
    path = tmp_path / "checkpoint.pt"
    there: list[bool] = []
    fit(
        toy_student(),
        data,
        recipe,
        fresh=True,
        checkpoint=path,
        on_step=lambda *_: there.append(path.exists()),
    )
    assert there == [False] * (len(there) - 1) + [
        True
    ]  # what is done is kept, however long it took


def other_ratings(data: TrainingData) -> TrainingData:
    mos = data.rated.mos.copy()
    mos[7] += 0.1
    return dataclasses.replace(data, rated=dataclasses.replace(data.rated, mos=mos))


def other_pictures(data: TrainingData) -> TrainingData:
    views = [*data.rated.views[1:], data.rated.views[0]]
    return dataclasses.replace(data, rated=dataclasses.replace(data.rated, views=views))


def other_answers(data: TrainingData) -> TrainingData:
    assert data.compared is not None
    compared = dataclasses.replace(data.compared, preferred=1 - data.compared.preferred)
    return dataclasses.replace(data, compared=compared)


def other_families(data: TrainingData) -> TrainingData:
    return dataclasses.replace(data, families=data.families[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_ratings, other_pictures, other_answers, other_families])
def test_a_checkpoint_of_other_data_is_refused(
    data: TrainingData, tmp_path: Path, change: Callable[[TrainingData], TrainingData]
) -> None:
    file, recipe = tmp_path / "checkpoint.pt", toy_recipe(epochs=0.25)
    fit(toy_student(), data, recipe, fresh=True, checkpoint=file)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt is of a run with other pictures"):
        fit(toy_student(), change(data), recipe, fresh=True, checkpoint=file)


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe_or_start_is_refused(
    data: TrainingData, tmp_path: Path
) -> None:
    file, recipe = tmp_path / "checkpoint.pt", toy_recipe(epochs=0.25)
    fit(toy_student(), data, recipe, fresh=True, checkpoint=file)
    for student, other in (
        (toy_student(), dataclasses.replace(recipe, mse=0.3)),
        (toy_student(seed=1), recipe),
    ):
        with pytest.raises(ConfigError, match="another recipe or another start; delete it"):
            fit(student, data, other, fresh=True, checkpoint=file)
    patient = dataclasses.replace(recipe, checkpoint_seconds=60.0)
    fit(toy_student(), data, patient, fresh=True, checkpoint=file)


class Mischief:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


def test_a_checkpoint_runs_no_code_and_a_damaged_one_is_named(
    data: TrainingData, tmp_path: Path
) -> None:
    file, folder = tmp_path / "checkpoint.pt", tmp_path / "made"
    torch.save({"run": Mischief(folder)}, file)
    for content in (file.read_bytes(), b"", b"no checkpoint"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"cannot read the checkpoint .*delete it") as caught:
            fit(toy_student(), data, toy_recipe(), fresh=True, checkpoint=file)
        assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.slow
def test_a_seed_gives_the_same_student_and_another_seed_another(data: TrainingData) -> None:
    one, same, other = (
        fit(toy_student(), data, toy_recipe(epochs=0.5, seed=seed), fresh=True)
        for seed in (0, 0, 1)
    )
    assert changed(one, same) == set()
    assert changed(one, other)


@pytest.mark.slow
def test_fresh_heads_are_the_seeds_and_not_the_processes(
    data: TrainingData, tmp_path: Path
) -> None:
    """A process draws other heads every time that it starts."""
    students = [toy_student() for _ in range(2)]
    students[1].heads = students[1].heads.anew()
    assert changed(*students)
    file, recipe = tmp_path / "checkpoint.pt", toy_recipe(epochs=1.0)
    straight = fit(students[0], data, recipe, fresh=True)
    with pytest.raises(StopError):
        fit(students[0], data, recipe, fresh=True, checkpoint=file, on_step=stop_after(2))
    resumed = fit(students[1], data, recipe, fresh=True, checkpoint=file)
    assert changed(resumed, straight) == set()


def test_the_stem_stays_and_the_start_is_not_touched(data: TrainingData) -> None:
    student, reference = toy_student(), toy_student()
    trained = fit(student, data, toy_recipe(), fresh=True)
    assert changed(student, reference) == set()
    assert not trained.training
    parts = {".".join(name.split(".")[:2]) for name in changed(trained, reference)}
    stem = {f"features.{block}" for block in range(8)}
    assert parts & stem == set()
    assert {f"features.{block}" for block in range(8, 18)} <= parts
    assert {"heads.regressor", "heads.spreader", "heads.distortions", "heads.mapper"} <= parts


def test_in_the_probe_only_the_heads_learn(data: TrainingData) -> None:
    trained = fit(toy_student(), data, toy_recipe(probe=1.0), fresh=False)
    learnt = changed(trained, toy_student())
    assert learnt
    assert all(name.startswith("heads.") for name in learnt)


def test_heads_that_are_not_fresh_keep_their_standardisation(data: TrainingData) -> None:
    trained = fit(toy_student(), data, toy_recipe(epochs=0.25), fresh=False)
    assert not {"heads.pooled_mean", "heads.pooled_scale"} & changed(trained, toy_student())


def test_fresh_heads_begin_at_the_mean_rating_with_a_standardised_description(
    data: TrainingData,
) -> None:
    student = start(toy_student(), data, toy_recipe(), fresh=True).student.eval()
    with torch.inference_mode():
        stems = [data.cache.whole(own[0]) for own in data.rated.views]
        pooled = torch.cat([student.describe(stem)[0] for stem in stems]).double().numpy()
        mos = torch.cat([student.tail(stem).mos for stem in stems])
    assert student.heads.pooled_mean.numpy() == pytest.approx(pooled.mean(0), abs=1e-4)
    deviation = pooled.std(0, ddof=1)
    assert student.heads.pooled_scale.numpy() == pytest.approx(1 / (deviation + 1e-3), rel=1e-2)
    assert mos.mean().item() == pytest.approx(data.rated.mos[data.rated.scale == 0].mean(), abs=0.4)


@pytest.mark.parametrize("steps", [*range(1, 24), 100])
def test_learning_rates_rise_to_those_of_the_recipe_and_fall_for_any_number_of_steps(
    steps: int,
) -> None:
    recipe = toy_recipe()
    optimizer, schedule = make_optimizer(toy_student(), Scales(1), recipe, steps)
    seen = []
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        seen.append([group["lr"] for group in optimizer.param_groups])
    peak = [recipe.backbone_rate, recipe.heads_rate, recipe.heads_rate]
    assert np.max(seen, 0) == pytest.approx(peak, rel=0.02)
    if steps > 1:
        assert seen[-1] == pytest.approx([0, 0, 0], abs=1e-6)


def test_every_view_comes_once_before_any_comes_again(data: TrainingData) -> None:
    """48 views in batches of 8."""
    state = start(toy_student(), data, toy_recipe(), fresh=False)
    for _ in range(2):
        batches = [next_batch(state, data.rated, 8) for _ in range(6)]
        shown = [picture for chosen, _ in batches for picture in chosen]
        assert sorted(shown) == sorted(k for k in range(PICTURES) for _ in data.rated.views[k])
        for chosen, records in batches:
            assert all(r in data.rated.views[k] for k, r in zip(chosen, records, strict=True))


def test_a_batch_is_no_larger_than_what_there_is(data: TrainingData) -> None:
    state = start(toy_student(), data, toy_recipe(), fresh=False)
    assert len(next_batch(state, data.rated, 4096)[0]) == 48


# Scales


@given(st.floats(-1, 1), st.floats(-2, 2))
def test_the_first_sets_scale_is_the_students_and_the_others_maps_rise(
    log_gain: float, offset: float
) -> None:
    scales = Scales(3)
    with torch.no_grad():
        scales.log_gain.fill_(log_gain)
        scales.offset.fill_(offset)
        mos = torch.linspace(1.05, 4.95, 50)
        assert (scales(mos, torch.zeros(50, dtype=torch.int64)) == mos).all()
        for scale in (1, 2):
            mapped = scales(mos, torch.full((50,), scale))
            assert (mapped.diff() > 0).all()
            assert 1 < mapped.min() <= mapped.max() < 5


def test_scales_begin_alike() -> None:
    mos = torch.linspace(1.05, 4.95, 50)
    assert Scales(2)(mos, torch.ones(50, dtype=torch.int64)).tolist() == pytest.approx(
        mos.tolist(), abs=1e-4
    )


def test_the_first_sets_scale_is_not_learnt_and_the_others_are(data: TrainingData) -> None:
    """At 3 the slope of the scaled sigmoid is 1, and two pictures are of the second set."""
    scales = start(toy_student(), data, toy_recipe(), fresh=False).scales
    scales(torch.full((4,), 3.0), torch.tensor([0, 0, 1, 1])).sum().backward()
    assert scales.offset.grad is not None
    assert scales.offset.grad.tolist() == pytest.approx([0, 2])
    assert scales.log_gain.grad is not None
    assert scales.log_gain.grad[0] == 0


# Losses of a step


@pytest.mark.slow
def test_a_step_reports_every_loss_and_their_weights_are_the_recipes(data: TrainingData) -> None:
    def first_losses(recipe: Recipe) -> Mapping[str, float]:
        seen: list[Mapping[str, float]] = []
        fit(
            toy_student(),
            data,
            dataclasses.replace(recipe, epochs=0.25),
            fresh=True,
            on_step=lambda _, __, losses: seen.append(losses),
        )
        return seen[0]

    rated = {"mse", "plcc", "fidelity", "spread", "map", "naming"}
    two = toy_recipe(families_per_step=2, likeness=1.0)
    changed: dict[str, Any] = {"mse": 3.0, "pairs": 3.0, "likeness": 3.0}
    once, thrice = first_losses(two), first_losses(dataclasses.replace(two, **changed))
    assert once.keys() == rated | {"ladder", "likeness", "distortion", "patches", "pairs"}
    assert once["likeness"] > 0
    for name, value in once.items():
        factor = changed.get(name, 1)
        assert thrice[name] == pytest.approx(factor * value, rel=1e-5), name


def test_without_families_severities_or_pairs_their_losses_are_not_there(
    data: TrainingData,
) -> None:
    unknown = dataclasses.replace(data.rated, severities=np.full((PICTURES, 4), np.nan, "f4"))
    bare = TrainingData(data.cache, unknown, [])
    seen: list[Mapping[str, float]] = []
    fit(
        toy_student(),
        bare,
        toy_recipe(epochs=0.25),
        fresh=True,
        on_step=lambda _, __, losses: seen.append(losses),
    )
    assert seen[0].keys() == {"mse", "plcc", "fidelity", "spread", "map"}


def test_a_second_set_says_nothing_of_how_far_the_score_is_off(data: TrainingData) -> None:
    """On its own scale nothing is known of the student's errors: no spread is learnt from it."""
    alone = dataclasses.replace(data.rated, scale=np.ones(PICTURES, np.int64))
    seen: list[Mapping[str, float]] = []
    fit(
        toy_student(),
        dataclasses.replace(data, rated=alone),
        toy_recipe(epochs=0.25),
        fresh=False,
        on_step=lambda _, __, losses: seen.append(losses),
    )
    assert seen[0]["spread"] == 0


@torch.no_grad()
def test_the_map_of_two_joined_pictures_wants_each_ones_own_score(data: TrainingData) -> None:
    """Maps of 4x4 cells of the stem are 2x2 cells, and cut in the middle, along either axis."""
    state = start(toy_student(), data, toy_recipe(), fresh=False)
    stem = data.cache.aligned([data.families[0].records[:2]], 20, state.rng)
    heads = state.student.eval().tail(stem)._replace(mos=torch.tensor([4.5, 2.0]))
    uniform = np.mean((heads.quality_map.numpy() - [[[4.5]], [[2.0]]]) ** 2)

    def joined(first: int, second: int, axis: int) -> float:
        halves = [
            stem.feature_map[first].chunk(2, axis)[0],
            stem.feature_map[second].chunk(2, axis)[1],
        ]
        drawn = state.student.draw_map(torch.cat(halves, axis)[None])[0].numpy()
        wanted = np.full((2, 2), [[heads.mos[first]], [heads.mos[second]]])
        return float(uniform + np.mean((drawn - (wanted if axis == 1 else wanted.T)) ** 2))

    possible = {joined(0, 1, 1), joined(0, 1, 2), joined(1, 0, 1), joined(1, 0, 2)}
    found = {patched_map_loss(state, stem.feature_map, heads, 2).item() for _ in range(40)}
    assert sorted(found) == pytest.approx(sorted(possible), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("cells", [1, 2, 3, 5])
def test_maps_of_any_size_can_be_joined(data: TrainingData, cells: int) -> None:
    state = start(toy_student(), data, toy_recipe(), fresh=False)
    stem = StemOutput(torch.rand(3, 64, cells, cells), torch.rand(3, state.student.stem_shallow))
    heads = state.student.tail(stem)
    for _ in range(8):
        assert torch.isfinite(patched_map_loss(state, stem.feature_map, heads, 3))


def test_a_map_does_not_change_the_score() -> None:
    mos = torch.tensor([2.0], requires_grad=True)
    drawn = torch.tensor([3.0], requires_grad=True)
    map_loss(drawn, mos).backward()
    assert mos.grad is None
    assert drawn.grad is not None


def test_scoring_a_family_all_alike_costs_the_margin(data: TrainingData) -> None:
    recipe = toy_recipe(ladder=2.0, ladder_margin=0.3)
    state = start(toy_student(), data, recipe, fresh=False)
    with torch.no_grad():
        state.student.heads.last_layer.weight.zero_()
    assert family_losses(state, data, recipe)["ladder"].item() == pytest.approx(0.6, abs=1e-5)


def test_what_is_kept_is_the_moving_average_of_the_weights() -> None:
    average, student = toy_student(), toy_student(seed=1)
    name = "heads.mapper.0.weight"
    expected = 0.9 * weights(average)[name] + 0.1 * weights(student)[name]
    update_average(average, student, 0.9)
    torch.testing.assert_close(weights(average)[name], expected)


@pytest.mark.slow
def test_half_precision_learns_much_the_same(data: TrainingData) -> None:
    losses: dict[bool, list[float]] = {}
    for half in (False, True):
        seen = losses.setdefault(half, [])
        fit(
            toy_student(),
            data,
            toy_recipe(epochs=1.0, bfloat16=half),
            fresh=True,
            on_step=lambda _, __, now, seen=seen: seen.append(sum(now.values())),  # type: ignore[misc]
        )
    assert losses[True] == pytest.approx(losses[False], rel=0.1)


@pytest.mark.parametrize("has", [True, False])
def test_half_precision_is_for_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, data: TrainingData, has: bool
) -> None:
    """Elsewhere a step would take ten times as long."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    student = toy_student()
    seen = data.cache.all_of([data.rated.views[0][0]])
    with torch.no_grad():
        half, full = (
            judged(student, toy_recipe(bfloat16=wanted), seen)[1].mos for wanted in (True, False)
        )
    assert bool((half == full).all()) != has
