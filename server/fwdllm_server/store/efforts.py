"""What the work cost the devices, as they tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, func, select, update

from fwdllm.v1 import device_pb2
from fwdllm_server.store.schema import efforts

HALF_LIFE_S = 10.0
"""Seconds of computing after which a measured speed counts half: a phone that gets hot is known to be slow at once."""
SHORTEST_MEASURED_S = 1.0
"""A speed from fewer seconds of computing is not one: a first pass fills caches."""
FASTEST = 1e9
"""Example-passes a second that no device does; a report that claims them says nothing of its speed."""

_COUNTERS = ("bytes_sent", "bytes_received", "artifact_bytes")
_ROWS_PER_STATEMENT = 1000  # bound parameters of one statement are limited


def add(connection: Connection, job_id: str, device_id: str, accepted: int, effort: device_pb2.Effort) -> None:
    """Add one report's effort.

    Seconds and example-passes come as differences, byte counters as totals of a process that may have begun anew.
    """
    key, row = _row(connection, job_id, device_id)
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
    values |= _recent(row.recent_seconds, row.recent_passes, effort)
    connection.execute(update(efforts).where(key).values(values))


def self_tested(connection: Connection, job_id: str, device_id: str, signal_to_noise: float, now: float) -> None:
    """Note what a device's self-test found."""
    key, _ = _row(connection, job_id, device_id)
    values = {"signal_to_noise": signal_to_noise, "self_tested_at": now}
    connection.execute(update(efforts).where(key).values(values))


def noisy(connection: Connection, job_id: str, below: float, since: float) -> frozenset[str]:
    """The devices whose last self-test was after ``since`` and found a signal to noise ``below`` a bound."""
    failed = (efforts.c.signal_to_noise < below) & (efforts.c.self_tested_at > since)
    query = select(efforts.c.device_id).where(efforts.c.job_id == job_id, failed)
    return frozenset(connection.execute(query).scalars())


def _row(connection: Connection, job_id: str, device_id: str) -> tuple[ColumnElement[bool], Row[Any]]:
    """The device's row, made if need be, and what finds it."""
    key = (efforts.c.job_id == job_id) & (efforts.c.device_id == device_id)
    row = connection.execute(select(efforts).where(key)).one_or_none()
    if row is None:
        connection.execute(efforts.insert().values(job_id=job_id, device_id=device_id))
        row = connection.execute(select(efforts).where(key)).one()
    return key, row


def speeds(connection: Connection, job_id: str, devices: Sequence[str]) -> Mapping[str, float]:
    """Example-passes a second, above 0, of those of the devices that have computed for long enough."""
    columns = (efforts.c.device_id, efforts.c.recent_passes / efforts.c.recent_seconds)
    measured = (efforts.c.recent_seconds >= SHORTEST_MEASURED_S) & (efforts.c.recent_passes > 0)
    found: dict[str, float] = {}
    for start in range(0, len(devices), _ROWS_PER_STATEMENT):
        some = efforts.c.device_id.in_(devices[start : start + _ROWS_PER_STATEMENT])
        query = select(*columns).where(efforts.c.job_id == job_id, measured, some)
        found.update((device, speed) for device, speed in connection.execute(query) if speed > 0)
    return found


def _recent(seconds: float, passes: float, effort: device_pb2.Effort) -> dict[str, object]:
    """The recent speed with one more report, which counts for no more than one half-life.

    So a process that was frozen, or a lie, is forgotten within minutes of computing.
    """
    if effort.seconds <= 0 or effort.example_passes > FASTEST * effort.seconds:
        return {}
    counted = min(effort.seconds, HALF_LIFE_S)
    kept = 0.5 ** (counted / HALF_LIFE_S)
    return {
        "recent_seconds": kept * seconds + counted,
        "recent_passes": kept * passes + effort.example_passes * (counted / effort.seconds),
    }


class TotalEffort(NamedTuple):
    """What all devices of a job spent together; ``peak_rss_bytes`` is the largest of any."""

    example_passes: float
    seconds: float
    bytes_sent: int
    bytes_received: int
    artifact_bytes: int
    scalars: int
    peak_rss_bytes: int
    devices: int


def total(connection: Connection, job_id: str) -> TotalEffort:
    """The sum over the job's devices."""
    columns = (
        efforts.c.example_passes,
        efforts.c.seconds,
        efforts.c.bytes_sent,
        efforts.c.bytes_received,
        efforts.c.artifact_bytes,
        efforts.c.scalars,
    )
    query = select(
        *(func.coalesce(func.sum(column), 0) for column in columns),
        func.coalesce(func.max(efforts.c.peak_rss_bytes), 0),
        func.count(),
    ).where(efforts.c.job_id == job_id)
    passes, seconds, *counts = connection.execute(query).one()
    return TotalEffort(float(passes), float(seconds), *map(int, counts))


def of_job(connection: Connection, job_id: str) -> Sequence[Row[tuple[object, ...]]]:
    """One row for each device that reported."""
    return list(connection.execute(select(efforts).where(efforts.c.job_id == job_id).order_by(efforts.c.device_id)))
