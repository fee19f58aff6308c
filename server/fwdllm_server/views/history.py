"""The history of a job as people read it: the committed rounds and their participants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from fwdllm_common.ledger import LedgerEntry
from fwdllm_server.store.rounds import Phase
from fwdllm_server.store.schema import assignments, devices, ledger, rounds


@dataclass(frozen=True)
class CommittedRound:
    """A ledger entry without its seeds: the version that it led to and the round that made it; ``size`` is in bytes."""

    version: int
    round: int
    directions: int
    variance: float
    variance_threshold: float
    reason: str
    committed_at: float
    theta_digest: bytes
    size: int


@dataclass(frozen=True)
class Participant:
    """A device in a round: the number of its directions, and of its assignments by state."""

    device_id: str
    name: str
    directions: int
    assignments: dict[str, int]


def committed_after(connection: Connection, job_id: str, version: int) -> Sequence[CommittedRound]:
    """Return the committed rounds that led to versions above ``version``, oldest first."""
    query = _committed(job_id).where(ledger.c.version > version).order_by(ledger.c.version)
    return [_record(row) for row in connection.execute(query)]


def committed_before(connection: Connection, job_id: str, version: int, limit: int) -> Sequence[CommittedRound]:
    """Return at most ``limit`` committed rounds that led to versions below ``version``, newest first."""
    query = _committed(job_id).where(ledger.c.version < version).order_by(ledger.c.version.desc()).limit(limit)
    return [_record(row) for row in connection.execute(query)]


def entry(connection: Connection, job_id: str, version: int) -> tuple[CommittedRound, LedgerEntry] | None:
    """Return the ledger entry that led to a version, None if there is none."""
    where = (ledger.c.job_id == job_id) & (ledger.c.version == version)
    row = connection.execute(_committed(job_id).where(where)).one_or_none()
    if row is None:
        return None
    data = connection.execute(select(ledger.c.entry).where(where)).scalar_one()
    return _record(row), LedgerEntry.from_bytes(data)


def participants(connection: Connection, job_id: str, round_number: int) -> Sequence[Participant]:
    """Return the devices of a round, the one with the most directions first."""
    columns = (assignments.c.device_id, devices.c.name, assignments.c.state)
    query = (
        select(*columns, func.count(), func.sum(assignments.c.directions))
        .join(devices, devices.c.id == assignments.c.device_id)
        .where(assignments.c.job_id == job_id, assignments.c.round == round_number)
        .group_by(*columns)
        .order_by(assignments.c.state)
    )
    found: dict[str, Participant] = {}
    for device_id, name, state, count, directions in connection.execute(query):
        known = found.get(device_id, Participant(device_id, name, 0, {}))
        found[device_id] = Participant(
            device_id, name, known.directions + int(directions), {**known.assignments, state: count}
        )
    return sorted(found.values(), key=lambda each: (-each.directions, each.name))


def _committed(job_id: str) -> Select[Any]:
    columns = (
        ledger.c.version,
        rounds.c.number.label("round"),
        ledger.c.directions,
        rounds.c.variance,
        rounds.c.variance_threshold,
        rounds.c.reason,
        ledger.c.committed_at,
        ledger.c.theta_digest,
        func.length(ledger.c.entry).label("size"),
    )
    # Abandoned rounds start from the same version as the one that committed.
    made_by = (
        (rounds.c.job_id == ledger.c.job_id)
        & (rounds.c.version == ledger.c.version - 1)
        & (rounds.c.phase == Phase.COMMITTED)
        & (rounds.c.number > 0)
    )
    return select(*columns).join(rounds, made_by).where(ledger.c.job_id == job_id)


def _record(row: Row[Any]) -> CommittedRound:
    return CommittedRound(**row._mapping)
