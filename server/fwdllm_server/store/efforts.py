"""What the work cost the devices, as they tell it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, select, update

from fwdllm.v1 import device_pb2
from fwdllm_server.store.schema import efforts

_COUNTERS = ("bytes_sent", "bytes_received", "artifact_bytes")


def add(connection: Connection, job_id: str, device_id: str, accepted: int, effort: device_pb2.Effort) -> None:
    """Add one report's effort.

    Seconds and example-passes come as differences, byte counters as totals of a process that may have begun anew.
    """
    key = (efforts.c.job_id == job_id) & (efforts.c.device_id == device_id)
    row = connection.execute(select(efforts).where(key)).one_or_none()
    if row is None:
        connection.execute(efforts.insert().values(job_id=job_id, device_id=device_id))
        row = connection.execute(select(efforts).where(key)).one()
    values: dict[str, object] = {
        "scalars": row.scalars + accepted,
        "seconds": row.seconds + effort.seconds,
        "example_passes": row.example_passes + effort.example_passes,
        "peak_rss_bytes": max(row.peak_rss_bytes, effort.peak_rss_bytes),
    }
    for counter in _COUNTERS:
        new, last = int(getattr(effort, counter)), int(row._mapping[f"last_{counter}"])
        values[counter] = row._mapping[counter] + (new - last if new >= last else new)
        values[f"last_{counter}"] = new
    connection.execute(update(efforts).where(key).values(values))


def of_job(connection: Connection, job_id: str) -> Sequence[Row[tuple[object, ...]]]:
    """One row for each device that reported."""
    return list(connection.execute(select(efforts).where(efforts.c.job_id == job_id).order_by(efforts.c.device_id)))
