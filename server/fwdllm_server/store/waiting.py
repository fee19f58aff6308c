"""The devices that wait for work, as the coordinators of one database publish them to each other.

Each coordinator keeps the devices that wait with it in memory (:mod:`fwdllm_server.rounds.presence`); the driver of a
job has to know all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, delete, select

from fwdllm_server.store.schema import waiting
from fwdllm_server.store.statements import upsert


def seen(connection: Connection, device_id: str, coordinator: str, now: float, profile: bytes) -> None:
    """Record that a device checked in with ``coordinator`` at ``now``; ``profile`` is its abridged CheckInRequest."""
    values = {"coordinator": coordinator, "at": now, "profile": profile}
    upsert(connection, waiting, {"device_id": device_id}, values)


def elsewhere(connection: Connection, coordinator: str, since: float) -> Sequence[Row[tuple[object, ...]]]:
    """Return the devices that checked in with other coordinators after ``since``."""
    query = select(waiting).where(waiting.c.coordinator != coordinator, waiting.c.at > since)
    return list(connection.execute(query))


def forget(connection: Connection, before: float) -> None:
    """Delete the devices that have not checked in since ``before``."""
    connection.execute(delete(waiting).where(waiting.c.at < before))
