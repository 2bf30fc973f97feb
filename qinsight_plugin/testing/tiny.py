"""A vision-language model small enough to build in a test: its answers mean nothing.

The classes, the processor and the files are those of the published 7 B model; the weights are
random. It is there to run code that loads, asks and trains such a model, on a CPU, in a second and
without a network. Whatever it says about a picture, taught or not, is NO opinion of that picture's
quality: never use it to judge one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.reasoning.libraries import need, quiet
from qinsight_plugin.testing.lessons import brightness_lessons

ARCHITECTURES: Final = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""What `tiny_checkpoint` can build: the model types of transformers."""

_VOCABULARY: Final = 1000  # more than the few words of the corpus fill
_WIDTH: Final = 64
_HEADS: Final = 4

_VISION: Final[dict[str, dict[str, Any]]] = {
    "qwen2_vl": {
        "depth": 2,
        "embed_dim": _WIDTH,
        "hidden_size": _WIDTH,
        "num_heads": _HEADS,
        "initializer_range": 0.05,
    },
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_heads": _HEADS,
        "out_hidden_size": _WIDTH,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.05,
    },
    "qwen3_vl": {
        "depth": 2,
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_heads": _HEADS,
        "out_hidden_size": _WIDTH,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.05,
    },
}

_SPECIAL: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen's: a word with the character before it, each digit by itself, punctuation, line ends.
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_CHAT_TEMPLATE: Final = r"""
{%- for message in messages %}
  {%- if loop.first and message.role != "system" %}
    {{- "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" }}
  {%- endif %}
  {{- "<|im_start|>" + message.role + "\n" }}
  {%- if message.content is string %}
    {{- message.content }}
  {%- else %}
    {%- for part in message.content %}
      {%- if part.type in ("image", "image_url") %}
        {{- "<|vision_start|><|image_pad|><|vision_end|>" }}
      {%- elif part.type == "video" %}
        {{- "<|vision_start|><|video_pad|><|vision_end|>" }}
      {%- elif part.type == "text" %}
        {{- part.text }}
      {%- else %}
        {{- raise_exception("a part of a message is a text, an image or a video") }}
      {%- endif %}
    {%- endfor %}
  {%- endif %}
  {{- "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- "<|im_start|>assistant\n" }}
{%- endif %}
""".strip()


def tiny_checkpoint(folder: Path, *, architecture: str = "qwen2_5_vl", seed: int = 0) -> Path:
    """Save an untrained model of about half a million parameters, and its processor.

    Args:
        folder: where to; made if missing, and what is there of the same names is replaced.
        architecture: one of `ARCHITECTURES`.
        seed: of the weights; the same seed gives the same bits.

    Returns:
        `folder`, from which the Auto classes load the model, its tokenizer, its image processor,
        and, where torchvision is installed, `AutoProcessor` the whole processor.

    Raises:
        ConfigError: no such architecture.
        MissingExtraError: torch or transformers is not installed.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"no tiny {architecture!r} model: take one of {', '.join(ARCHITECTURES)}")
    torch, transformers = need("torch"), need("transformers")
    tokenizer = _tokenizer()
    config = _config(architecture, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config)
    model.generation_config = _generation(tokenizer)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _image_processor(architecture).save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    """Byte-level BPE with Qwen's special tokens and splitting."""
    tokenizers = need("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Split(tokenizers.Regex(_WORDS), "isolated"), byte_level]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return need("transformers").Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL[3:]),
        padding_side="left",
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _config(architecture: str, tokenizer: Any) -> Any:
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "intermediate_size": 3 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS // 2,
        "head_dim": _WIDTH // _HEADS,
        "max_position_embeddings": 4096,
        "initializer_range": 0.05,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "mrope",
            "rope_type": "default",
            "mrope_section": [2, 3, 3],  # time, height, width: half of a head's 16
        },
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    return need("transformers").AutoConfig.for_model(
        architecture,
        text_config=text,
        vision_config=_VISION[architecture],
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )


def _generation(tokenizer: Any) -> Any:
    """As Qwen's own: with a penalty on repetition, which whoever asks must know to put away."""
    token = tokenizer.convert_tokens_to_ids
    return need("transformers").GenerationConfig(
        do_sample=True,
        temperature=1e-6,
        repetition_penalty=1.05,
        bos_token_id=token("<|endoftext|>"),
        eos_token_id=[token("<|im_end|>"), token("<|endoftext|>")],
        pad_token_id=token("<|endoftext|>"),
    )


def _image_processor(architecture: str) -> Any:
    """The one that needs no torchvision; loaded where there is one, it becomes torchvision's."""
    transformers = need("transformers")
    name = "Qwen2VLImageProcessor"
    make = getattr(transformers, f"{name}Pil" if hasattr(transformers, f"{name}Pil") else name)
    patch = 16 if architecture == "qwen3_vl" else 14
    return make(min_pixels=(2 * patch) ** 2, max_pixels=(8 * patch) ** 2, patch_size=patch)


def _corpus() -> list[str]:
    """What the model will read and write: the published prompts and sample replies."""
    texts: list[str] = []
    for lesson in brightness_lessons(50):
        words = [part for part in lesson.prompt.parts if isinstance(part, str)]
        texts += [lesson.prompt.system, *words, lesson.reply]
    return texts
