"""Encoders of pictures: Pillow's own, and JPEG XL and HEIC through their packages."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, EncoderError, EncoderMissingError, one_line
from qinsight_plugin.reasoning.arguments import require_none_left, take_settings
from qinsight_plugin.records import EncoderSpec

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@dataclasses.dataclass(frozen=True)
class PillowEncoder:
    """Any format that Pillow, or a plugin of it, can save.

    Attributes:
        format: as Pillow names it.
        version: of all that the bytes depend on.
        open: bytes in a stream -> the picture, its pixels perhaps not read yet.
        options: quality factor -> what `PIL.Image.Image.save` takes besides.
    """

    format: str
    version: str
    open: Callable[[io.BytesIO], PILImage]
    options: Callable[[int], dict[str, Any]]

    def encode(self, picture: PILImage, quality_factor: int) -> bytes:
        """A whole file.

        Raises:
            EncoderError: the encoder refuses this picture.
        """
        buffer = io.BytesIO()
        names = ("icc_profile", "exif", "xmp")
        kept = {name: picture.info[name] for name in names if picture.info.get(name)}
        try:
            picture.save(buffer, self.format, **kept, **self.options(quality_factor))
        except Exception as error:  # encoders raise anything
            width, height = picture.size
            raise EncoderError(
                f"the {self.format} encoder failed on {width}x{height} pixels of mode "
                f"{picture.mode} at quality {quality_factor}: {one_line(error)}"
            ) from error
        return buffer.getvalue()

    def decode(self, data: bytes) -> PILImage:
        from qinsight_plugin.containers import quiet_pillow

        with quiet_pillow():
            picture = self.open(io.BytesIO(data))
            picture.load()
        return picture


FULL_CHROMA_FROM = 90
"""Quality factor from which "auto" keeps chroma at full resolution, as ImageMagick and libvips do:
at half of it no quality factor is visually lossless."""

CHROMA = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}


def chroma(subsampling: str, quality_factor: int) -> str:
    if subsampling == "auto":
        return CHROMA["444" if quality_factor >= FULL_CHROMA_FROM else "420"]
    return CHROMA[subsampling]


@dataclasses.dataclass(frozen=True)
class Subsampled:
    subsampling: str = "auto"
    """Of chroma: 420, 422, 444, or auto: see `FULL_CHROMA_FROM`."""

    def __post_init__(self) -> None:
        if self.subsampling not in ("auto", *CHROMA):
            raise ConfigError(f"subsampling is auto, {', '.join(CHROMA)}, not {self.subsampling!r}")


@dataclasses.dataclass(frozen=True)
class JpegSettings(Subsampled):
    pass


@dataclasses.dataclass(frozen=True)
class WebpSettings:
    method: int = 4
    """Effort, 0 (fast) to 6."""


@dataclasses.dataclass(frozen=True)
class AvifSettings(Subsampled):
    speed: int = 6
    """0 (slow, small) to 10."""


@dataclasses.dataclass(frozen=True)
class JxlSettings:
    effort: int = 5
    """1 (fast) to 9."""


@dataclasses.dataclass(frozen=True)
class HeicSettings:
    pass


def read(kind: type[Any], settings: Mapping[str, str], name: str) -> Any:
    """The settings of an encoder from their texts.

    Raises:
        ConfigError: one is unknown, or of the wrong kind.
    """
    left = dict(settings)
    taken = take_settings(kind, left, name)
    require_none_left(left, name, kind)
    return taken


def pillow_version(feature: str, name: str) -> str:
    """What this build of Pillow encodes with.

    Raises:
        EncoderMissingError: it was built without.
    """
    import PIL
    from PIL import features

    if not features.check(feature):
        raise EncoderMissingError(
            f"this build of Pillow ({PIL.__version__}) has no {name} encoder: install Pillow 11.3 "
            "or newer from PyPI, whose wheels have it"
        )
    return f"pillow {PIL.__version__} {feature} {features.version(feature)}"


def load_jpeg(settings: Mapping[str, str]) -> PillowEncoder:
    from PIL.JpegImagePlugin import JpegImageFile

    chosen: JpegSettings = read(JpegSettings, settings, "jpeg")
    version = pillow_version("jpg", "JPEG")

    def options(quality_factor: int) -> dict[str, Any]:
        subsampling = chroma(chosen.subsampling, quality_factor)
        return {
            "quality": quality_factor,
            "subsampling": subsampling,
            "progressive": True,
            "optimize": True,
        }

    return PillowEncoder("JPEG", version, JpegImageFile, options)


def load_webp(settings: Mapping[str, str]) -> PillowEncoder:
    from PIL.WebPImagePlugin import WebPImageFile

    chosen: WebpSettings = read(WebpSettings, settings, "webp")
    version = pillow_version("webp", "WebP")
    return PillowEncoder(
        "WEBP", version, WebPImageFile, lambda q: {"quality": q, "method": chosen.method}
    )


def load_avif(settings: Mapping[str, str]) -> PillowEncoder:
    from PIL.AvifImagePlugin import AvifImageFile

    chosen: AvifSettings = read(AvifSettings, settings, "avif")
    version = pillow_version("avif", "AVIF")

    def options(quality_factor: int) -> dict[str, Any]:
        return {
            "quality": quality_factor,
            "subsampling": chroma(chosen.subsampling, quality_factor),
            "speed": chosen.speed,
            "max_threads": 1,  # pictures are worked on side by side already
        }

    return PillowEncoder("AVIF", version, AvifImageFile, options)


def load_jxl(settings: Mapping[str, str]) -> PillowEncoder:
    chosen: JxlSettings = read(JxlSettings, settings, "jxl")
    require(
        "pillow_jxl", package="pillow-jxl-plugin", extra="codecs", purpose="the JPEG XL encoder"
    )
    from importlib.metadata import version

    from pillow_jxl.JpegXLImagePlugin import JXLImageFile

    fixed = {"effort": chosen.effort, "num_threads": 1}
    return PillowEncoder(
        "JXL",
        f"pillow-jxl-plugin {version('pillow-jxl-plugin')}",
        JXLImageFile,
        lambda q: {"quality": q, **fixed},
    )


def load_heic(settings: Mapping[str, str]) -> PillowEncoder:
    read(HeicSettings, settings, "heic")
    heif = require("pillow_heif", package="pillow-heif", extra="codecs", purpose="the HEIC encoder")
    from pillow_heif.as_plugin import HeifImageFile

    library = heif.libheif_info()
    if not library["HEIF"]:
        raise EncoderMissingError(
            f"this build of pillow-heif ({heif.__version__}) has no HEVC encoder: install its "
            "wheel from PyPI, which has x265"
        )
    heif.register_heif_opener()  # Pillow saves HEIF only once it is registered
    return PillowEncoder(
        "HEIF",
        f"pillow-heif {heif.__version__} libheif {library['libheif']} {library['HEIF']}",
        HeifImageFile,
        lambda q: {"quality": q},
    )


_ALL: Any = frozenset({"alpha", "icc", "exif", "xmp"})

SPECS = (
    EncoderSpec(
        "jpeg",
        load_jpeg,
        "JPEG, progressive; jpeg?subsampling=444 for sharp colour edges",
        ".jpg",
        range(1, 101),
        keeps=_ALL - {"alpha"},
    ),
    EncoderSpec("webp", load_webp, "WebP; webp?method=6", ".webp", range(1, 101), keeps=_ALL),
    EncoderSpec("avif", load_avif, "AVIF; avif?speed=4", ".avif", range(1, 101), keeps=_ALL),
    EncoderSpec(
        "jxl",
        load_jxl,
        "JPEG XL; jxl?effort=7 (extra codecs)",
        ".jxl",
        range(1, 100),
        keeps=_ALL - {"icc"},  # its package writes no profile
    ),
    EncoderSpec(
        "heic", load_heic, "HEIC by x265 (extra codecs)", ".heic", range(1, 101), keeps=_ALL
    ),
)
