"""Every error that the package raises on purpose.

    QInsightError
    ├── ConfigError (ValueError)                 a setting, policy or argument is wrong
    ├── ImageError (ValueError)                  this picture cannot be used
    │   ├── ImageNotFoundError (FileNotFoundError)
    │   ├── ImageUnreadableError (OSError)       it exists, the system will not read it
    │   ├── ImageDecodeError                     not an image, truncated, corrupt, bad array
    │   ├── ImageUnsupportedError                a format outside the allow-list
    │   ├── ImageTooLargeError                   over the pixel limit
    │   ├── ImageTooCostlyError                  decoding takes more time or memory than allowed
    │   └── ImageTooSmallError                   under what the scorer can judge
    ├── ScorerError (RuntimeError)               a scorer did not give a usable score
    │   ├── ScorerUnknownError (LookupError)
    │   ├── ReferenceMissingError                a full-reference scorer got no reference
    │   ├── ScoreParseError                      a reasoning model's words hold no answer
    │   │   └── ReplyCutError                    they end at the token limit
    │   └── ScoreRangeError                      NaN, or outside the scorer's declared range
    ├── WeightsError (RuntimeError)              a model file is not what it should be
    │   ├── WeightsNotFoundError (FileNotFoundError)
    │   └── WeightsChecksumError
    ├── EncoderError (RuntimeError)              an encoder failed on this picture or video
    │   ├── EncoderMissingError (LookupError)    the program or library here was built without it
    │   └── FloorUnreachedError                  no setting is good enough
    ├── VideoError (ValueError)                  this video cannot be used
    ├── LabelsError (ValueError)                 a label file cannot be learnt from or measured on
    ├── RenderError (RuntimeError)               a pipeline that is tuned gave no picture
    ├── RewardError (RuntimeError)               a reward failed; names the row
    ├── ServingError (RuntimeError)              a server cannot do its work
    │   ├── BusyError                            its queue is full; says when to try again
    │   └── FetchError                           an address that it will not or cannot fetch
    ├── MissingExtraError (ImportError)          an optional dependency is not installed
    ├── BrokenExtraError (ImportError)           it is installed and does not load
    └── PluginError (RuntimeError)               a plugin failed; carries its name

Each also inherits the builtin that a caller would catch. A message is one line: what failed, on
what, what to do. A rejected picture is a `Verdict`, not an error.
"""

from __future__ import annotations


class QInsightError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigError(QInsightError, ValueError):
    """A setting, policy or argument is wrong."""


class ImageError(QInsightError, ValueError):
    """This picture cannot be used; another one may be."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no file of that name."""


class ImageUnreadableError(ImageError, OSError):
    """The file exists, but the operating system will not read it."""


class ImageDecodeError(ImageError):
    """The data is not an image, is truncated or corrupt, or an array of the wrong kind."""


class ImageUnsupportedError(ImageError):
    """The data is an image in a format outside the allow-list."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit; checked before its pixels are decoded."""


class ImageTooCostlyError(ImageError):
    """Decoding the image took more time or memory than a server allows, or ended the process."""


class ImageTooSmallError(ImageError):
    """The image has fewer pixels than the scorer can judge."""


class ScorerError(QInsightError, RuntimeError):
    """A scorer did not give a usable score."""


class ScorerUnknownError(ScorerError, LookupError):
    """No scorer is registered under that name."""


class ReferenceMissingError(ScorerError):
    """A full-reference scorer was asked to score without a reference."""


class ScoreParseError(ScorerError):
    """A reasoning model's reply could not be read as an answer.

    Attributes:
        reply: all that it wrote.
    """

    def __init__(self, message: str, reply: str = "") -> None:
        super().__init__(message)
        self.reply = reply


class ReplyCutError(ScoreParseError):
    """A reasoning model's reply reached the limit of tokens before its answer was complete."""


class ScoreRangeError(ScorerError):
    """A scorer returned NaN or a number outside the range that it declares."""


class WeightsError(QInsightError, RuntimeError):
    """A model file is not what it should be."""


class WeightsNotFoundError(WeightsError, FileNotFoundError):
    """There is no model file of that name."""


class WeightsChecksumError(WeightsError):
    """A model file differs from the checksum that was published with it."""


class EncoderError(QInsightError, RuntimeError):
    """An encoder failed on this picture or video."""


class EncoderMissingError(EncoderError, LookupError):
    """The program or library that is installed was built without this encoder."""


class FloorUnreachedError(EncoderError):
    """No setting of the encoder is good enough; the message says the best that was reached."""


class VideoError(QInsightError, ValueError):
    """This video cannot be used: not one, without frames, or beyond what is kept right."""


class LabelsError(QInsightError, ValueError):
    """A label file cannot be learnt from or measured on."""


class RenderError(QInsightError, RuntimeError):
    """A pipeline that is being tuned raised, hung, crashed or returned no picture."""


class RewardError(QInsightError, RuntimeError):
    """A reward raised while a model was trained by it, or gave no finite number."""


class ServingError(QInsightError, RuntimeError):
    """A server cannot do its work."""


class BusyError(ServingError):
    """A server's queue is full.

    Attributes:
        retry_after: seconds after which there should be room again.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class FetchError(ServingError):
    """An address that a server will not fetch, or could not."""


class MissingExtraError(QInsightError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed: "
            f"run pip install 'qinsight-plugin[{extra}]'",
            name=package,
        )
        self.extra = extra


class BrokenExtraError(QInsightError, ImportError):
    """An optional dependency is installed and does not load."""


class PluginError(QInsightError, RuntimeError):
    """A plugin failed.

    Attributes:
        plugin: the plugin's registered name.
    """

    def __init__(self, plugin: str, message: str) -> None:
        super().__init__(f"plugin {plugin}: {message}")
        self.plugin = plugin


def one_line(message: object) -> str:
    """Somebody else's message, fit to stand in one of ours."""
    return " ".join(str(message).split())


def described(error: BaseException) -> str:
    """What kind of error it is, and what it says, in one line."""
    return one_line(f"{type(error).__name__}: {error}")
