"""The number of assignments of each device today, over all jobs, so that work is spread evenly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, delete, select

from fwdllm_server.store.schema import participation
from fwdllm_server.store.statements import chunks, insert_into

DAY_S = 86_400


def add(connection: Connection, devices: Sequence[str], now: float) -> None:
    """Count an assignment for each of these devices on the day (UTC) of ``now``; delete their earlier days."""
    if not devices:
        return
    day = int(now // DAY_S)
    past = (participation.c.device_id == bindparam("device")) & (participation.c.day < day)
    connection.execute(delete(participation).where(past), [{"device": device} for device in devices])
    statement = insert_into(participation, connection.dialect.name).on_conflict_do_update(
        index_elements=["device_id", "day"], set_={"assignments": participation.c.assignments + 1}
    )
    connection.execute(statement, [{"device_id": device, "day": day, "assignments": 1} for device in devices])


def today(connection: Connection, devices: Sequence[str], now: float) -> Mapping[str, int]:
    """Return the number of today's assignments of each of the devices that has had any."""
    found: dict[str, int] = {}
    for chunk in chunks(devices):
        some = participation.c.device_id.in_(chunk)
        query = select(participation.c.device_id, participation.c.assignments)
        rows = connection.execute(query.where(participation.c.day == int(now // DAY_S), some))
        found.update((device, assignments) for device, assignments in rows)
    return found
