"""The search for a CRF on a lossless sample."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

from qinsight_plugin.errors import FloorUnreachedError
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.plugins import PluginHost
from qinsight_plugin.records import EncoderSpec, VideoEncoder
from qinsight_plugin.search import Certificate, search
from qinsight_plugin.video import ffmpeg
from qinsight_plugin.video.samples import Quality, Yardstick

SAMPLE_FRAMES = 12
SLACK = 0.15
"""How far under the floor of the mean the low percentile may lie, as a share of what that floor
itself allows; see `least_low`."""


def load_codec(codec: str, host: PluginHost) -> tuple[str, EncoderSpec, VideoEncoder]:
    """A codec as users ask for it, `NAME` or `NAME?SETTING=VALUE&...`.

    Raises:
        ConfigError: no such codec, or setting.
        MissingExtraError, EncoderMissingError: no ffmpeg, or one without it.
    """
    base, _, query = codec.partition("?")
    spec = host.find_encoder(base.strip(), "video")
    return codec.strip(), spec, spec.load(dict(parse_qsl(query, keep_blank_values=True)))


def least_low(floor: float, scale: tuple[float, float]) -> float:
    """The floor of the low percentile, from that of the mean: of 100, 70 becomes 65.5."""
    return floor - SLACK * (scale[1] - floor)


def margin(quality: Quality, scorer: Pipeline, floor: float) -> float:
    """By how much the worse of mean and low percentile lies over its floor, in its units."""
    spec = scorer.scorer.spec
    if not spec.higher_is_better:
        return min(floor - quality.mean, 1.5 * floor - quality.low)
    return min(quality.mean - floor, quality.low - least_low(floor, spec.range))


class SampleSearch:
    """The search on one lossless sample, which remembers what it has seen.

    Args:
        codec: as `load_codec` gives it.
        driver, floor: the scorer, and what the mean over frames must reach.
        sample: the file.
        folder: where to work.
        source: what the video is called.
    """

    def __init__(
        self,
        codec: tuple[str, EncoderSpec, VideoEncoder],
        driver: Pipeline,
        floor: float,
        sample: Path,
        folder: Path,
        source: str,
    ) -> None:
        self._name, self._spec, self._encoder = codec
        self._driver, self._floor = driver, floor
        self._sample, self._folder, self._source = sample, folder, source
        self._yardstick = Yardstick(sample, SAMPLE_FRAMES)
        self._margins: dict[float, float] = {}

    @property
    def probes(self) -> int:
        return len(self._margins)

    def find(self, more: float, tolerance: float) -> tuple[int, Certificate, float]:
        """The highest CRF whose sample lies `more` over the floor, what is known of it, and by how
        much it does lie over it.

        Raises:
            FloorUnreachedError: there is none.
            EncoderError, VideoError, ScorerError: from encoding and measuring.
        """
        # CRF falls as quality rises; the search wants settings that rise.
        settings = [-factor for factor in self._spec.quality_factors]
        found = search(
            self._measure, more, settings, tolerance=tolerance, known=dict(self._margins)
        )
        if found.certificate == "unreached":
            raise FloorUnreachedError(
                f"{self._name} cannot make {self._source} as good as asked: the best "
                f"reached is {found.value + self._floor:.4g} of {self._driver.name} at CRF "
                f"{-found.setting:g}; lower the floor"
            )
        return round(-found.setting), found.certificate, found.value

    def _measure(self, setting: float) -> float:
        encoded = self._folder / "probe.mkv"
        codec = self._encoder.arguments(round(-setting))
        ffmpeg.encode(self._encoder.ffmpeg, self._sample, codec, encoded)
        quality = self._yardstick.quality(encoded, self._driver)
        self._margins[setting] = margin(quality, self._driver, self._floor)
        return self._margins[setting]
