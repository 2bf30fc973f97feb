"""A tuning as one TOML file: what is tuned, on which scenes, what may be turned, how far.

output = "tuned"                    # the folder for the report, the study and the best setting

[pipeline]                          # one of these four
isp = true                          # the reference ISP, on raw files, or photographs made raw
function = "mine.isp:develop"       # develop(params, path) -> picture
command = "dev --wb {wb} {scene} -o {output}"
camera = 0                          # the names in the space are its controls

[scenes]                            # files, or patterns of them, from this file's folder
train = ["raw/*.dng"]
held_out = ["raw2/*.dng"]

[space]                             # of the ISP: its own, where nothing is said
wb = { low = 2500, high = 9000, default = 5500, step = 50 }
mode = { values = ["fast", "fine"], default = "fast" }

[bounds]                            # `Bounds`; false lifts one
[objective]                         # worst, penalty, leash; pairs = "pairs.csv"
[search]                            # trials, sampler, seed, patience, time_limit, goals
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.pipeline import DEFAULT_SCORER
from qinsight_plugin.toml import read_toml
from qinsight_plugin.tune.bounds import Bounds
from qinsight_plugin.tune.objective import Objective
from qinsight_plugin.tune.pipelines import Camera, Command, control_number, find
from qinsight_plugin.tune.rendering import Render
from qinsight_plugin.tune.space import Choice, Number, Space

SECTIONS = ("pipeline", "scenes", "space", "bounds", "objective", "search")
PIPELINES = ("isp", "function", "command", "camera")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


@dataclass(frozen=True, slots=True)
class Search:
    """The table `[search]`; see `study.tune`."""

    trials: int = 150
    sampler: str = "tpe"
    seed: int = 0
    patience: int | None = None
    time_limit: float = 60.0
    goals: tuple[str, ...] = ("quality",)


@dataclass(frozen=True, slots=True)
class Config:
    """
    Attributes:
        output: the folder for all that comes of it.
        scenes, held_out: what `render` takes; `names` and `held_out_names` say what to call them.
        pairs: people's comparisons, see `taste`; None: none.
    """

    output: Path
    render: Render
    space: Space
    scenes: tuple[Any, ...]
    held_out: tuple[Any, ...]
    objective: Objective
    search: Search
    pairs: Path | None = None
    scorer: str = DEFAULT_SCORER
    names: tuple[str, ...] = field(default=())
    held_out_names: tuple[str, ...] = field(default=())


def read_config(path: Path) -> Config:
    """The tuning that a file describes.

    Raises:
        ConfigError: it cannot be read, or has an unknown key, or a value that is wrong.
        ImageError: a scene cannot be read.
    """
    told = read_toml(path)
    try:
        return _Reader(path.parent, told).config()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


class _Reader:
    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        self._folder = folder
        self._told = told
        known(told, ("output", "scorer", *SECTIONS), "the file")

    def config(self) -> Config:
        kind, render, settings = self._pipeline()
        space = self._space(kind)
        if isinstance(render, Command):
            render.check(space.defaults)
        if isinstance(render, Camera):
            for name in (*space.parameters, *render.fixed):
                control_number(name)
        objective = dict(self._section("objective"))
        pairs = objective.pop("pairs", None)
        if pairs is not None and not isinstance(pairs, str):
            raise ConfigError(f"[objective] pairs must be the name of a file, not {pairs!r}")
        told_bounds = self._section("bounds")
        limits = {name: None if limit is False else limit for name, limit in told_bounds.items()}
        bounds = record(Bounds, limits, "[bounds]")
        search = dict(self._section("search"))
        if "goals" in search:
            search["goals"] = tuple(words(search["goals"], "[search] goals"))
        names, held_out_names = self._scenes(kind, settings)
        return Config(
            self._folder / str(self._told.get("output", "tuned")),
            render,
            space,
            tuple(scene(kind, name) for name in names),
            tuple(scene(kind, name) for name in held_out_names),
            record(Objective, {"bounds": bounds, **objective}, "[objective]"),
            record(Search, search, "[search]"),
            None if pairs is None else self._folder / pairs,
            str(self._told.get("scorer", DEFAULT_SCORER)),
            names,
            held_out_names,
        )

    def _section(self, name: str) -> Mapping[str, Any]:
        section = self._told.get(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"[{name}] must be a table")
        return section

    def _pipeline(self) -> tuple[str, Render, Mapping[str, Any]]:
        told = dict(self._section("pipeline"))
        named = [name for name in PIPELINES if name in told]
        if len(named) != 1:
            raise ConfigError(f"[pipeline] must name one of {', '.join(PIPELINES)}")
        kind = named[0]
        target = told.pop(kind)
        if kind == "isp":
            from qinsight_plugin.tune import isp

            known(told, (), "[pipeline]")
            return kind, isp.render, told
        if kind == "function":
            known(told, (), "[pipeline]")
            return kind, find(str(target)), told
        if kind == "command":
            return kind, record(Command, {"line": str(target), **told}, "[pipeline]"), told
        settings: dict[str, Any] = {
            key: told.pop(key) for key in ("fixed", "driver", "settle") if key in told
        }
        known(told, ("shots", "held_out_shots"), "[pipeline]")
        if isinstance(target, bool) or not isinstance(target, (int, str)):
            raise ConfigError(f"[pipeline] camera must be a number or a device, not {target!r}")
        fixed = settings.get("fixed", {})
        if not isinstance(fixed, dict) or not all(
            isinstance(value, (int, float)) for value in fixed.values()
        ):
            raise ConfigError("[pipeline] fixed must be a table of controls and their numbers")
        return kind, record(Camera, {"device": target, **settings}, "[pipeline]"), told

    def _space(self, kind: str) -> Space:
        told = self._section("space")
        if kind == "isp":
            from qinsight_plugin.tune.isp import SPACE

            if not told:
                return SPACE
            known(told, SPACE.parameters, "[space]")
        return Space({name: parameter(name, how) for name, how in told.items()})

    def _scenes(
        self, kind: str, settings: Mapping[str, Any]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if kind == "camera":
            return shots(settings.get("shots", 3)), shots(settings.get("held_out_shots", 0))
        told = self._section("scenes")
        known(told, ("train", "held_out"), "[scenes]")
        train, held_out = (self._files(told, role) for role in ("train", "held_out"))
        if not train:
            raise ConfigError("[scenes] names no file to tune on: train = ['raw/*.dng'], say")
        if both := set(train) & set(held_out):
            raise ConfigError(f"{min(both)} is both a scene to tune on and one held out")
        return train, held_out

    def _files(self, told: Mapping[str, Any], role: str) -> tuple[str, ...]:
        patterns = words(told.get(role, []), f"[scenes] {role}")
        found: dict[str, None] = {}
        for pattern in patterns:
            full = Path(pattern).expanduser()
            root = Path(full.anchor) if full.is_absolute() else self._folder
            relative = full.relative_to(full.anchor) if full.is_absolute() else full
            try:
                matches = sorted(str(one) for one in root.glob(str(relative)) if one.is_file())
            except (ValueError, IndexError):  # no pattern: "", "/" or "**.png"
                matches = []
            if not matches:
                raise ConfigError(f"[scenes] {role}: no file matches {pattern}")
            found.update(dict.fromkeys(matches))
        return tuple(found)


def scene(kind: str, name: str) -> Any:
    """What the pipeline is given: the ISP a raw picture, others the name."""
    if kind != "isp":
        return name
    from qinsight_plugin.tune.raw import open_raw

    return open_raw(Path(name))


def words(told: Any, where: str) -> list[str]:
    if not isinstance(told, list) or not all(isinstance(word, str) for word in told):
        raise ConfigError(f"{where} must be a list of words in quotes, not {told!r}")
    return told


def shots(count: Any) -> tuple[str, ...]:
    """Names of a camera's scenes: several frames of one, so that noise averages out."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ConfigError(f"[pipeline]: shots must be a whole number, not {count!r}")
    return tuple(f"shot {number + 1}" for number in range(count))


def parameter(name: str, told: Any) -> Number | Choice:
    if not isinstance(told, dict):
        raise ConfigError(f"[space] {name} must be a table of low, high, default, or of values")
    if "values" in told:
        values = told["values"]
        if not isinstance(values, list):
            raise ConfigError(f"[space] {name}: values must be a list, not {values!r}")
        choice: Choice = record(Choice, {**told, "values": tuple(values)}, f"[space] {name}")
        return choice
    number: Number = record(Number, told, f"[space] {name}")
    return number


def record(kind: Any, told: Mapping[str, Any], where: str) -> Any:
    """The record of that kind, its numbers checked for being some."""
    fields = {one.name: one for one in dataclasses.fields(kind)}
    known(told, fields, where)
    for name, one in fields.items():
        needed = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        if needed and name not in told:
            raise ConfigError(f"{where} lacks {name}")
    for name, value in told.items():
        annotation = str(fields[name].type)
        wanted = _TYPES.get(annotation.removesuffix(" | None"), ())
        wrong = isinstance(value, bool) and wanted != (bool,)
        if wanted and value is not None and (wrong or not isinstance(value, wanted)):
            raise ConfigError(f"{where}: {name} must be of type {annotation}, not {value!r}")
    return kind(**told)


def known(told: Mapping[str, Any], names: Any, where: str) -> None:
    import difflib

    for name in told:
        if name not in names:
            near = difflib.get_close_matches(name, list(names), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"{where} has the unknown key {name!r}; {hint}")
