"""The stored ledger, its snapshots and its evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from sqlalchemy import Connection, delete, func, select

from fwdllm_common.ledger import LedgerEntry
from fwdllm_server.algorithm.robust_aggregation import Scales
from fwdllm_server.store.schema import evaluations, ledger, snapshots


@dataclass(frozen=True)
class EvaluationRecord:
    """The accuracy and the mean loss of one version on the held-out rows.

    What the accuracy is, and whether there is an ``exact_match`` and what that is, the task says. The two of
    ``validation`` are of the rows that choose the version to export; None where the job keeps no such rows.
    """

    version: int
    accuracy: float
    loss: float
    rows: int
    exact_match: float | None = None
    validation_accuracy: float | None = None
    validation_loss: float | None = None


def append(connection: Connection, job_id: str, entry: LedgerEntry, scales: Scales, now: float) -> None:
    """Append a committed round and the scales of the blocks after it."""
    connection.execute(
        ledger.insert().values(
            job_id=job_id,
            version=entry.version,
            entry=entry.to_bytes(),
            directions=sum(len(update.seeds) for update in entry.updates),
            theta_digest=entry.theta_digest,
            committed_at=now,
            scales=json.dumps(scales),
        )
    )


def recent_scales(connection: Connection, job_id: str) -> Scales:
    """Return the scales of the blocks after the last committed round."""
    query = select(ledger.c.scales).where(ledger.c.job_id == job_id).order_by(ledger.c.version.desc()).limit(1)
    found: Scales = json.loads(connection.execute(query).scalar_one_or_none() or "{}")
    return found


def entries(connection: Connection, job_id: str, after: int, up_to: int | None = None) -> Sequence[bytes]:
    """Return the entries of the versions above ``after`` (up to ``up_to``), oldest first."""
    query = select(ledger.c.entry).where(ledger.c.job_id == job_id, ledger.c.version > after)
    if up_to is not None:
        query = query.where(ledger.c.version <= up_to)
    return list(connection.execute(query.order_by(ledger.c.version)).scalars())


def last_entry(connection: Connection, job_id: str) -> LedgerEntry | None:
    """Return the entry of the newest committed round, None if there is none."""
    query = select(ledger.c.entry).where(ledger.c.job_id == job_id).order_by(ledger.c.version.desc()).limit(1)
    data = connection.execute(query).scalar_one_or_none()
    return None if data is None else LedgerEntry.from_bytes(data)


def bytes_since(connection: Connection, job_id: str, after: int) -> int:
    """Return the size of the entries of the versions above ``after``, in bytes."""
    query = select(func.coalesce(func.sum(func.length(ledger.c.entry)), 0))
    return int(connection.execute(query.where(ledger.c.job_id == job_id, ledger.c.version > after)).scalar_one())


def directions_since(connection: Connection, job_id: str, after: int) -> int:
    """Return the number of scalars in the entries of the versions above ``after``."""
    query = select(func.coalesce(func.sum(ledger.c.directions), 0))
    return int(connection.execute(query.where(ledger.c.job_id == job_id, ledger.c.version > after)).scalar_one())


def totals(connection: Connection, job_id: str) -> tuple[int, int]:
    """Return the numbers of committed rounds and of scalars in them."""
    query = select(func.count(), func.coalesce(func.sum(ledger.c.directions), 0)).where(ledger.c.job_id == job_id)
    count, directions = connection.execute(query).one()
    return int(count), int(directions)


def directions_of(connection: Connection, job_id: str, version: int) -> int:
    """Return the number of scalars in the entry of a version, 0 if there is none."""
    query = select(ledger.c.directions).where(ledger.c.job_id == job_id, ledger.c.version == version)
    return int(connection.execute(query).scalar_one_or_none() or 0)


def newest_digest(connection: Connection, job_id: str) -> bytes | None:
    """Return the SHA-256 of θ at the newest committed version, None before the first."""
    query = select(ledger.c.theta_digest).where(ledger.c.job_id == job_id).order_by(ledger.c.version.desc()).limit(1)
    return connection.execute(query).scalar_one_or_none()


def add_snapshot(connection: Connection, job_id: str, version: int, sha256: str) -> None:
    """Record the artifact that holds the state of a version."""
    connection.execute(delete(snapshots).where(snapshots.c.job_id == job_id, snapshots.c.version == version))
    connection.execute(snapshots.insert().values(job_id=job_id, version=version, sha256=sha256))


def latest_snapshot(connection: Connection, job_id: str) -> tuple[int, str] | None:
    """Return version and hash of the newest snapshot, None if there is none."""
    return next(iter(snapshots_of(connection, job_id)), None)


def snapshots_of(connection: Connection, job_id: str) -> Sequence[tuple[int, str]]:
    """Return version and hash of each snapshot that is kept, the newest first."""
    query = select(snapshots.c.version, snapshots.c.sha256).where(snapshots.c.job_id == job_id)
    return [(row.version, row.sha256) for row in connection.execute(query.order_by(snapshots.c.version.desc()))]


def forget_snapshots(connection: Connection, job_id: str, keep: int) -> frozenset[str]:
    """Delete all snapshots but that of version 0, from which the ledger starts, and the newest ``keep``.

    Return the hashes of the artifacts that nothing refers to any more.
    """
    newest = select(snapshots.c.version).where(snapshots.c.job_id == job_id).order_by(snapshots.c.version.desc())
    oldest_kept = newest.limit(1).offset(keep - 1).scalar_subquery()
    old = (snapshots.c.job_id == job_id) & (snapshots.c.version > 0) & (snapshots.c.version < oldest_kept)
    gone = frozenset(connection.execute(delete(snapshots).where(old).returning(snapshots.c.sha256)).scalars())
    if not gone:
        return gone
    return gone - frozenset(
        connection.execute(select(snapshots.c.sha256).where(snapshots.c.sha256.in_(gone))).scalars()
    )


def add_evaluation(connection: Connection, job_id: str, record: EvaluationRecord) -> None:
    """Store an evaluation in the place of the version's former one, if any, which is equal."""
    connection.execute(
        delete(evaluations).where(evaluations.c.job_id == job_id, evaluations.c.version == record.version)
    )
    connection.execute(evaluations.insert().values(job_id=job_id, **asdict(record)))


def evaluations_of(connection: Connection, job_id: str) -> Sequence[EvaluationRecord]:
    """Return every evaluation of a job, by ascending version."""
    columns = [evaluations.c[field.name] for field in fields(EvaluationRecord)]
    query = select(*columns).where(evaluations.c.job_id == job_id).order_by(evaluations.c.version)
    return [EvaluationRecord(*row) for row in connection.execute(query)]


def best_version(connection: Connection, job_id: str) -> int | None:
    """Return the evaluated version with the least loss on the validation rows, of equal ones the latest.

    Of few rows the loss says more than the accuracy. None where the job keeps no such rows apart.
    """
    found = [
        (record.validation_loss, -record.version)
        for record in evaluations_of(connection, job_id)
        if record.validation_loss is not None
    ]
    return -min(found)[-1] if found else None
