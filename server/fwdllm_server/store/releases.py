"""How many releases of a job with differential privacy each device is in: what its budget is spent on."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, func, select

from fwdllm_server.store.schema import releases
from fwdllm_server.store.statements import insert_into


def add(connection: Connection, job_id: str, device_ids: Collection[str]) -> None:
    """Count one more release for each of the devices."""
    if not device_ids:
        return
    insert = insert_into(releases, connection.dialect.name)
    more = insert.on_conflict_do_update(
        index_elements=["job_id", "device_id"], set_={"releases": releases.c.releases + 1}
    )
    # In a fixed order, so that transactions cannot deadlock.
    connection.execute(more, [{"job_id": job_id, "device_id": each, "releases": 1} for each in sorted(device_ids)])


def most(connection: Connection, job_id: str) -> int:
    """Return the releases that the device with the most is in."""
    query = select(func.coalesce(func.max(releases.c.releases), 0)).where(releases.c.job_id == job_id)
    return int(connection.execute(query).scalar_one())


def spent(connection: Connection, job_id: str, allowed: int) -> frozenset[str]:
    """Return the devices that are in as many releases as are ``allowed``."""
    query = select(releases.c.device_id).where(releases.c.job_id == job_id, releases.c.releases >= allowed)
    return frozenset(connection.execute(query).scalars())
