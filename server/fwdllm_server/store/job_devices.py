"""The resource usage of devices: as they report it, and as the coordinator observes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Float, Insert, Row, bindparam, cast, func, select, update

from fwdllm.v1 import device_pb2
from fwdllm_server.algorithm.robust_aggregation import Reputation, Reputations
from fwdllm_server.store.schema import job_devices
from fwdllm_server.store.statements import chunks, insert_into, upsert

MOST = 1 << 53
"""The bound of every total of a device: a float64 holds all integers up to it exactly."""
HALF_LIFE_S = 10.0
"""The half-life of a measured speed, so that a phone that becomes hot counts as slow soon.

It is in seconds of computing for the reported speed, and in seconds of holding an assignment for the observed rate.
"""
SHORTEST_MEASURED_S = 1.0
"""The fewest seconds of computing that give a speed: a first pass fills caches."""
FASTEST = 1e9
"""The bound of a plausible speed in example-passes per second; a report above it gives no speed."""

LONGEST_REST_S = 900.0
"""The longest rest, in seconds, of a device that fails repeatedly."""

_COUNTERS = ("bytes_sent", "bytes_received", "artifact_bytes")
_ADDED = (
    *("scalars", "seconds", "example_passes", "recent_seconds", "recent_passes", "peak_rss_bytes", "joules"),
    *("observed_seconds", "observed_passes", "failures"),
    *(f"{prefix}{counter}" for prefix in ("", "last_") for counter in _COUNTERS),
)
"""The columns that :func:`add` updates."""
_OF_DEVICES = select(
    job_devices.c.job_id, job_devices.c.device_id, *(job_devices.c[column] for column in _ADDED)
).where(job_devices.c.job_id == bindparam("job"), job_devices.c.device_id.in_(bindparam("devices", expanding=True)))
_MOST_DOUBLED = 32


class Spent(NamedTuple):
    """The cost that one report states, None if nothing new, and the number of its scalars that were ``accepted``.

    The coordinator expected those scalars to cost ``passes`` example-passes and waited ``waited_s`` seconds for them.
    """

    job_id: str
    device_id: str
    accepted: int
    usage: device_pb2.ResourceUsage | None
    passes: float = 0.0
    waited_s: float = 0.0


class Silence(NamedTuple):
    """A device that has reported nothing of its assignment within ``waited_s`` seconds.

    Its directions cost ``passes`` example-passes each. If ``rests``, it gets no other assignment for a while.
    """

    device_id: str
    waited_s: float
    passes: float
    rests: bool


def add(connection: Connection, reports: Sequence[Spent]) -> None:
    """Add the resource usage of some reports, in their order.

    Seconds, example-passes and joules are differences; bytes are totals of a process, which restarts from 0.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for job_id in {spent.job_id for spent in reports}:
        devices = sorted({spent.device_id for spent in reports if spent.job_id == job_id})
        for row in connection.execute(_OF_DEVICES, {"job": job_id, "devices": devices}):
            rows[job_id, row.device_id] = dict(row._mapping)
    changed = {}
    for spent in reports:
        key = (spent.job_id, spent.device_id)
        changed[key] = _with(rows.get(key) or _nothing(*key), spent)
        rows[key] = changed[key]
    if changed:
        # In a fixed order, so that transactions cannot deadlock.
        connection.execute(_put(connection.dialect.name), [changed[key] for key in sorted(changed)])


def _nothing(job_id: str, device_id: str) -> dict[str, Any]:
    zeros: dict[str, Any] = dict.fromkeys(_ADDED, 0)
    return {**zeros, "joules": None, "job_id": job_id, "device_id": device_id}


def _with(row: Mapping[str, Any], spent: Spent) -> dict[str, Any]:
    values: dict[str, Any] = {**row, "scalars": row["scalars"] + spent.accepted}
    if spent.accepted:
        values |= {**_observed(row, spent.passes, spent.waited_s), "failures": 0}
    if spent.usage is not None:
        values |= _reported(row, spent.usage)
    return {
        column: min(value, MOST) if column in _ADDED and value is not None else value
        for column, value in values.items()
    }


def _reported(row: Mapping[str, Any], usage: device_pb2.ResourceUsage) -> dict[str, Any]:
    values: dict[str, Any] = {
        "seconds": row["seconds"] + usage.seconds,
        "example_passes": row["example_passes"] + usage.example_passes,
        "peak_rss_bytes": max(row["peak_rss_bytes"], usage.peak_rss_bytes),
    }
    if usage.HasField("joules"):
        values["joules"] = (row["joules"] or 0.0) + usage.joules
    for counter in _COUNTERS:
        new, last = int(getattr(usage, counter)), int(row[f"last_{counter}"])
        values[counter] = row[counter] + (new - last if new >= last else new)
        values[f"last_{counter}"] = new
    return values | _recent(row["recent_seconds"], row["recent_passes"], usage)


def _observed(row: Mapping[str, Any], passes: float, seconds: float) -> dict[str, Any]:
    """Update the observed rate with ``passes`` example-passes that took ``seconds`` seconds of waiting."""
    counted = min(max(seconds, 0.0), HALF_LIFE_S)
    kept = 0.5 ** (counted / HALF_LIFE_S)
    return {
        "observed_seconds": kept * row["observed_seconds"] + counted,
        "observed_passes": kept * row["observed_passes"] + passes * (counted / seconds if counted else 1.0),
    }


@cache
def _put(dialect: str) -> Insert:
    statement = insert_into(job_devices, dialect)
    new = {column: statement.excluded[column] for column in _ADDED}
    return statement.on_conflict_do_update(index_elements=["job_id", "device_id"], set_=new)


def silent(connection: Connection, job_id: str, found: Sequence[Silence], now: float) -> None:
    """Record devices that have reported nothing; the rest of a device grows with its failures in a row."""
    devices = sorted({silence.device_id for silence in found})
    if not devices:
        return
    known = connection.execute(_OF_DEVICES, {"job": job_id, "devices": devices})
    rows = {row.device_id: dict(row._mapping) for row in known}
    for device, waited_s, passes, rests in sorted(found):
        row = rows.get(device) or _nothing(job_id, device)
        # Between none and one direction has been measured: count half of one.
        values = _observed(row, passes / 2, waited_s)
        if rests:
            values |= {"failures": row["failures"] + 1, "failed_at": now}
        upsert(connection, job_devices, {"job_id": job_id, "device_id": device}, values)
        rows[device] = {**row, **values}


def resting(connection: Connection, job_id: str, rest_s: float, now: float) -> Mapping[str, float]:
    """Return the devices that rest after failures, and the seconds that remain for each.

    A rest lasts ``rest_s`` seconds after the first failure and twice as long after each further one, at most
    :data:`LONGEST_REST_S`.
    """
    query = select(job_devices.c.device_id, job_devices.c.failures, job_devices.c.failed_at).where(
        job_devices.c.job_id == job_id, job_devices.c.failures > 0, job_devices.c.failed_at > now - LONGEST_REST_S
    )
    left = {
        device: failed_at + min(rest_s * 2.0 ** min(failures - 1, _MOST_DOUBLED), LONGEST_REST_S) - now
        for device, failures, failed_at in connection.execute(query)
    }
    return {device: seconds for device, seconds in left.items() if seconds > 0}


def contributors(connection: Connection, job_id: str) -> frozenset[str]:
    """Return the devices whose scalars have been accepted."""
    query = select(job_devices.c.device_id).where(job_devices.c.job_id == job_id, job_devices.c.scalars > 0)
    return frozenset(connection.execute(query).scalars())


def tested_at(connection: Connection, job_id: str, device_id: str) -> float | None:
    """Return the time of a device's last known-answer test, None before its first."""
    its = (job_devices.c.job_id == job_id) & (job_devices.c.device_id == device_id)
    return connection.execute(select(job_devices.c.tested_at).where(its)).scalar()


def tested(connection: Connection, job_id: str, device_id: str, signal_to_noise: float, now: float) -> None:
    """Record the signal-to-noise ratio that a device's known-answer test found."""
    values = {"signal_to_noise": signal_to_noise, "tested_at": now}
    upsert(connection, job_devices, {"job_id": job_id, "device_id": device_id}, values)


def noisy(connection: Connection, job_id: str, below: float, since: float) -> frozenset[str]:
    """Return the devices whose last known-answer test, after ``since``, found a ratio ``below`` a bound."""
    failed = (job_devices.c.signal_to_noise < below) & (job_devices.c.tested_at > since)
    query = select(job_devices.c.device_id).where(job_devices.c.job_id == job_id, failed)
    return frozenset(connection.execute(query).scalars())


class Failure(NamedTuple):
    """The reason why a device cannot do a job; it is asked again at ``until`` (seconds since 1970)."""

    code: str
    message: str
    until: float

    @property
    def words(self) -> str:
        """The code and the message in one line, for people."""
        return f"{self.code}: {self.message}"


def failed(connection: Connection, job_id: str, device_id: str, found: Failure) -> None:
    """Record that a device cannot do a job."""
    values = {"failure": found.code, "failure_message": found.message, "failed_until": found.until}
    upsert(connection, job_devices, {"job_id": job_id, "device_id": device_id}, values)


def failing(connection: Connection, job_id: str, now: float) -> Mapping[str, Failure]:
    """Return the devices that have failed and are not to be asked again yet."""
    columns = (
        job_devices.c.device_id,
        job_devices.c.failure,
        job_devices.c.failure_message,
        job_devices.c.failed_until,
    )
    query = select(*columns).where(job_devices.c.job_id == job_id, job_devices.c.failed_until > now)
    return {device: Failure(*found) for device, *found in connection.execute(query)}


def reputations(connection: Connection, job_id: str, devices: Sequence[str]) -> Reputations:
    """Return the reputation of each of the devices that have one: the agreement of its scalars with the others'."""
    found: dict[str, Reputation] = {}
    for chunk in chunks(devices):
        some = job_devices.c.device_id.in_(chunk) & (job_devices.c.vote_rounds > 0)
        query = select(job_devices.c.device_id, job_devices.c.votes, job_devices.c.vote_rounds)
        rows = connection.execute(query.where(job_devices.c.job_id == job_id, some))
        found.update((device, Reputation(votes, rounds)) for device, votes, rounds in rows)
    return found


def set_reputations(connection: Connection, job_id: str, found: Reputations) -> None:
    """Store the reputations after a round; their devices have reported and so have rows."""
    if not found:
        return
    its = (job_devices.c.job_id == job_id) & (job_devices.c.device_id == bindparam("device"))
    values: dict[str, Any] = {"votes": bindparam("of_votes"), "vote_rounds": bindparam("of_rounds")}
    rows = [{"device": device, "of_votes": s.votes, "of_rounds": s.rounds} for device, s in sorted(found.items())]
    connection.execute(update(job_devices).where(its).values(values), rows)


def speeds(connection: Connection, job_id: str, devices: Sequence[str]) -> Mapping[str, float]:
    """Return the reported speeds, example-passes per second above 0, of devices that have computed long enough."""
    return _rates(connection, job_id, devices, "recent")


def seen(connection: Connection, job_id: str, devices: Sequence[str]) -> Mapping[str, float]:
    """Return the observed rates, example-passes per second above 0, of the devices that have been waited for."""
    return _rates(connection, job_id, devices, "observed")


def _rates(connection: Connection, job_id: str, devices: Sequence[str], kind: str) -> Mapping[str, float]:
    passes, seconds = job_devices.c[f"{kind}_passes"], job_devices.c[f"{kind}_seconds"]
    measured = (job_devices.c.job_id == job_id) & (seconds >= SHORTEST_MEASURED_S) & (passes > 0)
    found: dict[str, float] = {}
    for chunk in chunks(devices):
        some = job_devices.c.device_id.in_(chunk)
        query = select(job_devices.c.device_id, passes / seconds).where(measured, some)
        found.update((device, speed) for device, speed in connection.execute(query) if speed > 0)
    return found


def _recent(seconds: float, passes: float, usage: device_pb2.ResourceUsage) -> dict[str, object]:
    """Update the recent speed with one report, which weighs at most one half-life.

    So the effect of a frozen process or of a wrong report vanishes within minutes of computing.
    """
    if usage.seconds <= 0 or usage.example_passes > FASTEST * usage.seconds:
        return {}
    counted = min(usage.seconds, HALF_LIFE_S)
    kept = 0.5 ** (counted / HALF_LIFE_S)
    return {
        "recent_seconds": kept * seconds + counted,
        "recent_passes": kept * passes + usage.example_passes * (counted / usage.seconds),
    }


class TotalUsage(NamedTuple):
    """The resource usage of all devices of a job; ``peak_rss_bytes`` is the largest of any device.

    ``joules`` are the sum over the ``measuring`` devices, those that can measure energy.
    """

    example_passes: float
    seconds: float
    bytes_sent: int
    bytes_received: int
    artifact_bytes: int
    scalars: int
    peak_rss_bytes: int
    devices: int
    measuring: int
    joules: float


_KINDS = (float, float, int, int, int, int, int, int, int, float)  # databases differ in the types of sums


def total(connection: Connection, job_id: str) -> TotalUsage:
    """Return the sum over the job's devices."""
    columns = (
        job_devices.c.example_passes,
        job_devices.c.seconds,
        job_devices.c.bytes_sent,
        job_devices.c.bytes_received,
        job_devices.c.artifact_bytes,
        job_devices.c.scalars,
    )
    query = select(
        # As floats: the sum of many integers may exceed the integers of the database.
        *(func.coalesce(func.sum(cast(column, Float)), 0) for column in columns),
        func.coalesce(func.max(job_devices.c.peak_rss_bytes), 0),
        func.count(),
        func.count(job_devices.c.joules),
        func.coalesce(func.sum(job_devices.c.joules), 0),
    ).where(job_devices.c.job_id == job_id)
    found = connection.execute(query).one()
    return TotalUsage(*(kind(value) for kind, value in zip(_KINDS, found, strict=True)))


def of_job(connection: Connection, job_id: str) -> Sequence[Row[tuple[object, ...]]]:
    """Return one row for each device that has reported."""
    return list(
        connection.execute(select(job_devices).where(job_devices.c.job_id == job_id).order_by(job_devices.c.device_id))
    )
