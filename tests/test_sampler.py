"""Sampling: the distribution is the softmax's, and the draw is the prompt's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qinsight_plugin.reasoning.model import Prompt, Sampling
from qinsight_plugin.reasoning.sampler import Sampler, digest, gumbel, restrict
from qinsight_plugin.records import Image

transformers = pytest.importorskip("transformers")

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0)
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.3, -1.0, -2.0, 0.9])


def drawn(
    logits: torch.Tensor, samplings: Sequence[Sampling], digests: Sequence[bytes], step: int = 0
) -> list[int]:
    """The tokens that `generate(do_sample=False)` takes: the largest of each row."""
    before = torch.zeros(len(logits), 3 + step, dtype=torch.long)
    chosen: list[int] = Sampler(samplings, digests, 3)(before, logits).argmax(-1).tolist()
    return chosen


def counts(logits: torch.Tensor, sampling: Sampling, draws: int) -> np.ndarray:
    digests = [str(n).encode() for n in range(draws)]
    tokens = drawn(logits.expand(draws, -1), [sampling] * draws, digests)
    return np.bincount(tokens, minlength=len(logits))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    seen = counts(LOGITS, Sampling(temperature=temperature, top_k=0, top_p=1.0), 4000)
    expected = torch.softmax(LOGITS.double() / temperature, -1).numpy() * seen.sum()
    assert stats.chisquare(seen, expected).pvalue > 1e-3


def test_draws_are_distributed_as_torch_multinomial_draws_under_top_k_and_top_p() -> None:
    sampling = Sampling(temperature=1.3, top_k=6, top_p=0.9)
    seen = counts(LOGITS, sampling, 4000)
    warped = transformers.TopPLogitsWarper(0.9)(
        None, transformers.TopKLogitsWarper(6)(None, LOGITS[None] / 1.3)
    )
    generator = torch.Generator().manual_seed(0)
    theirs = torch.multinomial(warped.softmax(-1), 40_000, replacement=True, generator=generator)
    expected = np.bincount(theirs[0], minlength=len(LOGITS))
    kept = expected > 0
    assert seen[~kept].sum() == 0
    assert stats.chi2_contingency(np.stack([seen, expected])[:, kept]).pvalue > 1e-3


def test_successive_draws_of_one_prompt_are_independent() -> None:
    """Over the steps of one reply too, and from one step to the next."""
    steps = [drawn(LOGITS[None], [PLAIN], [b"a"], step)[0] for step in range(4000)]
    expected = torch.softmax(LOGITS.double(), -1).numpy() * len(steps)
    assert stats.chisquare(np.bincount(steps, minlength=8), expected).pvalue > 1e-3
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (steps[:-1], steps[1:]), 1)
    assert stats.chi2_contingency(pairs[:5, :5]).pvalue > 1e-3


def test_the_noise_is_gumbels() -> None:
    noise = gumbel(20_000, seed=1, prompt=b"p", step=0)
    assert noise.isfinite().all()
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3


@settings(max_examples=50)
@given(data=st.data())
def test_a_draw_does_not_depend_on_the_other_rows(data: st.DataObject) -> None:
    samplings = st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.7, 1.0, 2.0]),
        top_k=st.sampled_from([0, 1, 3, 50]),
        top_p=st.sampled_from([0.3, 0.95, 1.0]),
        seed=st.integers(0, 5),
    )
    rows = data.draw(st.lists(st.tuples(samplings, st.binary(max_size=3)), min_size=1, max_size=6))
    step = data.draw(st.integers(0, 9))
    logits = torch.randn(len(rows), 40, generator=torch.Generator().manual_seed(step))
    together = drawn(logits, [s for s, _ in rows], [d for _, d in rows], step)
    alone = [drawn(logits[k : k + 1], [s], [d], step)[0] for k, (s, d) in enumerate(rows)]
    assert together == alone


def test_seed_step_and_prompt_each_change_the_draws() -> None:
    flat = torch.zeros(1, 10_000)
    seeds = (0, 1)
    draws = {
        (seed, step, prompt): drawn(
            flat, [Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=seed)], [prompt], step
        )[0]
        for seed in seeds
        for step in (0, 1)
        for prompt in (b"a", b"b")
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[0, 0, b"a"] == drawn(flat, [PLAIN], [b"a"])[0]


def test_rows_at_temperature_zero_pass_as_they_are() -> None:
    scores = torch.stack([LOGITS, LOGITS])
    passed = Sampler([Sampling(), PLAIN], [b"a", b"a"], 1)(torch.zeros(2, 1).long(), scores)
    assert torch.equal(passed[0], LOGITS)
    assert not torch.equal(passed[1], LOGITS)
    assert torch.equal(scores, torch.stack([LOGITS, LOGITS]))  # the argument is left alone


@settings(max_examples=100)
@given(
    logits=st.lists(
        st.floats(-20, 20, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3),
        min_size=2,
        max_size=30,
    ),
    top_k=st.integers(1, 40),
    top_p=st.floats(0.01, 0.99),
)
def test_what_can_be_drawn_is_what_transformers_keeps(
    logits: list[float], top_k: int, top_p: float
) -> None:
    row = torch.tensor(logits)
    warped = transformers.TopPLogitsWarper(top_p)(
        None, transformers.TopKLogitsWarper(top_k)(None, row[None])
    )
    assert torch.equal(restrict(row, top_k, top_p), warped[0])


def test_zero_and_one_switch_the_limits_off() -> None:
    assert torch.equal(restrict(LOGITS, 0, 1.0), LOGITS)


def test_the_least_limits_leave_the_likeliest_token() -> None:
    for top_k, top_p in ((1, 1.0), (0, 1e-6), (0, 0.0)):
        assert restrict(LOGITS, top_k, top_p).isfinite().nonzero().flatten().tolist() == [0]


def picture(pixels: np.ndarray) -> Image:
    return Image(pixels, source="x", width=pixels.shape[1], height=pixels.shape[0])


def test_prompts_that_differ_have_other_digests() -> None:
    dark = np.zeros((4, 6, 3), np.uint8)
    light = dark.copy()
    light[3, 5, 2] = 1
    prompts = [
        Prompt("s", ("a", picture(dark))),
        Prompt("s", ("a", picture(light))),
        Prompt("s", ("a", picture(dark.reshape(6, 4, 3)))),
        Prompt("s", (picture(dark), "a")),
        Prompt("sa", (picture(dark),)),
        Prompt("s", ("a", picture(dark), picture(dark))),
        Prompt("s", ("a",)),
        Prompt("s", ("a", "")),
        Prompt("", ("s", "a")),
    ]
    assert len({digest(prompt) for prompt in prompts}) == len(prompts)


def test_the_digest_is_of_the_pixels_and_not_of_the_file() -> None:
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    named = Image(pixels[:, ::1].copy(), source="other", width=60, height=40, reduction=10)
    view = np.ascontiguousarray(pixels.transpose(1, 0, 2)).transpose(1, 0, 2)  # other memory order
    expected = digest(Prompt("s", (picture(pixels),)))
    assert digest(Prompt("s", (named,))) == expected
    assert digest(Prompt("s", (picture(view),))) == expected
