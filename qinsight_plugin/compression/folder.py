"""Many pictures into a folder: several processes, a report that a killed run resumes from.

Results are computed in other processes and written by this one: the line in the report first, then
the file, which appears whole. A file that is there as a line says, for the same source and the same
settings, is not made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from qinsight_plugin.compression.original import Metadata, Profile
from qinsight_plugin.compression.outcome import (
    Outcome,
    failure,
    outcome_of,
    read_report,
    taken_error,
)
from qinsight_plugin.compression.picture import Compressed, Compressor
from qinsight_plugin.compression.presets import Preset
from qinsight_plugin.compression.priors import SHIPPED, Priors, load_priors
from qinsight_plugin.errors import ConfigError, EncoderError, QInsightError
from qinsight_plugin.parallel import in_order
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.search.probes import ProbeCache
from qinsight_plugin.sorting import write_into

REPORT = "qinsight-report.jsonl"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to compress; what a process needs to make its own `Compressor`."""

    preset: Preset
    formats: tuple[str, ...]
    metadata: Metadata = "keep"
    profile: Profile = "keep"
    each: bool = False
    priors: Path = SHIPPED
    cache: Path | None = None

    def fingerprint(self) -> str:
        """Changes with anything that the results depend on."""
        chosen = dataclasses.asdict(self)
        del chosen["priors"], chosen["cache"]
        return hashlib.sha256(repr(sorted(chosen.items())).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Task:
    """One picture of a run.

    Attributes:
        path: the file.
        stem: where to put the result, the suffix left out.
    """

    path: Path
    stem: Path


def plan(paths: Iterable[tuple[str, Path | None]], folder: Path) -> list[Task | Outcome]:
    """Where each file's result goes; two that would share a name are told apart here.

    Args:
        paths: files, and the folder in which each was found; those between are kept.
    """
    stems: dict[Path, str] = {}
    tasks: list[Task | Outcome] = []
    for name, root in paths:
        path = Path(name)
        between = path.parent.relative_to(root) if root else Path()
        stem = folder / between / path.stem
        if stem in stems and stems[stem] != name:
            error = ConfigError(
                f"{name} would be written as {stem}, as {stems[stem]} is: rename one, or use "
                "another folder"
            )
            tasks.append(failure(name, error))
            continue
        stems[stem] = name
        tasks.append(Task(path, stem))
    return tasks


def is_same(target: Path, source: Path) -> bool:
    return target.exists() and target.samefile(source)


def holds(target: Path, data: bytes) -> bool:
    return target.is_file() and target.read_bytes() == data


class FolderRun:
    """A run over many pictures.

    Args:
        folder: where results and the report go.
        settings: how to compress.
        overwrite: replace files that are there.
        workers: processes; 1 works in this one. None: as many as there are cores.
        learn: a file of prior curves to update from this run, at its end.

    Raises:
        ConfigError, EncoderMissingError, ...: as `Compressor`; or the report cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        overwrite: bool = False,
        workers: int | None = None,
        learn: Path | None = None,
        host: PluginHost | None = None,
    ) -> None:
        self._folder, self._settings, self._overwrite = folder, settings, overwrite
        self._workers = workers or os.cpu_count() or 1
        self._learn = learn
        self._priors = load_priors(settings.priors) if learn else Priors()
        host = host or default_host()
        names = [name.partition("?")[0].strip() for name in settings.formats]
        self._suffixes = {host.find_encoder(name, "image").suffix for name in names}
        self._report = folder / REPORT
        self._done = read_report(self._report)
        self._results = {
            Path(name).resolve(): size
            for outcome in self._done.values()
            for name, size in outcome.outputs.items()
        }
        self._local = Maker(settings)  # always one here: what is wrong is said before any work

    def outcomes(self, tasks: Sequence[Task | Outcome]) -> Iterator[Outcome]:
        """One for each task, in order, each written to the report when its files are there.

        Raises:
            ConfigError: the folder cannot be written to, or its disk is full.
        """
        if self._workers == 1 or len(tasks) == 1:
            yield from self._finish(map(self._work_here, tasks))
        else:
            context = get_context("spawn")  # threads and onnxruntime do not survive a fork
            with ProcessPoolExecutor(
                self._workers, context, start_worker, (self._settings,)
            ) as pool:
                try:
                    yield from self._finish(
                        in_order(lambda task: self._work_there(pool, task), tasks, self._workers)
                    )
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
        if self._learn is not None:
            self._priors.save(self._learn)

    def _work_here(self, task: Task | Outcome) -> _Made:
        if isinstance(task, Outcome):
            return _Made(None, task)
        if known := self._known(task):
            return _Made(None, known)
        return self._local.make(task)

    def _work_there(self, pool: ProcessPoolExecutor, task: Task | Outcome) -> _Made:
        if isinstance(task, Outcome):
            return _Made(None, task)
        if known := self._known(task):
            return _Made(None, known)
        try:
            return pool.submit(make_in_worker, task).result()
        except BrokenProcessPool as error:
            raise EncoderError(
                f"a process died over {task.path}, perhaps for want of memory: use fewer --workers"
            ) from error

    def is_result(self, path: Path) -> bool:
        """Whether an earlier run wrote that file: results may lie beside their sources."""
        # Whether it is a file first: a link that leads to itself cannot be resolved.
        return path.is_file() and self._results.get(path.resolve()) == path.stat().st_size

    def _known(self, task: Task) -> Outcome | None:
        """What is known before any work: that it was done before, or that its name is taken."""
        version = version_of(task.path, self._settings)
        before = self._done.get((str(task.path), version))
        if before is not None and before.is_there():
            return dataclasses.replace(before, state="done before")
        # With --each a run may have been killed between two files of one picture.
        own = before.outputs if before else {}
        for suffix in sorted({*self._suffixes, task.path.suffix}):
            target = Path(f"{task.stem}{suffix}")
            try:
                is_taken = target.exists() and not is_same(target, task.path)
            except OSError as error:  # too long a name, for one
                reason = f"cannot write {target}: {error.strerror}; rename the source"
                return failure(str(task.path), ConfigError(reason))
            if is_taken and not self._overwrite and str(target) not in own:
                return failure(str(task.path), taken_error(target))
        return None

    def _finish(self, results: Iterator[_Made]) -> Iterator[Outcome]:
        for result in results:
            outcome = result.outcome
            if result.task is not None and result.files:
                outcome = self._write(result.task, outcome, result.files)
            for encoder, scorer, values in result.seen:
                self._priors.learn(encoder, scorer, values)
            yield outcome

    def _write(self, task: Task, outcome: Outcome, files: Sequence[tuple[str, bytes]]) -> Outcome:
        targets = [Path(f"{task.stem}{suffix}") for suffix, _ in files]
        if outcome.kept and is_same(targets[0], task.path):
            targets, files = [], ()  # it is kept where it lies
        for target, (_, data) in zip(targets, files, strict=True):
            if not self._overwrite and target.exists() and not holds(target, data):
                return failure(outcome.source, taken_error(target))
        sizes = {str(target): len(data) for target, (_, data) in zip(targets, files, strict=True)}
        outcome = dataclasses.replace(outcome, outputs=sizes)
        self._append(outcome)
        for target, (_, data) in zip(targets, files, strict=True):
            try:
                write_into(data, target, overwrite=self._overwrite)
            except FileExistsError:
                if not holds(target, data):
                    return failure(outcome.source, taken_error(target))
        return outcome

    def _append(self, outcome: Outcome) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            line = json.dumps(dataclasses.asdict(outcome)).encode() + b"\n"
            with self._report.open("ab+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read() != b"\n":  # a run was killed within a line: it ends here
                        line = b"\n" + line
                file.write(line)
        except OSError as error:
            raise ConfigError(f"cannot write {self._report}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Made:
    """What comes back from a process."""

    task: Task | None
    outcome: Outcome
    files: tuple[tuple[str, bytes], ...] = ()
    seen: tuple[tuple[str, str, Mapping[float, float]], ...] = ()


class Maker:
    """Does the tasks, in whatever process it is made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._compressor = Compressor(
            settings.preset,
            settings.formats,
            metadata=settings.metadata,
            profile=settings.profile,
            priors=load_priors(settings.priors),
            cache=ProbeCache(settings.cache) if settings.cache else None,
        )

    def make(self, task: Task) -> _Made:
        source, version = str(task.path), version_of(task.path, self._settings)
        try:
            result = self._compressor.compress(task.path)
        except QInsightError as error:
            return _Made(task, failure(source, error))
        outcome = dataclasses.replace(outcome_of(result), version=version)
        return _Made(task, outcome, files_of(result, self._settings.each), seen_of(result))


_makers: list[Maker] = []
"""In a worker process, the one that it uses."""


def start_worker(settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once; the parent writes the files
    _makers[:] = [Maker(settings)]


def make_in_worker(task: Task) -> _Made:
    return _makers[0].make(task)


def files_of(result: Compressed, each: bool) -> tuple[tuple[str, bytes], ...]:
    if each and not result.kept:
        size = result.original_bytes
        smaller: dict[str, bytes] = {}
        for pick in result.picks:  # the smallest first: of two with one name it is kept
            if size is None or len(pick.data) < size:
                smaller.setdefault(pick.suffix, pick.data)
        return tuple(smaller.items())
    return ((result.suffix, result.data),)


def seen_of(result: Compressed) -> tuple[tuple[str, str, Mapping[float, float]], ...]:
    return tuple(
        (pick.encoder, scorer, dict(values))
        for pick in result.picks
        for scorer, values in pick.seen.items()
    )


def version_of(path: Path, settings: Settings) -> str:
    """Of a source file, as far as the file system tells, and the settings."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}-{settings.fingerprint()}"
