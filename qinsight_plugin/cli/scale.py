"""Options of the commands that read ratings."""

from __future__ import annotations

from typing import TypeAlias

import click

SCALE: TypeAlias = tuple[float, float]


class ScaleType(click.ParamType):  # type: ignore[type-arg]
    """`LOW:HIGH`, the lowest and the highest possible rating."""

    name = "LOW:HIGH"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> SCALE:
        low, _, high = str(value).partition(":")
        try:
            return float(low), float(high)
        except ValueError:
            self.fail(f"{value!r} is not LOW:HIGH, such as 1:5 or 0:100", param, ctx)


scale_option = click.option(
    "--scale", type=ScaleType(), help="Lowest and highest possible rating, such as 1:5 or 0:100."
)
images_option = click.option(
    "--images",
    type=click.Path(file_okay=False),
    help="Where the pictures lie.  [default: the folder of LABELS.CSV]",
)
