"""What the work cost the devices as they tell it, and what the coordinator itself sees of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Float, Insert, Row, bindparam, cast, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from fwdllm.v1 import device_pb2
from fwdllm_server.algorithm.agreement import Reputation, Reputations
from fwdllm_server.store.schema import efforts

MOST = 1 << 53
"""No total of a device grows beyond this: every reader of a page or a metric holds it exactly."""
HALF_LIFE_S = 10.0
"""Seconds of computing after which a measured speed counts half: a phone that gets hot is known to be slow at once.

Of the rate that the coordinator sees, seconds of having an assignment.
"""
SHORTEST_MEASURED_S = 1.0
"""A speed from fewer seconds of computing is not one: a first pass fills caches."""
FASTEST = 1e9
"""Example-passes a second that no device does; a report that claims them says nothing of its speed."""

LONGEST_REST_S = 900.0
"""Seconds for which a device that fails again and again is left alone at most."""

_COUNTERS = ("bytes_sent", "bytes_received", "artifact_bytes")
_ADDED = (
    *("scalars", "seconds", "example_passes", "recent_seconds", "recent_passes", "peak_rss_bytes", "joules"),
    *("observed_seconds", "observed_passes", "failures"),
    *(f"{prefix}{counter}" for prefix in ("", "last_") for counter in _COUNTERS),
)
"""The columns that :func:`add` adds to."""
_OF_DEVICES = select(efforts.c.job_id, efforts.c.device_id, *(efforts.c[column] for column in _ADDED)).where(
    efforts.c.job_id == bindparam("job"), efforts.c.device_id.in_(bindparam("devices", expanding=True))
)
_MOST_DOUBLED = 32
_ROWS_PER_STATEMENT = 1000  # bound parameters of one statement are limited


class Spent(NamedTuple):
    """What one report says that it cost, with how many of its scalars were ``accepted``; None if it says nothing new.

    The coordinator expected those scalars to cost ``passes``, and waited ``waited_s`` seconds for them.
    """

    job_id: str
    device_id: str
    accepted: int
    effort: device_pb2.Effort | None
    passes: float = 0.0
    waited_s: float = 0.0


class Silence(NamedTuple):
    """A device of whose assignment nothing has come within ``waited_s`` seconds.

    It was asked for directions of ``passes`` example-passes each, and ``rests`` if it shall get no other for a while.
    """

    device_id: str
    waited_s: float
    passes: float
    rests: bool


def add(connection: Connection, reports: Sequence[Spent]) -> None:
    """Add the effort of some reports, in their order.

    Seconds, example-passes and joules come as differences, bytes as totals of a process that may have begun anew.
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
        # In a fixed order, so that transactions do not wait for each other in a circle.
        connection.execute(_put(connection.dialect.name), [changed[key] for key in sorted(changed)])


def _nothing(job_id: str, device_id: str) -> dict[str, Any]:
    zeros: dict[str, Any] = dict.fromkeys(_ADDED, 0)
    return {**zeros, "joules": None, "job_id": job_id, "device_id": device_id}


def _with(row: Mapping[str, Any], spent: Spent) -> dict[str, Any]:
    values: dict[str, Any] = {**row, "scalars": row["scalars"] + spent.accepted}
    if spent.accepted:
        values |= {**_observed(row, spent.passes, spent.waited_s), "failures": 0}
    if spent.effort is not None:
        values |= _told(row, spent.effort)
    return {
        column: min(value, MOST) if column in _ADDED and value is not None else value
        for column, value in values.items()
    }


def _told(row: Mapping[str, Any], effort: device_pb2.Effort) -> dict[str, Any]:
    values: dict[str, Any] = {
        "seconds": row["seconds"] + effort.seconds,
        "example_passes": row["example_passes"] + effort.example_passes,
        "peak_rss_bytes": max(row["peak_rss_bytes"], effort.peak_rss_bytes),
    }
    if effort.HasField("joules"):
        values["joules"] = (row["joules"] or 0.0) + effort.joules
    for counter in _COUNTERS:
        new, last = int(getattr(effort, counter)), int(row[f"last_{counter}"])
        values[counter] = row[counter] + (new - last if new >= last else new)
        values[f"last_{counter}"] = new
    return values | _recent(row["recent_seconds"], row["recent_passes"], effort)


def _observed(row: Mapping[str, Any], passes: float, seconds: float) -> dict[str, Any]:
    """The rate that the coordinator sees, with what came after so many seconds of waiting."""
    counted = min(max(seconds, 0.0), HALF_LIFE_S)
    kept = 0.5 ** (counted / HALF_LIFE_S)
    return {
        "observed_seconds": kept * row["observed_seconds"] + counted,
        "observed_passes": kept * row["observed_passes"] + passes * (counted / seconds if counted else 1.0),
    }


@cache
def _put(dialect: str) -> Insert:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(efforts)
    new = {column: statement.excluded[column] for column in _ADDED}
    return statement.on_conflict_do_update(index_elements=["job_id", "device_id"], set_=new)


def silent(connection: Connection, job_id: str, found: Sequence[Silence], now: float) -> None:
    """Note devices of whose assignments nothing has come; with each in a row of which they are to rest, longer."""
    devices = sorted({silence.device_id for silence in found})
    if not devices:
        return
    known = connection.execute(_OF_DEVICES, {"job": job_id, "devices": devices})
    rows = {row.device_id: dict(row._mapping) for row in known}
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    for device, waited_s, passes, rests in sorted(found):
        row = rows.get(device) or _nothing(job_id, device)
        # Less than one direction has come: that is half of one, give or take.
        values = _observed(row, passes / 2, waited_s)
        if rests:
            values |= {"failures": row["failures"] + 1, "failed_at": now}
        statement = insert(efforts).values(job_id=job_id, device_id=device, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=["job_id", "device_id"], set_=values))
        rows[device] = {**row, **values}


def resting(connection: Connection, job_id: str, rest_s: float, now: float) -> Mapping[str, float]:
    """The devices that have failed and are left alone for now, and how many seconds more.

    It is ``rest_s`` after the first failure, twice as long after each further one, :data:`LONGEST_REST_S` at most.
    """
    query = select(efforts.c.device_id, efforts.c.failures, efforts.c.failed_at).where(
        efforts.c.job_id == job_id, efforts.c.failures > 0, efforts.c.failed_at > now - LONGEST_REST_S
    )
    left = {
        device: failed_at + min(rest_s * 2.0 ** min(failures - 1, _MOST_DOUBLED), LONGEST_REST_S) - now
        for device, failures, failed_at in connection.execute(query)
    }
    return {device: seconds for device, seconds in left.items() if seconds > 0}


def contributors(connection: Connection, job_id: str) -> frozenset[str]:
    """The devices of which scalars have been accepted."""
    query = select(efforts.c.device_id).where(efforts.c.job_id == job_id, efforts.c.scalars > 0)
    return frozenset(connection.execute(query).scalars())


def self_tested_at(connection: Connection, job_id: str, device_id: str) -> float | None:
    """When a device's last self-test was, None before its first."""
    its = (efforts.c.job_id == job_id) & (efforts.c.device_id == device_id)
    return connection.execute(select(efforts.c.self_tested_at).where(its)).scalar()


def self_tested(connection: Connection, job_id: str, device_id: str, signal_to_noise: float, now: float) -> None:
    """Note what a device's self-test found."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = {"signal_to_noise": signal_to_noise, "self_tested_at": now}
    statement = insert(efforts).values(job_id=job_id, device_id=device_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["job_id", "device_id"], set_=values))


def noisy(connection: Connection, job_id: str, below: float, since: float) -> frozenset[str]:
    """The devices whose last self-test was after ``since`` and found a signal to noise ``below`` a bound."""
    failed = (efforts.c.signal_to_noise < below) & (efforts.c.self_tested_at > since)
    query = select(efforts.c.device_id).where(efforts.c.job_id == job_id, failed)
    return frozenset(connection.execute(query).scalars())


class Failure(NamedTuple):
    """Why a device cannot do a job: a ``code`` and a ``message`` for people; it is asked again at ``until``."""

    code: str
    message: str
    until: float

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.code}: {self.message}"


def failed(connection: Connection, job_id: str, device_id: str, found: Failure) -> None:
    """Note that a device cannot do a job."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = {"failure": found.code, "failure_message": found.message, "failed_until": found.until}
    statement = insert(efforts).values(job_id=job_id, device_id=device_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["job_id", "device_id"], set_=values))


def failing(connection: Connection, job_id: str, now: float) -> Mapping[str, Failure]:
    """The devices that are not to be asked again yet."""
    columns = (efforts.c.device_id, efforts.c.failure, efforts.c.failure_message, efforts.c.failed_until)
    query = select(*columns).where(efforts.c.job_id == job_id, efforts.c.failed_until > now)
    return {device: Failure(*found) for device, *found in connection.execute(query)}


def reputations(connection: Connection, job_id: str, devices: Sequence[str]) -> Reputations:
    """How far the scalars of each of the devices have gone with the others'; those that have voted."""
    found: dict[str, Reputation] = {}
    for start in range(0, len(devices), _ROWS_PER_STATEMENT):
        some = efforts.c.device_id.in_(devices[start : start + _ROWS_PER_STATEMENT]) & (efforts.c.vote_rounds > 0)
        query = select(efforts.c.device_id, efforts.c.votes, efforts.c.vote_rounds)
        rows = connection.execute(query.where(efforts.c.job_id == job_id, some))
        found.update((device, Reputation(votes, rounds)) for device, votes, rounds in rows)
    return found


def set_reputations(connection: Connection, job_id: str, found: Reputations) -> None:
    """Keep the standings as of a round; their devices have reported, and have rows."""
    if not found:
        return
    its = (efforts.c.job_id == job_id) & (efforts.c.device_id == bindparam("device"))
    values: dict[str, Any] = {"votes": bindparam("of_votes"), "vote_rounds": bindparam("of_rounds")}
    rows = [{"device": device, "of_votes": s.votes, "of_rounds": s.rounds} for device, s in sorted(found.items())]
    connection.execute(update(efforts).where(its).values(values), rows)


def speeds(connection: Connection, job_id: str, devices: Sequence[str]) -> Mapping[str, float]:
    """Example-passes a second, above 0, that those of the devices tell of which have computed for long enough."""
    return _rates(connection, job_id, devices, "recent")


def seen(connection: Connection, job_id: str, devices: Sequence[str]) -> Mapping[str, float]:
    """Example-passes a second, above 0, that the coordinator has seen of those of the devices it has waited for."""
    return _rates(connection, job_id, devices, "observed")


def _rates(connection: Connection, job_id: str, devices: Sequence[str], kind: str) -> Mapping[str, float]:
    passes, seconds = efforts.c[f"{kind}_passes"], efforts.c[f"{kind}_seconds"]
    measured = (efforts.c.job_id == job_id) & (seconds >= SHORTEST_MEASURED_S) & (passes > 0)
    found: dict[str, float] = {}
    for start in range(0, len(devices), _ROWS_PER_STATEMENT):
        some = efforts.c.device_id.in_(devices[start : start + _ROWS_PER_STATEMENT])
        query = select(efforts.c.device_id, passes / seconds).where(measured, some)
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
    """What all devices of a job spent together; ``peak_rss_bytes`` is the largest of any.

    ``joules`` are those of the ``measuring`` devices, the ones that can tell.
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


_KINDS = (float, float, int, int, int, int, int, int, int, float)  # the stores do not agree on those of sums


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
        # As floats: the sum of many whole numbers may be none that the store holds.
        *(func.coalesce(func.sum(cast(column, Float)), 0) for column in columns),
        func.coalesce(func.max(efforts.c.peak_rss_bytes), 0),
        func.count(),
        func.count(efforts.c.joules),
        func.coalesce(func.sum(efforts.c.joules), 0),
    ).where(efforts.c.job_id == job_id)
    found = connection.execute(query).one()
    return TotalEffort(*(kind(value) for kind, value in zip(_KINDS, found, strict=True)))


def of_job(connection: Connection, job_id: str) -> Sequence[Row[tuple[object, ...]]]:
    """One row for each device that reported."""
    return list(connection.execute(select(efforts).where(efforts.c.job_id == job_id).order_by(efforts.c.device_id)))
