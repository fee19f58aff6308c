"""The locks of coordinators that share a database; each is held until its transaction ends.

SQLite runs one writing transaction at a time, so there the locks do nothing. In PostgreSQL a lock is taken before the
data that it protects is read. Their order is lease, rounds, choice of devices.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

_ROUNDS, _DEVICES, _TABLES = 0x66771, 0x66772, 0x66773  # arbitrary numbers that nothing else locks


def several_coordinators(connection: Connection) -> bool:
    """Return whether other coordinators may write to the database."""
    return connection.dialect.name == "postgresql"


def follow_rounds(connection: Connection, job_id: str) -> bool:
    """Keep the rounds of a job in their phase; return whether they may have changed while this waited for the lock."""
    if not several_coordinators(connection):
        return False
    connection.execute(select(func.pg_advisory_xact_lock_shared(_ROUNDS, func.hashtext(job_id))))
    return True


def move_rounds(connection: Connection, job_id: str) -> None:
    """Exclude readers of and reports on the rounds of a job, before they or the job's state change."""
    if several_coordinators(connection):
        connection.execute(select(func.pg_advisory_xact_lock(_ROUNDS, func.hashtext(job_id))))


def choose_devices(connection: Connection) -> None:
    """Exclude other jobs from choosing devices, each of which works for one job at a time."""
    if several_coordinators(connection):
        connection.execute(select(func.pg_advisory_xact_lock(_DEVICES, 0)))


def change_tables(connection: Connection) -> None:
    """Exclude other migrations of the database."""
    if several_coordinators(connection):
        connection.execute(select(func.pg_advisory_xact_lock(_TABLES, 0)))
