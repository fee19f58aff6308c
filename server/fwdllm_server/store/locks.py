"""Locks that hold until their transaction ends, where several coordinators share a database.

SQLite has one writer at a time, and a transaction that begins has waited for the one before: there they do nothing. In
PostgreSQL every lock is taken before what it protects is read. Their order is lease, rounds, choice of devices.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

_ROUNDS, _DEVICES, _TABLES = 0x66771, 0x66772, 0x66773  # any numbers that nobody else locks


def several_coordinators(connection: Connection) -> bool:
    """Whether others than this process may write to the database."""
    return connection.dialect.name == "postgresql"


def follow_rounds(connection: Connection, job_id: str) -> bool:
    """The rounds of a job stay in their phase; returns whether they may have changed while this waited."""
    if not several_coordinators(connection):
        return False
    connection.execute(select(func.pg_advisory_xact_lock_shared(_ROUNDS, func.hashtext(job_id))))
    return True


def move_rounds(connection: Connection, job_id: str) -> None:
    """Nobody reads or reports on the rounds of a job: they, or the job's state, are about to change."""
    if several_coordinators(connection):
        connection.execute(select(func.pg_advisory_xact_lock(_ROUNDS, func.hashtext(job_id))))


def choose_devices(connection: Connection) -> None:
    """No other job chooses devices: each of them works for one job at a time."""
    if several_coordinators(connection):
        connection.execute(select(func.pg_advisory_xact_lock(_DEVICES, 0)))


def change_tables(connection: Connection) -> None:
    """Nobody else migrates the database."""
    if several_coordinators(connection):
        connection.execute(select(func.pg_advisory_xact_lock(_TABLES, 0)))
