"""Log of everything that has left the device, for its owner: ``fwdllm-client sent``.

Similar messages share a line, which counts them. Beyond :data:`MAX_LINES` the oldest lines are deleted.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import structlog

from fwdllm_common.errors import StorageError
from fwdllm_common.files import storage_error

MAX_LINES = 5000

_log = structlog.get_logger()
_T = TypeVar("_T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lines (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    likeness TEXT NOT NULL UNIQUE, -- key of messages that share a line
    first_at REAL NOT NULL,
    last_at REAL NOT NULL,
    what TEXT NOT NULL,
    job TEXT NOT NULL,
    round INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    numbers INTEGER NOT NULL
);
"""
_ADD = """
INSERT INTO lines (likeness, first_at, last_at, what, job, round, messages, numbers) VALUES (?, ?, ?, ?, ?, ?, 1, ?)
ON CONFLICT (likeness) DO UPDATE SET
    last_at = excluded.last_at, messages = messages + 1, numbers = numbers + excluded.numbers
"""


@dataclass(frozen=True)
class Line:
    """``messages`` of one kind with ``numbers`` values computed from the data; times are seconds since 1970 UTC."""

    first_at: float
    last_at: float
    what: str
    job: str
    round: int
    messages: int
    numbers: int

    @property
    def text(self) -> str:
        """The line in words, for the owner."""
        about = f"job {self.job} round {self.round}: {self.numbers} numbers, " if self.job else ""
        often = f" ({self.messages} times until {_moment(self.last_at)})" if self.messages > 1 and not self.job else ""
        return f"{_moment(self.first_at)} {about}{self.what}{often}"


class SentLog:
    """The log in the file ``path``. Any thread may use it, and another process may read it at the same time.

    :param clock: seconds since 1970 UTC.
    :raises StorageError: the disk is full or broken; raised by every method.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        with self._storing():
            try:
                self._database = _opened(path)
            except sqlite3.DatabaseError as error:
                self._database = self._anew(error)

    def add(self, likeness: str, what: str, job: str = "", round_number: int = 0, numbers: int = 0) -> None:
        """Add a message to the line with the same ``likeness``, or else begin a line that describes it as ``what``.

        ``numbers`` counts the values in it that were computed from the data.
        """
        now = self._clock()

        def put(database: sqlite3.Connection) -> None:
            database.execute(_ADD, (likeness, now, now, what, job, round_number, numbers))
            database.execute("DELETE FROM lines WHERE id <= (SELECT max(id) FROM lines) - ?", (MAX_LINES,))

        self._with_database(put)

    def lines(self) -> Sequence[Line]:
        """Return all lines, the oldest first."""
        query = "SELECT first_at, last_at, what, job, round, messages, numbers FROM lines ORDER BY first_at, id"
        return self._with_database(lambda database: [Line(*row) for row in database.execute(query)])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _with_database(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._storing(), self._lock:
            try:
                return work(self._database)
            except sqlite3.DatabaseError as error:
                self._database = self._anew(error)
                return work(self._database)

    def _anew(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        """Move a damaged file aside and open a new one, so that damage to the log does not stop the agent.

        Errors other than damage are raised again.
        """
        if isinstance(error, sqlite3.OperationalError):
            raise error
        aside = self._path.with_name(f"{self._path.name}.damaged")
        try:
            self._path.replace(aside)
            for end in ("-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
        except OSError as failure:
            raise storage_error(self._path, failure) from failure
        _log.warning("the log of what was sent is damaged, a new one begins", kept=str(aside), cause=str(error))
        return _opened(self._path)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(
                f"cannot write {self._path} ({error}); free some space or delete it: it is only for the owner to read"
            ) from error


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M")
