"""The plugin host: built-ins and entry points behind one manager, each failure named.

pluggy alone names no plugin when one raises, stops at the first failure, and loads entry points
without a guard; this module adds those three things and nothing else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import pluggy

from qinsight_plugin import builtin, hookspecs
from qinsight_plugin.attempts import RewardSpec
from qinsight_plugin.errors import (
    ConfigError,
    PluginError,
    QInsightError,
    ScorerUnknownError,
    described,
    one_line,
)
from qinsight_plugin.records import Comparer, EncoderSpec, Scorer, ScorerSpec
from qinsight_plugin.usable import scorer_errors

T = TypeVar("T")

BLOCK_VARIABLE = "QINSIGHT_BLOCK_PLUGINS"
"""Environment variable: names of plugins to leave alone, separated by commas."""


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as `qinsight plugins` shows it. `error` is None when it is loaded."""

    name: str
    origin: str
    hooks: tuple[str, ...] = ()
    error: str | None = None
    blocked: bool = False


class PluginHost:
    """All plugins, and the ways to call them.

    Attributes:
        manager: the pluggy manager; tests and applications may register plugins on it.
        skipped: plugins that did not load, and those blocked by name.
    """

    def __init__(self, blocked: frozenset[str] = frozenset(), *, discover: bool = True) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.skipped: list[PluginInfo] = []
        self._origins: dict[str, str] = {}
        self._loaded: dict[str, Scorer] = {}
        self._comparers: dict[str, Comparer | None] = {}
        self._lock = threading.Lock()
        self.add(builtin, "builtin", "qinsight-plugin")
        if discover:
            for entry_point in entry_points(group=hookspecs.PROJECT):
                self._add_entry_point(entry_point, blocked)

    def add(self, plugin: object, name: str, origin: str) -> None:
        """Register a plugin.

        Raises:
            PluginError: the name is taken, or a hook is misspelt or has unknown arguments.
        """
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
        except (ValueError, pluggy.PluginValidationError) as error:
            if self.manager.get_plugin(name) is plugin:
                self.manager.unregister(plugin)
            raise PluginError(name, one_line(error)) from error
        self._origins[name] = origin

    def _add_entry_point(self, entry_point: EntryPoint, blocked: frozenset[str]) -> None:
        name = entry_point.name
        origin = f"{entry_point.dist.name} {entry_point.dist.version}" if entry_point.dist else "?"
        if name in blocked:
            self.skipped.append(PluginInfo(name, origin, blocked=True))
            return
        # A plugin's import may do anything, sys.exit included; none may end the host program.
        try:
            self.add(entry_point.load(), name, origin)
        except (Exception, SystemExit) as error:
            message = one_line(error) if isinstance(error, PluginError) else described(error)
            self.skipped.append(PluginInfo(name, origin, error=message))

    def plugins(self) -> list[PluginInfo]:
        """Every plugin, loaded ones first, in the order of registration."""
        loaded = [
            PluginInfo(
                name,
                origin,
                tuple(sorted(c.name for c in self.manager.get_hookcallers(plugin) or ())),
            )
            for name, origin in self._origins.items()
            if (plugin := self.manager.get_plugin(name)) is not None
        ]
        return [*loaded, *self.skipped]

    def require_all(self) -> None:
        """Refuse to go on without a plugin that failed: a lost policy would loosen a gate.

        Raises:
            PluginError: names the first plugin that did not load.
        """
        for info in self.skipped:
            if info.error:
                raise PluginError(
                    info.name,
                    f"did not load ({info.error}); mend it, uninstall {info.origin}, or set "
                    f"{BLOCK_VARIABLE}={info.name} to gate without it",
                )

    def decide(self, hook: str, **arguments: Any) -> Any:
        """The first answer to a `firstresult` hook.

        Raises:
            PluginError: names the plugin that raised anything but a QInsightError.
        """
        try:
            return getattr(self.manager.hook, hook)(**arguments)
        except QInsightError:
            raise
        except Exception as error:
            culprit = self._culprit(hook, error)
            raise PluginError(culprit, f"{hook} failed: {described(error)}") from error

    def each(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call a hook's plugins one at a time: (name, answer), answers of None left out.

        Every plugin is called, also after one has failed.

        Raises:
            PluginError: at the end, naming the first plugin that failed.
        """
        failure: PluginError | None = None
        plugins = self.manager.get_plugins()
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            others = plugins - {implementation.plugin}
            name = implementation.plugin_name
            try:
                answers = self.manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:
                if failure is None:
                    failure = PluginError(name, f"{hook} failed: {described(error)}")
                    failure.__cause__ = error
                continue
            yield from ((name, answer) for answer in answers)
        if failure is not None:
            raise failure

    def call(self, hook: str, **arguments: Any) -> None:
        """Call every plugin of a hook for its effect; errors as in `each`."""
        for _ in self.each(hook, **arguments):
            pass

    def _culprit(self, hook: str, error: BaseException) -> str:
        """The plugin whose function stands in the traceback."""
        codes = {
            getattr(implementation.function, "__code__", None): implementation.plugin_name
            for implementation in getattr(self.manager.hook, hook).get_hookimpls()
        }
        trace, name = error.__traceback__, "unknown"
        while trace is not None:
            name = codes.get(trace.tb_frame.f_code, name)
            trace = trace.tb_next
        return name

    def scorer_specs(self) -> dict[str, ScorerSpec]:
        """Every registered scorer by name; loads no model.

        Raises:
            PluginError: two plugins register the same name.
        """
        return self._registered("qinsight_register_scorers", "a scorer")

    def encoder_specs(self) -> dict[str, EncoderSpec]:
        """Every registered encoder by name; loads none. Errors as `scorer_specs`."""
        return self._registered("qinsight_register_encoders", "an encoder")

    def reward_specs(self) -> dict[str, RewardSpec]:
        """Every registered reward by name. Errors as `scorer_specs`."""
        return self._registered("qinsight_register_rewards", "a reward")

    def _registered(self, hook: str, what: str) -> dict[str, Any]:
        """What plugins register with a collecting hook, by name."""
        specs: dict[str, Any] = {}

        def register(spec: Any) -> None:
            if spec.name in specs:
                raise ConfigError(f"{what} named {spec.name!r} is registered already")
            specs[spec.name] = spec

        self.call(hook, register=register)
        return specs

    def scorer(self, name: str) -> Scorer:
        """The scorer that `NAME` or `NAME:ARGUMENT` asks for, loaded once.

        Raises:
            ScorerUnknownError: lists the names that exist.
            ScorerError, WeightsError, MissingExtraError: from loading it.
        """
        with self._lock:
            if name not in self._loaded:
                spec, argument = self.find_scorer(name)
                self._loaded[name] = load(spec, spec.load, argument)
            return self._loaded[name]

    def comparer(self, name: str) -> Comparer | None:
        """What that scorer compares two pictures with, loaded once; None if it only scores.

        Raises:
            ScorerUnknownError, ScorerError, WeightsError, MissingExtraError: as `scorer`.
        """
        with self._lock:
            if name not in self._comparers:
                spec, argument = self.find_scorer(name)
                make = spec.load_comparer
                self._comparers[name] = None if make is None else load(spec, make, argument)
            return self._comparers[name]

    def find_scorer(self, name: str) -> tuple[ScorerSpec, str]:
        """The spec that `NAME` or `NAME:ARGUMENT` asks for, and ARGUMENT.

        Raises:
            ScorerUnknownError: lists the names that exist.
        """
        if not isinstance(name, str):
            raise ConfigError(f"a scorer is called by its name, as 'student', not {name!r}")
        base, _, argument = name.partition(":")
        specs = self.scorer_specs()
        if base not in specs:
            raise ScorerUnknownError(self._unknown("scorer", base, specs))
        return specs[base], argument

    def find_encoder(self, name: str, media: str) -> EncoderSpec:
        """The spec of the encoder of that name, for "image" or "video".

        Raises:
            ConfigError: lists the names that exist.
        """
        specs = {key: spec for key, spec in self.encoder_specs().items() if spec.media == media}
        if name not in specs:
            raise ConfigError(self._unknown(f"encoder of {media}s", name, specs))
        return specs[name]

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> str:
        """The message, with the plugins that might have brought what is missing."""
        message = f"no {what} is named {name!r}; there are: {', '.join(sorted(known))}"
        failed = ", ".join(info.name for info in self.skipped if info.error)
        if not failed:
            return message
        return f"{message}; plugins that did not load: {failed} (see qinsight plugins)"


def load(spec: ScorerSpec, make: Callable[[str], T], argument: str) -> T:
    """What `make` loads; whatever else that raises becomes a ScorerError."""
    with scorer_errors(f"scorer {spec.name} did not load"):
        return make(argument)


def new_host() -> PluginHost:
    """A host with all plugins but those that the environment blocks, and nothing loaded yet."""
    names = os.environ.get(BLOCK_VARIABLE, "").split(",")
    return PluginHost(frozenset(name.strip() for name in names if name.strip()))


@lru_cache(maxsize=1)
def default_host() -> PluginHost:
    """The host that the public functions and the command line share."""
    return new_host()
