"""One step of GRPO reckoned again in NumPy, from probabilities read off the model alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from qinsight_plugin.grpo.config import Config, DataSet, Optimisation, Wanted
from qinsight_plugin.grpo.judge import Judge
from qinsight_plugin.grpo.rewards import SPECS
from qinsight_plugin.grpo.rows import read_rows
from qinsight_plugin.grpo.trainer import Trainer, arguments_of, require_same_reference
from qinsight_plugin.grpo.validation import HeldOut
from qinsight_plugin.reasoning.libraries import quiet
from qinsight_plugin.reasoning.loading import Loading, load_checkpoint

from .grpo_toy import write_scores

pytestmark = pytest.mark.slow

TOKENS = 24
BY_NAME = {spec.name: spec for spec in SPECS}
Rows = npt.NDArray[np.float64]


@pytest.fixture
def make(tmp_path: Path, reasoner: Path) -> Any:
    labels = write_scores(tmp_path / "data", 12, 0)

    def make(**settings: Any) -> Trainer:
        train = Optimisation(
            generations=4, max_tokens=TOKENS, learning_rate=1e-3, **{"batch": 8, **settings}
        )
        data = DataSet("score", labels, scale=(1, 5))
        config = Config(str(reasoner), tmp_path / "out", (data,), train=train)
        rows = read_rows(config).train[0]
        judge = Judge(
            [
                Wanted(BY_NAME["format"], 0.5, {}),
                Wanted(BY_NAME["continuous"], 2.0, {"width": 1.0}),
            ]
        )
        with quiet():
            checkpoint = load_checkpoint(config.model, loading=Loading("cpu", "float32"))
            arguments = arguments_of(config, tmp_path / "ck", cuda=False, processes=1)
            arguments.save_strategy = "no"
            trainer = Trainer(checkpoint, config, arguments, rows, HeldOut((), 10**6, 8), judge)
        require_same_reference(trainer)
        return trainer

    return make


def log_probabilities(model: Any, batch: dict[str, Any]) -> Rows:
    """log softmax of the logits at the tokens that came, float64 [replies, tokens]."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    shown = {k: batch[k] for k in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **shown).logits
    start = batch["prompt_ids"].shape[1] - 1
    logits = logits[:, start:-1].double().numpy()
    logits -= logits.max(-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found: Rows = np.take_along_axis(logs, batch["completion_ids"].numpy()[..., None], -1)[..., 0]
    return found


def loss_as_written(
    new: Rows, old: Rows, reference: Rows, rewards: Rows, mask: Rows, config: Optimisation
) -> float:
    """Equations 3 and 4 of DeepSeekMath (arXiv 2402.03300), with the deviation of a sample and the
    1e-4 that the published trainer has."""
    groups = rewards.reshape(-1, config.generations)
    spread = groups.std(1, ddof=1, keepdims=True) + 1e-4
    advantages = ((groups - groups.mean(1, keepdims=True)) / spread).reshape(-1, 1)
    ratio = np.exp(new - old)
    clipped = np.clip(ratio, 1 - config.epsilon, 1 + config.epsilon)
    gain = np.minimum(ratio * advantages, clipped * advantages)
    kl = np.exp(reference - new) - (reference - new) - 1
    token = (gain - config.beta * kl) * mask
    return float(-(token.sum(1) / mask.sum(1)).mean())


def batch_of(trainer: Trainer) -> tuple[dict[str, Any], Rows]:
    """The replies of one batch and their rewards, in the order in which they were written."""
    seen: list[Rows] = []
    inner = trainer._judge_batch

    def watched(*arguments: Any) -> Any:
        columns = inner(*arguments)
        seen.append(np.array(trainer._judge.totals(columns)))
        return columns

    trainer._judge_batch = watched  # type: ignore[method-assign, assignment]
    trainer.model.train()
    with quiet():
        batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    return batch, seen[0]


def test_advantages_clipping_and_divergence_are_those_of_the_equations(make: Any) -> None:
    """After the model has moved, so that ratio and divergence are not 1 and 0."""
    trainer = make(per_device=8, beta=1.0, epsilon=0.05)
    config = trainer._config.train
    batch, rewards = batch_of(trainer)
    assert len(set(rewards)) > 2
    old = log_probabilities(trainer.model, batch)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.012 * torch.randn(parameter.shape, generator=rng)
    new = log_probabilities(trainer.model, batch)
    reference = log_probabilities(trainer.ref_model, batch)
    mask = batch["completion_mask"].numpy().astype(float)
    ratio = np.exp(new - old)[mask > 0]
    assert ratio.min() < 1 - config.epsilon < 1 + config.epsilon < ratio.max()
    trainer.current_gradient_accumulation_steps = 1
    told = {**batch, "old_per_token_logps": torch.tensor(old, dtype=torch.float32)}
    loss = trainer.compute_loss(trainer.model, told)
    expected = loss_as_written(new, old, reference, rewards, mask, config)
    assert loss.item() == pytest.approx(expected, rel=1e-3, abs=2e-5)
    without = dataclasses.replace(config, beta=0.0)
    assert abs(expected - loss_as_written(new, old, reference, rewards, mask, without)) > 1e-3


def test_the_weights_of_rewards_are_in_the_advantages(make: Any) -> None:
    trainer = make(per_device=8)
    batch, rewards = batch_of(trainer)
    groups = rewards.reshape(-1, 4)
    spread = groups.std(1, ddof=1, keepdims=True) + 1e-4
    expected = ((groups - groups.mean(1, keepdims=True)) / spread).reshape(-1)
    assert batch["advantages"].numpy() == pytest.approx(expected, abs=1e-4)


def after_one_step(trainer: Trainer) -> dict[str, Rows]:
    with quiet():
        trainer.args.max_steps = 1
        trainer.train()
    return {name: p.detach().numpy().copy() for name, p in trainer.model.named_parameters()}


def test_accumulating_eight_times_one_is_one_time_eight(make: Any) -> None:
    """The same replies, and the same step of plain gradient descent, in which nothing is scaled.

    Adam would divide rounding errors by themselves."""
    moved = []
    for per_device in (8, 1):
        trainer = make(per_device=per_device, beta=0.05)
        start = {name: p.detach().numpy().copy() for name, p in trainer.model.named_parameters()}
        optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
        trainer.optimizer = optimizer
        trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        trainer.args.max_grad_norm = 0.0
        end = after_one_step(trainer)
        moved.append(np.concatenate([(end[n] - start[n]).ravel() for n in start]))
    once, often = moved
    assert np.abs(once).max() > 1e-3
    assert often == pytest.approx(once, rel=1e-3, abs=1e-6 + 1e-4 * float(np.abs(once).max()))
