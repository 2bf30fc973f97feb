"""A student on a vision backbone of the Hugging Face hub: the backbone frozen, heads that learn.

Convolutional networks (ResNet, ConvNeXt, MobileNetV2, ...) and plain vision transformers (ViT,
DeiT, DINOv2, ...) will do: all that say `hidden_states` and take pictures of any size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, WeightsError
from qinsight_plugin.reasoning.libraries import quiet
from qinsight_plugin.student.heads import JudgingHeads
from qinsight_plugin.student.network import AnyStudent, StemOutput, mean_and_deviation

PREFIX = "hf:"

PROBE = (64, 96)
"""Height and width of the picture that shows what a backbone puts out: not square, so that
height and width cannot be mixed up, and not a size that anybody pretrains on."""

EARLIER_STATES = 3
"""Hidden states before the last, evenly spread over the depth, that describe the picture too."""

MOST_PREFIX_TOKENS = 16
"""A vision transformer's tokens that are no patches: the class, and registers."""


class Preprocessing(nn.Module):
    """uint8 [B, H, W, 3] sRGB -> float [B, 3, H, W], as the backbone was pretrained to see it.

    Of `preprocessor_config.json` it takes the rescaling, the mean and the deviation. Resizing and
    cropping it leaves out: a picture is judged at its own size.

    Args:
        values: what the JSON file holds.

    Raises:
        WeightsError: the values ask for something else, or are incomplete.
    """

    scale: Tensor
    mean: Tensor

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        super().__init__()
        for step in ("do_flip_channel_order", "rescale_offset"):
            if values.get(step):
                raise WeightsError(
                    f"{name}: its preprocessor_config.json sets {step}, which is not done here; "
                    "choose another backbone"
                )
        factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
        mean, deviation = [0.0] * 3, [1.0] * 3
        if values.get("do_normalize", True):
            try:
                mean, deviation = values["image_mean"], values["image_std"]
            except KeyError as error:
                raise WeightsError(
                    f"{name}: its preprocessor_config.json has no {error.args[0]}; add it"
                ) from error
        self.register_buffer("scale", factor / torch.tensor(deviation).view(3, 1, 1))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) / factor)

    def forward(self, images: Tensor) -> Tensor:
        return (images.float().permute(0, 3, 1, 2) - self.mean) * self.scale


class Backbone(nn.Module):
    """The frozen network, from pixels to maps; it stays in eval mode whatever it is told.

    A vision transformer sees whole patches only: up to a patch less one pixel goes unseen at the
    right and the bottom.

    Args:
        model: a vision model of transformers.
        preprocessing: as in `Preprocessing`.
        name: for messages.

    Raises:
        WeightsError: what it puts out cannot be laid out as maps.
        ConfigError: it does not take pictures of any size.
    """

    def __init__(self, model: nn.Module, preprocessing: Mapping[str, Any], name: str) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(preprocessing, name)
        self.model = model.float().eval().requires_grad_(False)
        self.options: dict[str, bool] = {"output_hidden_states": True, "return_dict": True}
        if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
            self.options["interpolate_pos_encoding"] = True
        self.patch = patch_side(model)
        self.prefix_tokens = 0
        self.probe(name)

    @torch.no_grad()
    def probe(self, name: str) -> None:
        """Look at what the model makes of a small picture, and at how to lay it out."""
        height, width = PROBE
        try:
            states = self.states(torch.zeros(1, height, width, 3, dtype=torch.uint8))
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{name} does not take pictures of any size, {width}x{height} for one "
                f"({first_sentence(error)}); choose a backbone that does"
            ) from error
        ranks = {state.dim() for state in states}
        if ranks == {3} and self.patch:
            patches = (height // self.patch) * (width // self.patch)
            self.prefix_tokens = states[-1].shape[1] - patches
        if ranks not in ({3}, {4}) or not 0 <= self.prefix_tokens <= MOST_PREFIX_TOKENS:
            shapes = ", ".join(sorted({str(tuple(state.shape)) for state in states}))
            raise WeightsError(
                f"{name}: hidden states of the shapes {shapes} are neither maps nor patches of a "
                f"{width}x{height} picture; choose a convolutional network or a plain ViT"
            )

    def train(self, mode: bool = True) -> Backbone:
        super().train(False)
        return self

    def states(self, images: Tensor) -> Sequence[Tensor]:
        """The hidden states that are used, shallow to deep; the last is the model's output."""
        output = self.model(self.preprocessing(images), **self.options)
        hidden = output.get("hidden_states") or ()
        last = len(hidden) - 1
        taps = sorted({last * k // (EARLIER_STATES + 1) for k in range(1, EARLIER_STATES + 1)})
        return [*(hidden[tap] for tap in taps if tap < last), output["last_hidden_state"]]

    def forward(self, images: Tensor) -> list[Tensor]:
        """uint8 [B, H, W, 3] -> maps [B, C, h, w], shallow to deep."""
        states = self.states(images)
        if states[-1].dim() == 4:
            return list(states)
        height, width = images.shape[1] // self.patch, images.shape[2] // self.patch
        patches = [state[:, self.prefix_tokens :].transpose(1, 2) for state in states]
        return [x.reshape(x.shape[0], x.shape[1], height, width) for x in patches]


class HubStudent(AnyStudent):
    """A student whose stem is the whole backbone; to fit and cache it is as `network.Student`.

    Its map has a cell for each of the backbone's, often 14, 16 or 32 pixels wide.

    Args:
        backbone: see `load_hub_backbone`.
    """

    map_step = 1

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.model.config  # optimum's exporter looks for it here
        with torch.no_grad():
            stem = self.stem(torch.zeros(1, *PROBE, 3, dtype=torch.uint8))
        self.stem_channels = stem.feature_map.shape[1]
        self.stem_shallow = stem.shallow.shape[1]
        self.heads = JudgingHeads(self.stem_shallow + 2 * self.stem_channels, self.stem_channels)

    def stem(self, images: Tensor) -> StemOutput:
        """images: uint8 [B, H, W, 3], H and W at least 32.

        Returns:
            the backbone's output, and the mean and deviation of the picture's own channels and of
            the states that `Backbone` takes from lower down.
        """
        *earlier, feature_map = self.backbone(images)
        pixels = images.float().permute(0, 3, 1, 2) / 127.5 - 1.0
        return StemOutput(
            feature_map, torch.cat([mean_and_deviation(x) for x in (pixels, *earlier)], 1)
        )

    @property
    def tail_features(self) -> nn.Module:
        """The blocks that training changes: none."""
        return nn.Identity()

    @property
    def all_features(self) -> nn.Module:
        return self.tail_features

    def stem_state(self) -> dict[str, Tensor]:
        """The weights, and the preprocessing, that decide what `stem` makes of a picture."""
        state: dict[str, Tensor] = self.backbone.state_dict()
        return state

    def describe(self, stem: StemOutput) -> tuple[Tensor, Tensor]:
        """The pooled description [B, width] of the picture, and the features of its map."""
        pooled = torch.cat([stem.shallow, mean_and_deviation(stem.feature_map)], 1)
        return pooled, stem.feature_map


def load_hub_backbone(name: str) -> Backbone:
    """Load a backbone of the hub, or of a folder that `save_pretrained` wrote.

    No code of the repository is run.

    Args:
        name: "hf:facebook/dinov2-small", or "hf:FOLDER".

    Raises:
        MissingExtraError: transformers is not installed.
        WeightsError: the model cannot be had, is incomplete, or is not a vision backbone.
        ConfigError: it does not take pictures of any size.
    """
    require("transformers", package="transformers", extra="optimum", purpose=f"backbone {name}")
    from transformers import AutoModel, ImageProcessingMixin

    source = name.removeprefix(PREFIX)
    with loading(name):
        model, report = AutoModel.from_pretrained(
            source, trust_remote_code=False, output_loading_info=True
        )
    if model.main_input_name != "pixel_values":
        raise WeightsError(
            f"{name} is no vision backbone: {type(model).__name__} takes {model.main_input_name}; "
            "name one whose input is a picture"
        )
    with loading(name):
        # The values, not a processor: making one may need torchvision.
        values, _ = ImageProcessingMixin.get_image_processor_dict(source)
    # transformers draws at random what the file lacks; the pooler, which is not used, may be.
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise WeightsError(
            f"{name} lacks {len(missing)} of the backbone's tensors, {min(missing)} for one; save "
            "it again from the whole model"
        )
    return Backbone(model, values, name)


@contextmanager
def loading(name: str) -> Iterator[None]:
    try:
        with quiet():
            yield
    except Exception as error:  # not found, offline, damaged, unknown: each its own kind
        raise WeightsError(
            f"cannot load {name} ({first_sentence(error)}); name a folder with config.json, "
            "preprocessor_config.json and the weights, or a model of the hub that is cached or "
            "can be reached"
        ) from error


def patch_side(model: nn.Module) -> int:
    """Of a vision transformer, in pixels; 0 where the configuration names none."""
    side = getattr(model.config, "patch_size", 0)
    if isinstance(side, (list, tuple)) and len(set(side)) == 1:
        side = side[0]
    return side if isinstance(side, int) else 0


def first_sentence(error: Exception) -> str:
    """The first sentence of what may be a page."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__
