"""The network that pyiqa is given."""

from __future__ import annotations

import torch

import qinsight_plugin
from qinsight_plugin.errors import ConfigError, ImageDecodeError
from qinsight_plugin.records import Image


class QInsightMetric(torch.nn.Module):
    """Asks the package. It has no parameters, and nothing can be learnt through it.

    Args:
        scorer: as for `qinsight_plugin.score`.
    """

    def __init__(self, scorer: str = "student") -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """
        Args:
            images: float [B, 1 or 3, H, W], RGB, 0 to 1; rounded to 8 bits, which is exact for what
                pyiqa reads from 8-bit files.

        Returns:
            float [B, 1], MOS 1 to 5, on the images' device.

        Raises:
            ConfigError: a gradient is asked for.
            ImageDecodeError: it is no batch of pictures, or a value is NaN or infinite.
            QInsightError: a picture cannot be scored.
        """
        if images.requires_grad:
            raise ConfigError("qinsight has no gradient: use it as a metric, not as a loss")
        shape = tuple(images.shape)
        is_batch = len(shape) == 4 and shape[1] in (1, 3) and 0 not in shape[2:]
        if not is_batch or not images.is_floating_point():
            raise ImageDecodeError(
                f"a {images.dtype} tensor of shape {list(shape)} is no batch of pictures: "
                "pass float [B, 1 or 3, H, W], 0 to 1"
            )
        if not images.isfinite().all():
            raise ImageDecodeError("the images hold NaN or infinite values: see what made them")
        levels = (images.detach().cpu().float() * 255).round().clamp(0, 255).to(torch.uint8)
        pixels = levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
        height, width = pixels.shape[1:3]
        values = [
            qinsight_plugin.score(
                Image(picture, f"image {number}", width, height), scorer=self.scorer
            ).value
            for number, picture in enumerate(pixels, 1)
        ]
        return torch.tensor(values, dtype=torch.float32, device=images.device)[:, None]
