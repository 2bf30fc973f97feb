"""Questions and answers in a SQLite file, on disk before anyone is told so.

Write-ahead logging: `qinsight scale` may read while people rate. What is committed outlives a kill
and a power cut (`synchronous=FULL`). Nothing is deleted: an answer that was taken back is marked.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.feedback.questions import Kind, Question, Role, Shown

VERSION = 1
"""Of the file's layout. A file of a higher one is refused: what is not known could be lost."""

_MAGIC = 0x51494E53  # "QINS", SQLite's application_id
_SCHEMA = """
CREATE TABLE raters (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    team TEXT NOT NULL DEFAULT '',
    token TEXT NOT NULL UNIQUE
);
CREATE TABLE pool (
    place INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    why TEXT NOT NULL,
    score REAL,
    spread REAL
);
CREATE TABLE questions (
    id INTEGER PRIMARY KEY,
    rater INTEGER NOT NULL REFERENCES raters (id),
    kind TEXT NOT NULL,
    block TEXT NOT NULL,
    role TEXT NOT NULL,
    pictures TEXT NOT NULL,
    about TEXT NOT NULL,
    truth TEXT NOT NULL,
    asked REAL NOT NULL,
    dropped TEXT
);
CREATE INDEX questions_of_rater ON questions (rater, block);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    question INTEGER NOT NULL REFERENCES questions (id),
    value TEXT NOT NULL,
    seconds REAL NOT NULL,
    answered REAL NOT NULL,
    withdrawn REAL
);
CREATE UNIQUE INDEX one_answer_each ON answers (question) WHERE withdrawn IS NULL;
"""


@dataclass(frozen=True, slots=True)
class Rater:
    """Someone who answers; `token` is the secret part of their link, `team` a group of raters."""

    number: int
    name: str
    token: str
    team: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a question, after how many seconds, and when (seconds since 1970)."""

    question: Question
    value: Any
    seconds: float
    answered: float


class Store:
    """The file. Safe to use from several threads, and beside other processes.

    Args:
        path: made if it is not there.
        must_exist: refuse to make it.

    Raises:
        ConfigError: it is not such a file, is of a newer version, or cannot be opened.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        if must_exist and not path.is_file():
            raise ConfigError(f"answers {path}: there is no such file: check the path")
        try:
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=30
            )
            self._open()
        except sqlite3.Error as error:
            raise ConfigError(f"answers {path}: cannot be opened ({error}): check it") from error

    def _open(self) -> None:
        magic, version = self._pragma("application_id"), self._pragma("user_version")
        empty = not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty and magic != _MAGIC:
            raise ConfigError(f"answers {self.path}: not written by qinsight label: name another")
        if version > VERSION:
            raise ConfigError(
                f"answers {self.path}: written by a newer version (layout {version}, this one "
                f"knows {VERSION}): update qinsight-plugin"
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        if empty:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id={_MAGIC};"
                f"PRAGMA user_version={VERSION}; COMMIT;"
            )

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and nobody else writes meanwhile.

        Raises:
            ConfigError: it cannot be written; a full disk, for one.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:  # a full disk has rolled back by itself
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise ConfigError(
                        f"answers {self.path}: cannot be written ({error}): nothing was saved"
                    ) from error
                raise

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # Raters

    def rater(self, name: str, team: str = "") -> Rater:
        """The rater of that name, made if there is none."""
        with self.writing() as db:
            db.execute(
                "INSERT INTO raters (name, team, token) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (name, team, secrets.token_urlsafe(12)),
            )
        return next(rater for rater in self.raters() if rater.name.lower() == name.lower())

    def raters(self) -> list[Rater]:
        return [Rater(*row) for row in self._rows("SELECT id, name, token, team FROM raters")]

    # The pictures that are asked about

    def pool(self) -> list[str]:
        return [row[0] for row in self._rows("SELECT path FROM pool ORDER BY place")]

    def extend_pool(self, paths: Sequence[str], why: str) -> None:
        with self.writing() as db:
            db.executemany(
                "INSERT INTO pool (path, why) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(path, why) for path in paths],
            )

    def remember_scores(self, scores: Mapping[str, tuple[float, float]]) -> None:
        """What the student thinks of pictures of the pool: MOS, and its standard deviation."""
        with self.writing() as db:
            db.executemany(
                "UPDATE pool SET score = ?, spread = ? WHERE path = ?",
                [(score, spread, path) for path, (score, spread) in scores.items()],
            )

    def opinions_of_student(self) -> dict[str, tuple[float, float]]:
        return {
            path: (score, spread)
            for path, score, spread in self._rows(
                "SELECT path, score, spread FROM pool WHERE score IS NOT NULL"
            )
        }

    # Questions and answers

    def ask(
        self,
        rater: int,
        kind: Kind,
        block: str,
        role: Role,
        pictures: Sequence[Shown],
        about: Any = None,
        truth: Any = None,
    ) -> Question:
        """Write down a question before it is shown."""
        shown = [[picture.path, picture.digest] for picture in pictures]
        told = (json.dumps(shown), json.dumps(about or {}), json.dumps(truth))
        with self.writing() as db:
            number = db.execute(
                "INSERT INTO questions (rater, kind, block, role, pictures, about, truth, asked) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (rater, kind, block, role, *told, time.time()),
            ).lastrowid
        assert number is not None  # an INSERT has one
        return Question(number, rater, kind, role, tuple(pictures), about or {}, truth)

    def question(self, number: int) -> Question | None:
        rows = self._rows(f"SELECT {_QUESTION} FROM questions q WHERE q.id = ?", number)
        return _question(rows[0]) if rows else None

    def questions(self, rater: int, block: str) -> list[Question]:
        """All that someone was asked in a block, in order, without those that were dropped."""
        return [
            _question(row)
            for row in self._rows(
                f"SELECT {_QUESTION} FROM questions q "
                "WHERE q.rater = ? AND q.block = ? AND q.dropped IS NULL ORDER BY q.id",
                rater,
                block,
            )
        ]

    def open_questions(self, rater: int | None = None) -> list[Question]:
        """Asked, and not answered yet."""
        return [
            _question(row)
            for row in self._rows(
                f"SELECT {_QUESTION} FROM questions q WHERE (? IS NULL OR q.rater = ?) "
                "AND q.dropped IS NULL AND NOT EXISTS (SELECT 1 FROM answers a "
                "WHERE a.question = q.id AND a.withdrawn IS NULL) ORDER BY q.id",
                rater,
                rater,
            )
        ]

    def drop(self, question: int, why: str) -> None:
        """Take back a question whose picture cannot be shown any more."""
        with self.writing() as db:
            db.execute("UPDATE questions SET dropped = ? WHERE id = ?", (why, question))

    def answer(self, question: int, value: Any, seconds: float) -> bool:
        """Keep an answer; False where the question has one, or was dropped: nothing changes then.

        The same answer may be sent any number of times, as a page does whose connection failed.
        """
        with self.writing() as db:
            done = db.execute(
                "INSERT INTO answers (question, value, seconds, answered) SELECT ?, ?, ?, ? "
                "WHERE EXISTS (SELECT 1 FROM questions WHERE id = ? AND dropped IS NULL) "
                "ON CONFLICT DO NOTHING",
                (question, json.dumps(value), seconds, time.time(), question),
            )
            return done.rowcount == 1

    def withdraw_last(self, rater: int) -> Question | None:
        """Take back someone's last answer: its question is open again."""
        with self.writing() as db:
            row = db.execute(
                f"SELECT {_QUESTION}, a.id FROM answers a JOIN questions q ON q.id = a.question "
                "WHERE q.rater = ? AND a.withdrawn IS NULL ORDER BY a.id DESC LIMIT 1",
                (rater,),
            ).fetchone()
            if row is None:
                return None
            db.execute("UPDATE answers SET withdrawn = ? WHERE id = ?", (time.time(), row[-1]))
        return _question(row[:-1])

    def counts(self, rater: int) -> dict[str, int]:
        """Block -> answered questions."""
        return dict(
            self._rows(
                "SELECT q.block, count(*) FROM answers a JOIN questions q ON q.id = a.question "
                "WHERE q.rater = ? AND a.withdrawn IS NULL GROUP BY q.block",
                rater,
            )
        )

    def answers(self) -> list[Answer]:
        """All that stand, in the order in which they were given."""
        return [
            Answer(_question(row[:-3]), json.loads(row[-3]), row[-2], row[-1])
            for row in self._rows(
                f"SELECT {_QUESTION}, a.value, a.seconds, a.answered FROM answers a "
                "JOIN questions q ON q.id = a.question WHERE a.withdrawn IS NULL ORDER BY a.id"
            )
        ]


_QUESTION = "q.id, q.rater, q.kind, q.role, q.pictures, q.about, q.truth"


def _question(row: Sequence[Any]) -> Question:
    number, rater, kind, role, pictures, about, truth = row
    shown = tuple(Shown(path, digest) for path, digest in json.loads(pictures))
    return Question(number, rater, kind, role, shown, json.loads(about), json.loads(truth))
