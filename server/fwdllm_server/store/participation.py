"""How often devices have worked today, over all jobs: so that none is forgotten and none overused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from fwdllm_server.store.schema import participation

DAY_S = 86_400
_ROWS_PER_STATEMENT = 1000  # bound parameters of one statement are limited


def add(connection: Connection, devices: Sequence[str], now: float) -> None:
    """Each of these devices has been given an assignment; days are UTC's, and those before today are forgotten."""
    if not devices:
        return
    day = int(now // DAY_S)
    past = (participation.c.device_id == bindparam("device")) & (participation.c.day < day)
    connection.execute(delete(participation).where(past), [{"device": device} for device in devices])
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(participation).on_conflict_do_update(
        index_elements=["device_id", "day"], set_={"assignments": participation.c.assignments + 1}
    )
    connection.execute(statement, [{"device_id": device, "day": day, "assignments": 1} for device in devices])


def today(connection: Connection, devices: Sequence[str], now: float) -> Mapping[str, int]:
    """How many assignments each of the devices has had today, those that had any."""
    found: dict[str, int] = {}
    for start in range(0, len(devices), _ROWS_PER_STATEMENT):
        some = participation.c.device_id.in_(devices[start : start + _ROWS_PER_STATEMENT])
        query = select(participation.c.device_id, participation.c.assignments)
        rows = connection.execute(query.where(participation.c.day == int(now // DAY_S), some))
        found.update((device, assignments) for device, assignments in rows)
    return found
