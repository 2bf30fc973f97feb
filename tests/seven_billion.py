"""What Q-Insight's 7 billion parameters cost: `python -m tests.seven_billion`, on a GPU.

The weights are random: time and memory do not depend on them. A JSON line is printed as each stage
ends: questions as the scorer `reasoning` asks them, then steps of GRPO with LoRA as `train grpo`
takes them. `--steps` leaves the questions out, `--questions` the steps, where time is short. With
`--tiny` the same code runs on a CPU, on a model of which nothing is to be learnt.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image as PILImage
from transformers import TrainerCallback

from qinsight_plugin.attempts import Attempt, RewardSpec, Row
from qinsight_plugin.grpo.config import Config, DataSet, Lora, Optimisation, Validation, Wanted
from qinsight_plugin.grpo.judge import Judge
from qinsight_plugin.grpo.trainer import Trainer, arguments_of
from qinsight_plugin.grpo.validation import HeldOut
from qinsight_plugin.reasoning.encoding import Encoder
from qinsight_plugin.reasoning.loading import PIXELS, Checkpoint, load_checkpoint
from qinsight_plugin.reasoning.local import LocalModel
from qinsight_plugin.reasoning.model import Completion, Sampling
from qinsight_plugin.reasoning.prompts import ANSWER_PREFIX, ask_rating
from qinsight_plugin.records import Image
from qinsight_plugin.testing import tiny_checkpoint
from qinsight_plugin.testing.tiny import _tokenizer

SIDES = (1120, 896)
"""Of the pictures: all the pixels that the scorer lets a model see."""

TOKENS = 128
"""Of every reply."""

REPLIES = 8

# What config.json of Qwen/Qwen2.5-VL-7B-Instruct says.
TEXT = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [16, 24, 24]},
}
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}


def say(stage: str, **figures: Any) -> None:
    if torch.cuda.is_available():
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        torch.cuda.reset_peak_memory_stats()
    print(json.dumps({"stage": stage, **figures}), flush=True)


def now() -> float:
    """Seconds, when all that was asked of the GPU has been done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def random_model(tiny: bool) -> Checkpoint:
    if tiny:
        return load_checkpoint(str(tiny_checkpoint(Path(tempfile.mkdtemp()))))
    tokenizer = _tokenizer()
    token = tokenizer.convert_tokens_to_ids
    ends = {"eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>")}
    config = transformers.AutoConfig.for_model(
        "qwen2_5_vl",
        text_config={**TEXT, **ends},
        vision_config=VISION,
        tie_word_embeddings=False,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    with torch.device("cuda"):
        model = transformers.AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model.generation_config = transformers.GenerationConfig(eos_token_id=ends["eos_token_id"])
    kind = getattr(transformers, "Qwen2VLImageProcessorPil", transformers.Qwen2VLImageProcessor)
    images = kind(min_pixels=56 * 56, max_pixels=PIXELS, patch_size=14)
    encoder = Encoder(tokenizer, images, token("<|image_pad|>"), PIXELS)
    return Checkpoint(model.to("cuda").eval(), encoder, "random")


def write_pictures(folder: Path, sides: tuple[int, int]) -> list[Path]:
    """Noise, as many as replies."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{k}.png" for k in range(REPLIES)]
    for path in paths:
        pixels = rng.integers(0, 256, (sides[1], sides[0], 3), np.uint8)
        PILImage.fromarray(pixels).save(path)
    return paths


def answer(checkpoint: Checkpoint, pictures: Sequence[Image]) -> None:
    """So many questions at once: one pass for the rating alone, then a whole reply."""
    count = len(pictures)
    local = LocalModel(checkpoint, "random weights", count)
    prompts = [ask_rating(picture) for picture in pictures]
    local.complete(prompts, [Sampling(max_tokens=4)] * count)  # warm
    begun = now()
    local.next_token(prompts, ANSWER_PREFIX, "12345")
    read = now()
    replies = local.complete(prompts, [Sampling(max_tokens=TOKENS)] * count)
    ended = now()
    done = [reply for reply in replies if isinstance(reply, Completion)]
    written = sum(reply.completion_tokens for reply in done)
    say(
        "questions",
        at_once=count,
        prompt_tokens=done[0].prompt_tokens,
        written_tokens=written,
        direct_images_per_s=round(count / (read - begun), 2),
        thinking_images_per_s=round(count / (ended - read), 3),
        written_tokens_per_s=round(written / max(1e-9, ended - read - (read - begun)), 1),
    )


@dataclass
class Clock(TrainerCallback):
    """Tells of each step as it ends; the first one warms up."""

    about: dict[str, Any]
    begun: float = 0.0
    writing: float = 0.0
    steps: list[float] = field(default_factory=list)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begun, self.writing = now(), 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds = now() - self.begun
        self.steps.append(seconds)
        say(
            f"step {len(self.steps)}",
            **self.about,
            step_s=round(seconds, 2),
            of_it_writing_s=round(self.writing, 2),
            of_it_learning_s=round(seconds - self.writing, 2),
            written_tokens_per_s=round(REPLIES * TOKENS / max(1e-9, self.writing), 1),
        )


def learn(
    checkpoint: Checkpoint, paths: Sequence[Path], *, at_once: int, checkpointing: bool
) -> Checkpoint:
    """Three steps of 8 replies to one question each, LoRA of rank 16; the adapters are taken off
    again."""
    folder = Path(tempfile.mkdtemp())
    config = Config(
        "random",
        folder,
        (DataSet("score", folder / "none", scale=(1, 5)),),
        train=Optimisation(
            generations=REPLIES,
            batch=REPLIES,
            per_device=at_once,
            max_tokens=TOKENS,
            pixels=PIXELS,
            gradient_checkpointing=checkpointing,
        ),
        lora=Lora(rank=16),
        validation=Validation(every=10**6),
    )
    rows = [Row("score", (path,), 3.0, path.name) for path in paths[:3]]
    judge = Judge([Wanted(RewardSpec("noise", noise, ("score",), ""), 1.0, {})])
    cuda = torch.cuda.is_available()
    arguments = arguments_of(config, folder, cuda=cuda, processes=1)
    arguments.save_strategy = "no"
    arguments.generation_kwargs = {"min_new_tokens": TOKENS}
    held = HeldOut((), PIXELS, REPLIES)
    trainer = Trainer(checkpoint, config, arguments, rows, held, judge)
    clock = Clock({"differentiated_at_once": at_once, "gradient_checkpointing": checkpointing})
    trainer.add_callback(clock)
    write = trainer._generate_single_turn

    def timed(*given: Any, **more: Any) -> Any:
        begun = now()
        written = write(*given, **more)
        clock.writing += now() - begun
        say("replies", written_s=round(clock.writing, 2))
        return written

    setattr(trainer, "_generate_single_turn", timed)  # noqa: B010 (TRL's own method)
    trainer.train()
    return checkpoint._replace(model=trainer.model.unload())


def noise(attempts: Sequence[Attempt]) -> list[float]:
    """Rewards that differ, so that there is something to learn from."""
    return [float(value) for value in np.random.default_rng(0).uniform(size=len(attempts))]


def main() -> None:
    options = sys.argv[1:]
    tiny = "--tiny" in options
    sides = (112, 84) if tiny else SIDES
    checkpoint = random_model(tiny)
    say("model", parameters=sum(p.numel() for p in checkpoint.model.parameters()))
    paths = write_pictures(Path(tempfile.mkdtemp()), sides)
    pictures = [Image(np.asarray(PILImage.open(path)), path.name, *sides) for path in paths]
    for count in () if "--steps" in options else (1, REPLIES):
        answer(checkpoint, pictures[:count])
    for at_once, checkpointing in () if "--questions" in options else ((2, False), (REPLIES, True)):
        checkpoint = learn(checkpoint, paths, at_once=at_once, checkpointing=checkpointing)


if __name__ == "__main__":
    main()
