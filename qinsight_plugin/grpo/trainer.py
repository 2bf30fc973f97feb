"""TRL's `GRPOTrainer`, and what a retrainer needs that it lacks.

Added are: rewards that name the row when they fail; measurement on held-out rows, by greedy
replies, at every checkpoint; checkpoints that are whole or not there; a strict reload. The
algorithm, sampling and the loss are TRL's own, with the settings of the published training:
the loss is averaged over the tokens of each reply and then over replies (`loss_type="grpo"`), and
the divergence is not corrected for importance.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from accelerate.utils import gather_object
from peft import LoraConfig
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from qinsight_plugin.attempts import Attempt, Row
from qinsight_plugin.errors import WeightsError, one_line
from qinsight_plugin.grpo.config import Config
from qinsight_plugin.grpo.judge import Judge, attempt_at
from qinsight_plugin.grpo.processor import make_processor, messages_of
from qinsight_plugin.grpo.run import WHOLE
from qinsight_plugin.grpo.validation import HeldOut, figures, merit, replies
from qinsight_plugin.reasoning.libraries import need
from qinsight_plugin.reasoning.loading import Checkpoint, Loading, load_checkpoint
from qinsight_plugin.reasoning.local import LocalModel

BEST: Final = "merit"

OnAttempts = Callable[[int, Sequence[Attempt], Sequence[float]], None]
OnHeld = Callable[[int, Sequence[Attempt]], None]


def arguments_of(config: Config, folder: Path, *, cuda: bool, processes: int) -> GRPOConfig:
    """The settings of TRL's trainer that mean what ours do."""
    train, every = config.train, config.validation.every
    return GRPOConfig(
        output_dir=str(folder),
        # The rows are laid out for the whole training, in order, as one epoch.
        num_train_epochs=1,
        shuffle_dataset=False,
        remove_unused_columns=False,
        per_device_train_batch_size=train.per_device,
        per_device_eval_batch_size=train.generations,
        gradient_accumulation_steps=train.batch // (train.per_device * processes),
        num_generations=train.generations,
        num_iterations=train.iterations,
        learning_rate=train.learning_rate,
        warmup_steps=train.warmup,  # under 1 it is a share of the steps
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        lr_scheduler_type="linear",
        optim="adamw_torch",
        beta=train.beta,
        epsilon=train.epsilon,
        loss_type="grpo",
        use_bias_correction_kl=False,
        temperature=train.temperature,
        top_k=train.top_k,
        top_p=train.top_p,
        max_completion_length=train.max_tokens,
        gradient_checkpointing=train.gradient_checkpointing,
        use_vllm=train.vllm,
        vllm_mode="colocate",
        bf16=cuda,
        seed=train.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        metric_for_best_model=BEST,
        greater_is_better=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
    )


def adapters_of(config: Config) -> LoraConfig | None:
    """LoRA on all linear layers of the language model; the part that sees stays as it is."""
    if not config.lora.rank:
        return None
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,  # type: ignore[arg-type]  # any number
        lora_dropout=config.lora.dropout,
        target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        task_type="CAUSAL_LM",
    )


class Trainer(GRPOTrainer):  # type: ignore[misc]
    """Trains on rows.

    Args:
        checkpoint: the model to start from.
        config: how to train.
        arguments: see `arguments_of`.
        rows: what to ask about, in order, each as often as it is there; see `schedule`.
        held: what to measure on; of no rows, nothing is measured.
        judge: gives the rewards.
        on_attempts: called with the step, the replies of a batch of this process, and their
            rewards.
        on_held: called with the step and the replies about all that is held back.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Config,
        arguments: GRPOConfig,
        rows: Sequence[Row],
        held: HeldOut,
        judge: Judge,
        on_attempts: OnAttempts | None = None,
        on_held: OnHeld | None = None,
    ) -> None:
        datasets = need("datasets", extra="grpo")
        self._checkpoint, self._config, self._held = checkpoint, config, held
        self._judge, self._rows = judge, rows
        self._on_attempts, self._on_held = on_attempts, on_held
        self._judged: tuple[Any, list[list[float | None]]] = (None, [])
        # Rows are turned into conversations as they are drawn: this holds numbers only.
        order = datasets.Dataset.from_dict({"row": list(range(len(rows)))})
        order.set_transform(self._conversations)
        if not held.rows:
            arguments.eval_strategy, arguments.metric_for_best_model = "no", None
        super().__init__(
            model=checkpoint.model,
            reward_funcs=[self._column(k) for k in range(len(judge.wanted))],
            args=arguments,
            train_dataset=order,
            eval_dataset=order,  # there has to be one; `evaluate` asks about `held` instead
            processing_class=make_processor(checkpoint.encoder),
            peft_config=adapters_of(config),
        )
        self.reward_func_names = [one.spec.name for one in judge.wanted]
        self.reward_weights = torch.tensor([one.weight for one in judge.wanted])
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    def _conversations(self, batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        prompts = [messages_of(self._rows[k]) for k in batch["row"]]
        return {"prompt": prompts, "row": batch["row"]}

    def _column(self, k: int) -> Callable[..., list[float | None]]:
        """One reward as TRL calls it. All are computed at once, when the first is asked for."""

        def reward(
            completions: list[Any], completion_ids: list[list[int]], row: list[int], **more: Any
        ) -> list[float | None]:
            if self._judged[0] is not completions:
                columns = self._judge_batch(completions, completion_ids, row, more["log_metric"])
                self._judged = (completions, columns)
            return self._judged[1][k]

        reward.__name__ = self._judge.wanted[k].spec.name
        return reward

    def _judge_batch(
        self,
        completions: list[Any],
        completion_ids: list[list[int]],
        rows: list[int],
        log: Callable[[str, float], None],
    ) -> list[list[float | None]]:
        attempts = [
            attempt_at(
                self._rows[row],
                row,  # a row that comes again is another number, so that this tells groups apart
                completion[0]["content"],
                cut=not ids or ids[-1] not in self.eos_token_ids,
            )
            for completion, ids, row in zip(completions, completion_ids, rows, strict=True)
        ]
        columns = self._judge.judge(attempts)
        totals = self._judge.totals(columns)
        for one, total in zip(attempts, totals, strict=True):
            log(f"{one.row.task}/reward", total)
            log(f"{one.row.task}/unreadable", float(not one.readable))
        if self._on_attempts is not None:
            self._on_attempts(self.state.global_step + 1, attempts, totals)
        return columns

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *more: Any, **rest: Any
    ) -> Any:
        if self.use_vllm:  # it opens no files
            from PIL import Image

            from qinsight_plugin.decode import decode

            images = [[Image.fromarray(decode(path).pixels) for path in own] for own in images]
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *more, **rest)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure on what was held back; every process asks about a part of it."""
        found = self.measure()
        found = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(found))
        after = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        self.control: Any = after
        if self._exhausted():
            self.control.should_training_stop = True
        return found

    @property
    def measures(self) -> bool:
        return bool(self._held.rows)

    def measure(self) -> dict[str, float]:
        """The figures of the model as it is; all processes call this together."""
        count, place = self.accelerator.num_processes, self.accelerator.process_index
        rows = self._held.rows[: len(self._held.rows) // count * count]  # as many for each
        was_training = self.model.training
        self.model.eval()
        try:
            with (
                unwrap_model_for_generation(
                    self.model_wrapped,
                    self.accelerator,
                    gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                ) as model,
                torch.no_grad(),
                self._dist.summon_full_params(self.model_wrapped, recurse=False),
            ):
                base = model.get_base_model() if hasattr(model, "get_base_model") else model
                asked = LocalModel(self._checkpoint._replace(model=base), "the model in training")
                attempts = gather_object(replies(asked, self._held, rows[place::count]))
        finally:
            self.model.train(was_training)
        if self._on_held is not None:
            self._on_held(self.state.global_step, attempts)
        found = figures(attempts, self._judge)
        return {**found, BEST: merit(found, self._config.validation.metric)}

    def _exhausted(self) -> bool:
        """Whether the last `patience` measurements brought nothing better."""
        key, patience = f"eval_{BEST}", self._config.validation.patience
        merits = [entry[key] for entry in self.state.log_history if key in entry]
        return patience > 0 and len(merits) - 1 - merits.index(max(merits)) >= patience

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Ours is written at the end."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        folder = Path(self.args.output_dir)
        (folder / f"checkpoint-{self.state.global_step}" / WHOLE).touch()
        kept = {self.state.global_step, self.state.best_global_step}
        for old in folder.glob("checkpoint-*"):
            if int(old.name.partition("-")[2]) not in kept:
                shutil.rmtree(old)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """All tensors, or an error: transformers takes a file with other names for a part, and goes
        on with what it had (its issue 43701)."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if sharded or self._config.lora.rank:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        dtype = str(self.model.dtype).removeprefix("torch.")
        saved = load_checkpoint(resume_from_checkpoint, loading=Loading("cpu", dtype))
        try:
            self.model.load_state_dict(saved.model.state_dict(), strict=True)
        except RuntimeError as error:
            reason = one_line(error)[:200]
            raise WeightsError(f"{resume_from_checkpoint} is not this model's: {reason}") from error


def require_same_reference(trainer: Trainer) -> None:
    """The divergence is from the model that training starts from; TRL loads it a second time.

    Raises:
        WeightsError: it was loaded differently.
    """
    reference = getattr(trainer, "ref_model", None)
    if reference is None or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return
    own = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    other = trainer.accelerator.unwrap_model(reference).state_dict()
    for name, tensor in own.items():
        if name not in other or not torch.equal(tensor.cpu(), other[name].cpu()):
            raise WeightsError(
                f"the reference for beta was loaded differently from the model: {name} differs; "
                "set beta = 0, or report this with the version of transformers"
            )
