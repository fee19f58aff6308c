"""A durable journal of scalars that are computed and not yet acknowledged (DESIGN §2, invariant 4).

SQLite in WAL mode with synchronous=FULL gives one fsync per group of scalars, checksums by which the next start drops a
torn tail, and a file that a full disk leaves intact.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fwdllm_client.agent.cost import Cost
from fwdllm_common.counts import Counts
from fwdllm_common.errors import StorageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused, so that a reader can continue after the last one it saw
    assignment_id TEXT NOT NULL,
    first_index INTEGER NOT NULL,
    derivatives BLOB NOT NULL,  -- float32, little-endian on every supported device
    correct INTEGER,            -- evaluation counts, or null
    total INTEGER,
    seconds REAL NOT NULL,
    example_passes REAL NOT NULL,
    f1 REAL,                    -- of the evaluation, or null
    joules REAL,                -- null where the device cannot measure them
    packed INTEGER,             -- whether they travel in half precision; null is no
    UNIQUE (assignment_id, first_index)
);
CREATE TABLE IF NOT EXISTS progress (
    assignment_id TEXT PRIMARY KEY,
    next_index INTEGER NOT NULL -- counts acknowledged scalars too, which are no longer in entries
);
CREATE TABLE IF NOT EXISTS memberships ( -- in sums of masked scalars
    assignment_id TEXT PRIMARY KEY,
    agreement BLOB NOT NULL,    -- a SecureAggregation message, its session a hash of what is measured
    root BLOB NOT NULL,         -- of the member's secrets
    scalars BLOB NOT NULL,      -- times the member's weight, int64, little-endian
    sealed BLOB                 -- the MemberShares message that was sent, or null
);
CREATE TABLE IF NOT EXISTS answers (
    assignment_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    answer BLOB NOT NULL,       -- an AggregateResponse message
    PRIMARY KEY (assignment_id, number)
);
"""
_ADDED = {"f1": "REAL", "joules": "REAL", "packed": "INTEGER"}
"""Columns that journals of an earlier version lack."""
_COLUMNS = "assignment_id, first_index, derivatives, correct, total, f1, seconds, example_passes, joules, packed"


@dataclass(frozen=True)
class Entry:
    """The content of one report message of an assignment.

    ``derivatives`` are float32, from index ``first_index`` on; ``evaluation`` is None in most entries; ``cost`` is that
    of computing the entry. Derivatives of a ``packed`` entry travel in half precision.
    """

    assignment_id: str
    first_index: int
    derivatives: array[float]
    evaluation: Counts | None
    cost: Cost
    packed: bool = False


@dataclass(frozen=True)
class Membership:
    """The device's part in a sum of masked scalars; ``answers`` are the coordinator's so far, in their order.

    The root of its secrets and its scalars stay as they are until the assignment is over.
    """

    assignment_id: str
    agreement: bytes
    root: bytes
    scalars: bytes
    sealed: bytes | None = None
    answers: tuple[bytes, ...] = ()


class Journal:
    """The journal in the file ``path``. Any thread may use it.

    :raises StorageError: the disk is full or broken; raised by every method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._storing():
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            there = {column[1] for column in self._database.execute("PRAGMA table_info (entries)")}
            for column, kind in _ADDED.items():
                if column not in there:
                    self._database.execute(f"ALTER TABLE entries ADD COLUMN {column} {kind}")

    def append(self, entry: Entry) -> None:
        """Make ``entry`` durable; only then may it be sent."""
        counts = entry.evaluation or (None, None, None)
        with self._transaction() as database:
            database.execute(
                f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
                (
                    entry.assignment_id,
                    entry.first_index,
                    entry.derivatives.tobytes(),
                    *counts,
                    *entry.cost,
                    int(entry.packed),
                ),
            )
            database.execute(
                "INSERT OR REPLACE INTO progress VALUES (?, ?)",
                (entry.assignment_id, entry.first_index + len(entry.derivatives)),
            )

    def acknowledge(self, assignment_id: str, first_index: int) -> None:
        """Delete an entry that the coordinator has acknowledged."""
        with self._transaction() as database:
            database.execute(
                "DELETE FROM entries WHERE assignment_id = ? AND first_index = ?", (assignment_id, first_index)
            )

    def unacknowledged(self, after: int = 0) -> list[tuple[int, Entry]]:
        """Return the entries with sequence numbers above ``after``, each with its number, in the order of appending."""
        with self._storing(), self._lock:
            rows = self._database.execute(
                f"SELECT sequence, {_COLUMNS} FROM entries WHERE sequence > ? ORDER BY sequence",  # noqa: S608 - a constant
                (after,),
            ).fetchall()
        try:
            return [
                (
                    sequence,
                    Entry(
                        str(work),
                        int(first_index),
                        array("f", derivatives),
                        None if total is None else Counts(int(correct), int(total), f1),
                        Cost(float(seconds), float(passes), None if joules is None else float(joules)),
                        bool(packed),
                    ),
                )
                for (
                    sequence,
                    work,
                    first_index,
                    derivatives,
                    correct,
                    total,
                    f1,
                    seconds,
                    passes,
                    joules,
                    packed,
                ) in rows
            ]
        except (ValueError, TypeError, OverflowError) as error:
            raise self._damaged(error) from error

    def progress(self, assignment_id: str) -> int | None:
        """Return the index of the first scalar that was never appended; None if none of the assignment was."""
        with self._storing(), self._lock:
            row = self._database.execute(
                "SELECT next_index FROM progress WHERE assignment_id = ?", (assignment_id,)
            ).fetchone()
        return None if row is None else int(row[0])

    def join(self, membership: Membership) -> None:
        """Make the beginning of a membership durable."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO memberships (assignment_id, agreement, root, scalars) VALUES (?, ?, ?, ?)",
                (membership.assignment_id, membership.agreement, membership.root, membership.scalars),
            )

    def heard(self, assignment_id: str, answer: bytes, sealed: bytes | None = None) -> None:
        """Make an answer of the coordinator durable, and the shares that are to be sent after the first one."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO answers SELECT ?, count(*), ? FROM answers WHERE assignment_id = ?",
                (assignment_id, answer, assignment_id),
            )
            if sealed is not None:
                database.execute("UPDATE memberships SET sealed = ? WHERE assignment_id = ?", (sealed, assignment_id))

    def membership(self, assignment_id: str) -> Membership | None:
        """Return this device's part in the sum of an assignment; None if it has none."""
        own = "WHERE assignment_id = ?"
        with self._storing(), self._lock:
            row = self._database.execute(
                f"SELECT agreement, root, scalars, sealed FROM memberships {own}",  # noqa: S608 - a constant
                (assignment_id,),
            ).fetchone()
            answers = self._database.execute(
                f"SELECT answer FROM answers {own} ORDER BY number",  # noqa: S608 - a constant
                (assignment_id,),
            ).fetchall()
        if row is None:
            return None
        agreement, root, scalars, sealed = row
        return Membership(assignment_id, agreement, root, scalars, sealed, tuple(answer for (answer,) in answers))

    def keep_only(self, open_assignments: Collection[str]) -> None:
        """Delete every assignment that the coordinator no longer lists."""
        with self._storing(), self._lock:
            known = {
                str(row[0])
                for row in self._database.execute(
                    "SELECT assignment_id FROM progress UNION SELECT assignment_id FROM memberships"
                )
            }
        with self._transaction() as database:
            for assignment_id in known.difference(open_assignments):
                database.execute("DELETE FROM entries WHERE assignment_id = ?", (assignment_id,))
                database.execute("DELETE FROM progress WHERE assignment_id = ?", (assignment_id,))
                database.execute("DELETE FROM memberships WHERE assignment_id = ?", (assignment_id,))
                database.execute("DELETE FROM answers WHERE assignment_id = ?", (assignment_id,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._storing(), self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"cannot write {self._path} ({error}); free some space and start again, nothing is lost"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self._path} is damaged ({error}); delete it and start again; its scalars are computed again"
        )
