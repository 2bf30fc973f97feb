"""The next questions to a person: which block they are in, and of it which picture or pair.

Everything follows from the store: a server that was killed asks on where it was.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ImageError, MissingExtraError
from qinsight_plugin.feedback.choosing import best_pairs, flat_prior, posterior, prior_of
from qinsight_plugin.feedback.comparisons import Comparison, Latent
from qinsight_plugin.feedback.questions import Question, Role, Shown
from qinsight_plugin.feedback.showing import digest_of, serve
from qinsight_plugin.feedback.store import Store
from qinsight_plugin.feedback.study import REPEAT_DISTANCE, Block, Study

OUTLOOK = 2
"""Questions that are open at a time: the one on the screen, and the one that is fetched behind."""

_WORTH = {"left": 1.0, "right": 0.0, "same": 0.5}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far someone is.

    Attributes:
        done, total: questions, practice included.
        block: the number of the block that they are in, from 0; None when all is done.
    """

    done: int
    total: int
    block: int | None


class Asker:
    """Chooses questions. Safe to call from several threads.

    Args:
        study: what is asked.
        store: what was answered; its pool is what is asked about.
        folder: where the pictures lie.
        on_unusable: told once of each picture that cannot be shown, and why.
    """

    def __init__(
        self,
        study: Study,
        store: Store,
        folder: Path,
        on_unusable: Callable[[str, str], None] | None = None,
    ) -> None:
        self.study = study
        self.store = store
        self.folder = folder
        self._on_unusable = on_unusable
        self._unusable: set[str] = set()
        self._lock = threading.Lock()

    def outlook(self, rater: int) -> list[Question]:
        """The open questions of someone, those to be shown first before others; none at the end.

        A question whose picture has changed or gone meanwhile is dropped and another one asked.
        """
        with self._lock:
            kept = [q for q in self.store.open_questions(rater) if self._still_there(q)]
            while len(kept) < OUTLOOK and (question := self._ask(rater)):
                kept.append(question)
            return kept

    def progress(self, rater: int) -> Progress:
        counts = self.store.counts(rater)
        sizes = [len(self._schedule(block, rater)) for block in self.study.blocks]
        done = [counts.get(block.name, 0) for block in self.study.blocks]
        unfinished = [k for k, size in enumerate(sizes) if done[k] < size]
        return Progress(
            sum(map(min, done, sizes)), sum(sizes), unfinished[0] if unfinished else None
        )

    def _still_there(self, question: Question) -> bool:
        for picture in question.pictures:
            try:
                if digest_of(self.folder / picture.path) == picture.digest:
                    continue
                why = f"{picture.path} has changed"
            except ImageError as error:
                why = str(error)
            self.store.drop(question.number, why)
            return False
        return True

    def _ask(self, rater: int) -> Question | None:
        for block in self.study.blocks:
            asked = self.store.questions(rater, block.name)
            roles = self._schedule(block, rater)
            while len(asked) < len(roles):
                role = roles[len(asked)]
                paths: Sequence[str]
                truth: Any = None
                if role == "repeat" and (again := self._again(block, rater, asked)):
                    paths = again
                elif role == "golden":
                    paths, truth = self._golden(block, rater, asked)
                elif found := self._fresh(block, role, rater, asked):
                    paths = found
                else:  # the folder has run out of pictures
                    break
                if shown := self._shown(paths):
                    about = dict(block.about)
                    return self.store.ask(rater, block.kind, block.name, role, shown, about, truth)
        return None

    def _schedule(self, block: Block, rater: int) -> list[Role]:
        """No more main questions than there are pictures for."""
        pictures = len(self.store.pool())
        if block.kind in ("rating", "severity", "adjust"):
            most = pictures
        else:
            compared = min(pictures, self.study.compared)
            size = 2 if block.kind == "pair" else self.study.set_size
            most = compared * (compared - 1) // 2 if compared >= size else 0
        return self.study.schedule(Block(block.kind, min(block.count, most), block.about), rater)

    def _usable(self) -> list[str]:
        return [path for path in self.store.pool() if path not in self._unusable]

    def _shown(self, paths: Sequence[str]) -> list[Shown] | None:
        """The pictures with their digests, or None where one cannot be shown: it is asked about
        no more."""
        shown = []
        for path in paths:
            try:
                file = self.folder / path
                digest = digest_of(file)
                serve(file)
            except (ImageError, MissingExtraError) as error:
                self._unusable.add(path)
                if self._on_unusable is not None:
                    self._on_unusable(path, str(error))
                return None
            shown.append(Shown(path, digest))
        return shown

    # Which pictures

    def _again(self, block: Block, rater: int, asked: Sequence[Question]) -> list[str] | None:
        """The pictures of a question asked some while ago, a pair's sides exchanged."""
        before = [{p.path for p in q.pictures} for q in asked if q.role == "repeat"]
        main = [q for q in asked if q.role == "main"]
        early = main[: max(1, len(main) - REPEAT_DISTANCE)]
        paths = [[p.path for p in q.pictures] for q in early]
        paths = [own for own in paths if set(own) not in before]
        if not paths:
            return None
        chosen = random.Random(f"{block.name} {rater} {len(asked)}").choice(paths)
        return chosen[::-1] if block.kind == "pair" else chosen

    def _golden(
        self, block: Block, rater: int, asked: Sequence[Question]
    ) -> tuple[Sequence[str], Any]:
        own = [one for one in self.study.golden if one.kind == block.kind]
        number = sum(q.role == "golden" for q in asked)
        one = random.Random(f"{rater}").sample(own, len(own))[number]
        return one.pictures, one.truth

    def _fresh(
        self, block: Block, role: Role, rater: int, asked: Sequence[Question]
    ) -> Sequence[str] | None:
        pool = self._usable()
        if block.kind in ("rating", "severity", "adjust"):
            return self._single(pool, role, rater, asked)
        pool = pool[: self.study.compared]
        size = 2 if block.kind == "pair" else self.study.set_size
        if len(pool) < size:
            return None
        rng = random.Random(f"{block.name} {rater} {len(asked)}")
        if block.kind == "best" or role == "practice":
            return rng.sample(pool, size)
        return self._pair(pool, asked, rng)

    def _single(
        self, pool: Sequence[str], role: Role, rater: int, asked: Sequence[Question]
    ) -> Sequence[str] | None:
        """Everyone sees the same pictures, each in an order of their own; practice runs through
        the pool's first ones, which differ most."""
        if role == "practice":
            return [pool[len(asked) % len(pool)]] if pool else None
        seen = {q.pictures[0].path for q in asked if q.role == "main"}
        wanted = [path for path in pool if path not in seen]
        if not wanted:
            return None
        # The pool's order says what is most worth asking; the first hundred are mixed among
        # themselves, then the next hundred.
        place = {path: k for k, path in enumerate(pool)}
        mixed = random.Random(f"{rater}").sample(range(len(pool)), len(pool))
        first = min(wanted, key=lambda path: (place[path] // 100, mixed[place[path]]))
        return [first]

    def _pair(
        self, pool: Sequence[str], asked: Sequence[Question], rng: random.Random
    ) -> Sequence[str] | None:
        """The pair that tells most; never one that this person had, or that is on a screen now."""
        place = {path: k for k, path in enumerate(pool)}
        on_screens = [q for q in self.store.open_questions() if q.kind == "pair"]
        taken = {
            frozenset(place[p.path] for p in q.pictures)
            for q in (*asked, *on_screens)
            if all(p.path in place for p in q.pictures)
        }
        found = best_pairs(self._latent(pool, place), taken, 1)
        return rng.sample([pool[k] for k in found[0]], 2) if found else None

    def _latent(self, pool: Sequence[str], place: Mapping[str, int]) -> Latent:
        """All that is known of the pool: what the student thinks, and what people said."""
        told = self.store.opinions_of_student()
        known = [told.get(path) for path in pool]
        if any(one is None for one in known):
            prior = flat_prior(len(pool))
        else:
            scores, spreads = zip(*(one for one in known if one), strict=True)
            prior = prior_of(scores, spreads)
        return posterior(prior, compared_in(self.store, place))


def compared_in(store: Store, place: Mapping[str, int]) -> list[Comparison]:
    """Everybody's answers about pairs of the placed pictures, practice left out."""
    found = []
    for answer in store.answers():
        question = answer.question
        paths = [picture.path for picture in question.pictures]
        counts = question.kind == "pair" and question.role in ("main", "repeat")
        if counts and all(path in place for path in paths):
            found.append((place[paths[0]], place[paths[1]], _WORTH[answer.value]))
    return found
