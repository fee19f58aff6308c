"""What each job has measured at each θ, so that no coordinator gets more of one θ than the owner allows.

With many directions on batches that differ by a few rows a coordinator would compute what those rows say. At one θ a
block is therefore measured along a bounded number of directions, and all batches of nested rows have one size: that of
the first assignment. Directions whose scalars are masked are not counted. See docs/privacy.md.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import NotAllowedError, StorageError

MOST_LINES = 20_000
"""Tasks that are remembered; the oldest are forgotten first."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measured (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL,
    theta BLOB NOT NULL,        -- SHA-256
    block TEXT NOT NULL,
    task BLOB NOT NULL,         -- SHA-256 of assignment and task: a repeated one counts once
    directions INTEGER NOT NULL,
    nested_rows INTEGER,        -- rows of its batch, or null where a task draws rows of its own
    UNIQUE (job, theta, block, task)
);
"""
_AT_THETA = "FROM measured WHERE job = ? AND theta = ? AND block = ?"


class MeasuredDirections:
    """The record in the file ``path``; at most ``max_directions`` of a block at one θ of a job.

    :raises StorageError: the disk is full or the file is damaged; raised by every method.
    """

    def __init__(self, path: Path, max_directions: int) -> None:
        self._path = path
        self._max_directions = max_directions

    def admit(self, assignment: device_pb2.Assignment) -> device_pb2.Assignment:
        """Record the assignment, and return it with the batches that it is measured on.

        :raises NotAllowedError: it asks for more directions than the owner allows.
        """
        admitted = device_pb2.Assignment()
        admitted.CopyFrom(assignment)
        try:
            with closing(sqlite3.connect(self._path)) as database, database:
                database.executescript(_SCHEMA)
                for task in admitted.directions:
                    self._admit(database, admitted, task)
                database.execute("DELETE FROM measured WHERE id <= (SELECT max(id) FROM measured) - ?", (MOST_LINES,))
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {self._path} ({error}); free some space, or delete it") from error
        return admitted

    def _admit(
        self, database: sqlite3.Connection, assignment: device_pb2.Assignment, task: device_pb2.DirectionTask
    ) -> None:
        place = assignment.job_id, assignment.theta_digest, task.block
        # Of masked scalars the coordinator learns the sum over a cohort alone.
        is_masked = assignment.HasField("secure_aggregation")
        asked = 0 if is_masked else sum(seeds.count for seeds in task.seeds)
        likeness = hashlib.sha256(assignment.assignment_id.encode() + b"\0" + task.SerializeToString()).digest()
        (known,) = database.execute(f"SELECT count(*) {_AT_THETA} AND task = ?", (*place, likeness)).fetchone()
        (before,) = database.execute(f"SELECT total(directions) {_AT_THETA}", place).fetchone()
        if not is_masked and not known and before + asked > self._max_directions:
            raise NotAllowedError(
                f"it asks for {int(before) + asked} directions of the block {task.block[:64]!r} at one θ, this device "
                f"measures at most {self._max_directions}"
            )
        if task.same_rows:
            first = database.execute(
                f"SELECT nested_rows {_AT_THETA} AND nested_rows IS NOT NULL ORDER BY id LIMIT 1", place
            ).fetchone()
            task.batch_size = first[0] if first else task.batch_size
        database.execute(
            "INSERT OR IGNORE INTO measured (job, theta, block, task, directions, nested_rows) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (*place, likeness, asked, task.batch_size if task.same_rows else None),
        )
