"""A vision-language model in this process."""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from qinsight_plugin.batcher import Batcher
from qinsight_plugin.errors import ConfigError, ScorerError
from qinsight_plugin.reasoning.encoding import Encoded
from qinsight_plugin.reasoning.finding import DEFAULT_TARGET, Purpose
from qinsight_plugin.reasoning.libraries import need, out_of_memory, reason_of
from qinsight_plugin.reasoning.loading import Checkpoint, Loading, load_checkpoint
from qinsight_plugin.reasoning.model import Completion, NextToken, Prompt, Sampling
from qinsight_plugin.reasoning.sampler import Sampler, digest

if TYPE_CHECKING:
    import torch

_LINGER: Final = 0.02
"""Seconds that a batch waits to fill: little to a reply, which takes seconds, and enough for
threads that were answered together to ask again together."""


@dataclass(frozen=True, slots=True, eq=False)
class _ToWrite:
    row: Encoded
    sampling: Sampling
    digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class _ToRead:
    row: Encoded
    prefix: list[int]
    choices: list[int]


Q = TypeVar("Q", _ToWrite, _ToRead)
A = TypeVar("A", Completion, NextToken)


class LocalModel:
    """A `LanguageModel` of the Qwen-VL families, run by transformers.

    Threads that ask at the same time are answered in one batch. Rounding alone lets an answer
    depend on the others in it: as good as never in float32; in bfloat16 two tokens that are nearly
    as likely can change places, and the reply goes on from there.

    Args:
        checkpoint: see `loading.load_checkpoint`.
        name: what to call it in a message.
        batch: most prompts that are answered at once. When memory is not enough for so many, it is
            halved for good, and every answer from then on says so in its notes.

    Raises:
        ConfigError: `batch` is under 1.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, batch: int = 8) -> None:
        if batch < 1:
            raise ConfigError(f"batch must be 1 or more, not {batch}")
        self._model, self._encoder, self._version = checkpoint
        self._name = name
        self._batch = self._fits = batch
        self._takes = inspect.signature(self._model.forward).parameters
        tokenizer = self._encoder.tokenizer
        ends = self._model.generation_config.eos_token_id or tokenizer.eos_token_id
        self._ends: list[int] = [ends] if isinstance(ends, int) else list(ends)
        # The model remembers the positions of its last batch, so that one at a time can run.
        self._running = threading.Lock()
        self._writer: Batcher[_ToWrite, Completion | ScorerError] = Batcher(
            lambda asked: self._in_parts(self._write, asked), batch, _LINGER
        )
        self._reader: Batcher[_ToRead, NextToken | ScorerError] = Batcher(
            lambda asked: self._in_parts(self._read, asked), batch, _LINGER
        )

    @classmethod
    def load(
        cls,
        target: str = DEFAULT_TARGET,
        purpose: Purpose = "score_degradation",
        loading: Loading | None = None,
        batch: int = 8,
    ) -> LocalModel:
        """Load and get ready; see `loading.load_checkpoint` for the arguments and the errors."""
        return cls(load_checkpoint(target, purpose, loading), target, batch)

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    def complete(
        self, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[Completion | ScorerError]:
        """See `LanguageModel`. A reply's tokens include the one that ends it.

        Raises:
            ScorerError: the model failed, other than for want of memory; a prompt for which alone
                the memory is not enough gets that as its answer.
        """
        answers: list[Completion | ScorerError] = []
        pairs = list(zip(prompts, samplings, strict=True))
        for start in range(0, len(pairs), self._batch):
            asked = [
                row if isinstance(row, ScorerError) else _ToWrite(row, sampling, digest(prompt))
                for prompt, sampling in pairs[start : start + self._batch]
                for row in [self._encoded(prompt)]
            ]
            answers += _answered(self._writer, asked)
        return answers

    def next_token(
        self, prompts: Sequence[Prompt], prefix: str, choices: Sequence[str]
    ) -> list[NextToken | ScorerError]:
        """See `LanguageModel`.

        Raises:
            ConfigError: one of `choices` is not one token after `prefix`.
            ScorerError: as `complete`.
        """
        before, after = self._encoder.next_ids(prefix, choices)
        answers: list[NextToken | ScorerError] = []
        for start in range(0, len(prompts), self._batch):
            rows = map(self._encoded, prompts[start : start + self._batch])
            asked = [r if isinstance(r, ScorerError) else _ToRead(r, before, after) for r in rows]
            answers += _answered(self._reader, asked)
        return answers

    def _encoded(self, prompt: Prompt) -> Encoded | ScorerError:
        try:
            return self._encoder.encode(prompt)
        except ScorerError as error:
            return error

    def _write(self, asked: Sequence[_ToWrite]) -> list[Completion | ScorerError]:
        transformers = need("transformers")
        inputs = self._inputs([one.row for one in asked], [()] * len(asked))
        start = inputs["input_ids"].shape[1]
        sampler = Sampler([one.sampling for one in asked], [one.digest for one in asked], start)
        written = self._model.generate(
            **inputs,
            logits_processor=transformers.LogitsProcessorList([sampler]),
            generation_config=transformers.GenerationConfig(
                max_new_tokens=max(one.sampling.max_tokens for one in asked),
                do_sample=False,
                eos_token_id=self._ends,
                pad_token_id=self._encoder.tokenizer.pad_token_id,
            ),
        )
        replies = written[:, start:].tolist()
        return [self._completion(one, tokens) for one, tokens in zip(asked, replies, strict=True)]

    def _completion(self, asked: _ToWrite, tokens: list[int]) -> Completion:
        """What a row of the batch says by itself: up to its own end, or its own limit."""
        tokens = tokens[: asked.sampling.max_tokens]
        end = next((k for k, token in enumerate(tokens, 1) if token in self._ends), None)
        text = self._encoder.tokenizer.decode(
            tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Completion(
            text=text,
            prompt_tokens=len(asked.row.tokens),
            completion_tokens=end or len(tokens),
            cut=end is None,
            notes=asked.row.notes,
        )

    def _read(self, asked: Sequence[_ToRead]) -> list[NextToken | ScorerError]:
        inputs = self._inputs([one.row for one in asked], [one.prefix for one in asked])
        logits = self._model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        probabilities = logits.float().softmax(-1).cpu()
        return [self._chances(one, row) for one, row in zip(asked, probabilities, strict=True)]

    def _chances(self, asked: _ToRead, probabilities: torch.Tensor) -> NextToken | ScorerError:
        chosen = probabilities[asked.choices]
        if not chosen.isfinite().all():
            return ScorerError(f"{self._name} computed NaN: load it in bfloat16 or float32")
        return NextToken(
            probabilities=tuple(chosen.tolist()),
            prompt_tokens=len(asked.row.tokens) + len(asked.prefix),
            notes=asked.row.notes,
        )

    def _inputs(
        self, rows: Sequence[Encoded], after: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        batch = self._encoder.batch(rows, after)
        # transformers 4.57 has no use for `mm_token_type_ids`, and refuses it.
        return {k: v.to(self._model.device) for k, v in batch.items() if k in self._takes}

    def _in_parts(
        self, work: Callable[[Sequence[Q]], list[A | ScorerError]], asked: Sequence[Q]
    ) -> list[A | ScorerError]:
        """`work(asked)`, in as many parts as the memory asks for."""
        answers: list[A | ScorerError] = []
        while rest := asked[len(answers) :]:
            part = rest[: self._fits]
            done = self._within_memory(work, part)
            if done is None and len(part) > 1:
                self._fits = min(self._fits, len(part) // 2)
            else:
                answers += done or [self._too_large(part[0])]
        if self._fits == self._batch:
            return answers
        note = f"batch cut to {self._fits}: memory"
        return [one if isinstance(one, ScorerError) else _noted(one, note) for one in answers]

    def _within_memory(
        self, work: Callable[[Sequence[Q]], list[A | ScorerError]], part: Sequence[Q]
    ) -> list[A | ScorerError] | None:
        """`work(part)`; None when memory is not enough."""
        torch = need("torch")
        try:
            with self._running, torch.inference_mode():
                return work(part)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise ScorerError(
                    f"{self._name} failed on a batch of {len(part)}: {reason_of(error)}"
                ) from error
        # Only here, with the error gone, does nothing hold on to what was computed.
        torch.cuda.empty_cache()
        return None

    def _too_large(self, asked: _ToWrite | _ToRead) -> ScorerError:
        return ScorerError(
            f"{self._name} ran out of memory on one prompt of {len(asked.row.tokens)} tokens: "
            "lower pixels or max_tokens, or quantize it"
        )


def _answered(
    batcher: Batcher[Q, A | ScorerError], asked: Sequence[Q | ScorerError]
) -> list[A | ScorerError]:
    """The answers, with each error in its place."""
    answers = iter(batcher.submit([one for one in asked if not isinstance(one, ScorerError)]))
    return [one if isinstance(one, ScorerError) else next(answers) for one in asked]


def _noted(answer: A, note: str) -> A:
    return dataclasses.replace(answer, notes=(*answer.notes, note))
