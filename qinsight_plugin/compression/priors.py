"""Prior curves: how a measure goes with an encoder's quality factor, learnt from pictures.

`priors.json` beside this file was learnt by `qinsight eval-compress --learn`; it says from what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.search import Curve
from qinsight_plugin.sorting import write_into

SHIPPED = Path(__file__).with_name("priors.json")


class Priors:
    """Curves by encoder and scorer.

    Attributes:
        curves: (encoder as asked for, scorer) -> what is known of the one over the other.
        corpus: what the shipped ones were learnt from, in words.
    """

    def __init__(
        self, curves: Mapping[tuple[str, str], Curve] | None = None, corpus: str = ""
    ) -> None:
        self.curves = dict(curves or {})
        self.corpus = corpus

    def curve(self, encoder: str, scorer: str) -> Curve | None:
        """The curve for that pair, or for the same encoder at its usual settings, or None."""
        usual = encoder.partition("?")[0]
        return self.curves.get((encoder, scorer)) or self.curves.get((usual, scorer))

    def learn(self, encoder: str, scorer: str, values: Mapping[float, float]) -> None:
        """Update a curve by what was measured on one more picture; None is known, none is made."""
        curve = self.curve(encoder, scorer)
        if curve is not None and values:
            self.curves[encoder, scorer] = curve.updated(values)

    def save(self, path: Path) -> None:
        """Write a file that `load_priors` reads, all of it or nothing.

        Raises:
            ConfigError: it cannot be written.
        """
        curves: dict[str, dict[str, Any]] = {}
        for (encoder, scorer), curve in sorted(self.curves.items()):
            curves.setdefault(encoder, {})[scorer] = curve.to_json()
        text = json.dumps({"corpus": self.corpus, "curves": curves}, indent=None)
        text = text.replace('{"knots"', '\n{"knots"') + "\n"
        write_into(text.encode(), path, overwrite=True)


def load_priors(path: Path = SHIPPED) -> Priors:
    """Read a file of prior curves.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        curves = {
            (encoder, scorer): Curve.from_json(curve)
            for encoder, of_encoder in document["curves"].items()
            for scorer, curve in of_encoder.items()
        }
        return Priors(curves, str(document["corpus"]))
    except OSError as error:
        raise ConfigError(f"cannot read the prior curves {path}: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no prior curves ({error}): learn them again") from error
