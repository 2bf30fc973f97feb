"""The settings of a training: what is published, what is refused, and the order of the rows."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.attempts import TASKS
from qinsight_plugin.errors import ConfigError, WeightsError
from qinsight_plugin.grpo import memory
from qinsight_plugin.grpo.config import (
    PUBLISHED,
    Config,
    Optimisation,
    read_config,
    wanted_rewards,
)
from qinsight_plugin.grpo.rewards import SPECS
from qinsight_plugin.grpo.schedule import schedule

from .conftest import ROOT

PAGE = ROOT / "qinsight_plugin" / "grpo" / "README.md"
SPECS_BY_NAME = {spec.name: spec for spec in SPECS}

SMALLEST = """
model = "ByteDance/Q-Insight"
output = "out"
[[data]]
task = "score"
labels = "labels.csv"
scale = [1, 5]
"""


def config_of(folder: Path, text: str) -> Config:
    path = folder / "run.toml"
    path.write_text(text)
    return read_config(path)


def test_the_defaults_are_what_was_published(tmp_path: Path) -> None:
    """From run_qinsight_score_and_dist.sh, its trainer's GRPOConfig, and the paper."""
    config = config_of(tmp_path, SMALLEST)
    train = config.train
    assert (train.epochs, train.generations, train.batch, train.per_device) == (10, 8, 128, 8)
    assert (train.learning_rate, train.beta, train.epsilon) == (1e-6, 0.001, 0.2)
    assert (train.iterations, train.temperature, train.top_k, train.top_p) == (1, 1.0, 50, 1.0)
    assert (train.max_tokens, train.weight_decay, train.max_grad_norm) == (256, 0.0, 1.0)
    assert (train.seed, train.gradient_checkpointing, config.lora.rank) == (42, False, 0)
    wanted = {one.spec.name: one for one in wanted_rewards(config, SPECS_BY_NAME, tmp_path)}
    assert {name: one.weight for name, one in wanted.items()} == {"format": 1, "threshold": 1}
    assert wanted["threshold"].settings == {"width": 0.35}
    assert SPECS_BY_NAME["degradation"].settings == {"name": 0.25, "severity": 0.75}


def test_relative_paths_start_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    config = config_of(tmp_path, SMALLEST.replace("ByteDance/Q-Insight", "base"))
    assert config.model == str(tmp_path / "base")
    assert config.output == tmp_path / "out"
    assert config.data[0].labels == tmp_path / "labels.csv"


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("[train]\nlearning_rat = 1", "unknown key 'learning_rat': did you mean 'learning_rate'"),
        ("[trian]\nseed = 1", "the file has the unknown key 'trian': did you mean 'train'"),
        ("[lora]\nalfa = 1", "unknown key 'alfa': did you mean 'alpha'"),
        ("[train]\ngenerations = 1", "generations must be 2 or more, not 1|from 2 to 1024"),
        ("[train]\ngenerations = 2.5", "generations must be a whole number, not 2.5"),
        ("[train]\nbatch = 12", "batch 12 is no multiple of generations 8"),
        ("[train]\nbatch = 16\nper_device = 5", "batch 16 is no multiple of per_device 5"),
        ("[train]\nbeta = -1", "beta must be 0 or more"),
        ("[train]\nbeta = nan", "beta must be a number, not nan"),
        ("[train]\nvllm = 1", "vllm must be true or false, not 1"),
        ("[lora]\nquantize = '3bit'", "quantize must be one of 8bit, 4bit, not '3bit'"),
        ("[lora]\nquantize = '4bit'", "quantize needs a rank"),
        ("[validation]\nmetric = 'loss'", "metric must be one of srcc, plcc, accuracy"),
        ("[validation]\nshare = 0.9", "share must be from 0 to 0.5, not 0.9"),
        ("train = 3", r"\[train\] must be a table, not 3"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, addition: str, message: str) -> None:
    text = addition + SMALLEST if addition.startswith("train") else SMALLEST + addition
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model = "ByteDance/Q-Insight"', "", "lacks the key 'model'"),
        ('labels = "labels.csv"', "", r"\[\[data\]\] lacks the key 'labels'"),
        ('task = "score"', 'task = "scores"', "task must be one of score, degradation, comp"),
        ("scale = [1, 5]", "", "labels.csv: state the scale of its ratings"),
        ("scale = [1, 5]", "scale = [1]", "scale must be the worst and the best rating"),
        ("scale = [1, 5]", "scale = [3, 3]", "scale must be the worst and the best rating"),
        ("[[data]]", "[data]", r"it has no \[\[data\]\]"),
        ("[[data]]", "[[", r"cannot read .*run.toml"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, SMALLEST.replace(old, new))


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ("treshold = 1", "there is no reward 'treshold': did you mean 'threshold'"),
        ("threshold = { widht = 1 }", "unknown setting 'widht': did you mean 'width'"),
        ("threshold = 'much'", "weight must be a number, not 'much'"),
        ("threshold = 0", "weight must be 1e-09 or more, not 0"),
        ("format = 1", "no reward says whether an answer to a score prompt is right"),
        ("comparison = 1", "no reward says whether an answer to a score prompt is right"),
    ],
)
def test_rewards_that_do_not_exist_or_do_not_suffice(
    tmp_path: Path, rewards: str, message: str
) -> None:
    config = config_of(tmp_path, f"{SMALLEST}[rewards]\n{rewards}\n")
    with pytest.raises(ConfigError, match=message):
        wanted_rewards(config, SPECS_BY_NAME, tmp_path / "run.toml")


def test_a_reward_takes_its_settings(tmp_path: Path) -> None:
    config = config_of(tmp_path, f"{SMALLEST}[rewards]\nthreshold = {{weight = 2, width = 0.5}}\n")
    (wanted,) = wanted_rewards(config, SPECS_BY_NAME, tmp_path / "run.toml")
    assert (wanted.weight, wanted.settings) == (2.0, {"width": 0.5})


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.1, 10)), min_size=1, max_size=4),
    st.integers(1, 200),
    st.integers(0, 5),
)
def test_every_beginning_of_a_schedule_has_the_stated_mix(
    sets: list[tuple[int, float]], count: int, seed: int
) -> None:
    sizes, weights = [size for size, _ in sets], [weight for _, weight in sets]
    order = schedule(sizes, weights, count, seed)
    assert len(order) == count
    had = Counter(chosen for chosen, _ in order)
    for k, weight in enumerate(weights):
        assert abs(had[k] - count * weight / sum(weights)) < len(sets)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(1, 3))
def test_without_weights_every_row_is_asked_about_once_an_epoch(
    sizes: list[int], epochs: int
) -> None:
    order = schedule(sizes, [None] * len(sizes), epochs * sum(sizes), 0)
    times = Counter(order)
    assert set(times.values()) == {epochs}
    assert len(times) == sum(sizes)


def test_a_schedule_is_a_beginning_of_a_longer_one() -> None:
    assert schedule([7, 3], [None, None], 10, 1) == schedule([7, 3], [None, None], 25, 1)[:10]
    assert schedule([7, 3], [None, None], 10, 1) != schedule([7, 3], [None, None], 10, 2)


BIG = {  # Qwen2.5-VL-7B-Instruct, of which a config says so much
    "model_type": "qwen2_5_vl",
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
    "tie_word_embeddings": False,
}


@pytest.fixture
def big(tmp_path: Path) -> Config:
    import json

    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BIG))
    return config_of(tmp_path, SMALLEST.replace("ByteDance/Q-Insight", "big"))


def test_memory_is_reckoned_from_the_config_alone(big: Config) -> None:
    """8.29 billion parameters, as the checkpoint on the hub states."""
    alone, shared = memory.needed(big), memory.needed(big, shards=8)
    assert alone.parameters == pytest.approx(8.29e9, rel=0.01)
    assert alone.fixed == pytest.approx(8.29e9 * 20 / 2**30, rel=0.01)
    assert shared.fixed == pytest.approx(8.29e9 * (18 / 8 + 2) / 2**30, rel=0.01)
    lora = dataclasses.replace(big, lora=dataclasses.replace(big.lora, rank=16))
    assert memory.needed(lora).fixed == pytest.approx(8.29e9 * 2 / 2**30, rel=0.01)


def test_the_readme_states_what_is_reckoned(big: Config) -> None:
    train = dataclasses.replace(big.train, gradient_checkpointing=True)
    full = dataclasses.replace(big, train=train)
    lora = dataclasses.replace(full, lora=dataclasses.replace(big.lora, rank=16))
    one, each = (math.ceil(memory.needed(*told).total) for told in ((lora, 1), (full, 8)))
    for page in (ROOT / "README.md", PAGE):
        text = " ".join(page.read_text("utf-8").split())
        assert f"reckons {one} GiB on one GPU with LoRA, and {each} GiB on each of eight" in text


def test_a_7b_model_without_a_gpu_is_refused_before_it_is_loaded(
    big: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = r"no GPU here, and a model of 8\.3 billion parameters needs about \d+ GiB"
    with pytest.raises(ConfigError, match=message):
        memory.require_room(big)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = config_of(tmp_path, SMALLEST.replace("ByteDance/Q-Insight", "empty"))
    with pytest.raises(WeightsError, match=r"config of .*empty cannot be read"):
        memory.require_room(config)


def test_the_readme_names_every_published_setting_with_its_value(tmp_path: Path) -> None:
    text = PAGE.read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    config = config_of(tmp_path, text)
    assert config.train == Optimisation()
    told = re.findall(r"^(\w+) =", text.partition("[train]")[2], re.MULTILINE)
    assert told == [field.name for field in dataclasses.fields(Optimisation)]
    wanted = {one.spec.name: one for one in wanted_rewards(config, SPECS_BY_NAME, tmp_path)}
    assert set(wanted) == set(PUBLISHED)
    for name, one in wanted.items():
        assert (one.weight, one.settings) == (1.0, SPECS_BY_NAME[name].settings)
    assert {one.task for one in config.data} == set(TASKS)
