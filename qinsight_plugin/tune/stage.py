"""Scenes, rendered and looked at, at any setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qinsight_plugin.errors import ConfigError, ImageError, RenderError, ScorerError
from qinsight_plugin.tune.objective import Eye, Look, Objective, Outcome
from qinsight_plugin.tune.rendering import Guarded, Here, Render, Renderer

if TYPE_CHECKING:
    from qinsight_plugin.records import Image
    from qinsight_plugin.tune.space import Value


@dataclass(frozen=True, slots=True)
class Pair:
    """A scene before and after tuning."""

    before: Image
    after: Image
    looks: tuple[Look, Look]


class Stage:
    """Scenes, what renders them, and how they look at the default setting.

    Raises:
        ConfigError: the default setting cannot be rendered.
    """

    def __init__(
        self,
        render: Render,
        scenes: Sequence[Any],
        defaults: Mapping[str, Value],
        eye: Eye,
        objective: Objective,
        time_limit: float | None,
    ) -> None:
        self._count = len(scenes)
        self._eye, self._objective = eye, objective
        self._renderer: Renderer = (
            Here(render, scenes) if time_limit is None else Guarded(render, scenes, time_limit)
        )
        self._sizes: list[tuple[int, int]] = []
        try:
            self._default_looks = self._looks(defaults)
        except (RenderError, ScorerError, ImageError) as error:
            self.close()
            raise ConfigError(
                f"the default setting cannot be judged, so nothing can be tuned: {error}"
            ) from error
        self.default = self._outcome(self._default_looks)

    def judge(self, params: Mapping[str, Value]) -> Outcome:
        """Raises RenderError or ScorerError where a scene has no picture or no score."""
        return self._outcome(self._looks(params))

    def pairs(
        self, before: Mapping[str, Value], after: Mapping[str, Value], count: int
    ) -> tuple[Pair, ...]:
        """The first scenes at two settings. Raises as `judge`."""
        made = []
        for scene in range(min(count, self._count)):
            images = [self._renderer.render(params, scene)[0] for params in (before, after)]
            first, second = (self._eye.look(image) for image in images)
            made.append(Pair(images[0], images[1], (first, second)))
        return tuple(made)

    def close(self) -> None:
        self._renderer.close()

    def _looks(self, params: Mapping[str, Value]) -> list[Look]:
        return [self._look(params, scene) for scene in range(self._count)]

    def _look(self, params: Mapping[str, Value], scene: int) -> Look:
        image, seconds = self._renderer.render(params, scene)
        size = (image.width, image.height)
        if scene == len(self._sizes):  # the default setting, which is rendered first
            self._sizes.append(size)
        if size != self._sizes[scene]:
            raise RenderError(
                f"rendering scene {scene + 1} returned {size[0]}x{size[1]} pixels, at the default "
                f"setting {self._sizes[scene][0]}x{self._sizes[scene][1]}: keep the size"
            )
        return self._eye.look(image, seconds)

    def _outcome(self, looks: Sequence[Look]) -> Outcome:
        return self._objective.outcome(looks, [look.traits for look in self._default_looks])
