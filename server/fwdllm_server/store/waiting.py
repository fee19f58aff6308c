"""Devices that wait for work, as the coordinators of one database tell each other.

Each coordinator knows by itself which devices wait with it (:mod:`fwdllm_server.rounds.presence`); who drives a job has
to know of all.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, delete, select
from sqlalchemy.dialects.postgresql import insert

from fwdllm_server.store.schema import waiting


def seen(connection: Connection, device_id: str, coordinator: str, now: float, profile: bytes) -> None:
    """A device checked in with ``coordinator`` at ``now``; ``profile`` are a CheckInRequest's labels and the like."""
    values = {"coordinator": coordinator, "at": now, "profile": profile}
    statement = insert(waiting).values(device_id=device_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["device_id"], set_=values))


def elsewhere(connection: Connection, coordinator: str, since: float) -> Sequence[Row[tuple[object, ...]]]:
    """Who checked in with other coordinators after ``since``."""
    query = select(waiting).where(waiting.c.coordinator != coordinator, waiting.c.at > since)
    return list(connection.execute(query))


def forget(connection: Connection, before: float) -> None:
    """Forget who has not checked in for a while."""
    connection.execute(delete(waiting).where(waiting.c.at < before))
