"""Leases: which coordinator drives a job's rounds. Its holder renews it; when it does not, another takes it.

Each taking gives the lease a new token, and whoever writes what only the driver may write shows it in the same
transaction (:func:`check`): a driver that was paused for longer than its lease wakes up unable to write.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from fwdllm_common.errors import FwdllmError
from fwdllm_server.store.jobs import UNFINISHED
from fwdllm_server.store.locks import several_coordinators
from fwdllm_server.store.schema import jobs, leases


class LeaseLostError(FwdllmError):
    """The job is another coordinator's by now, or has ended."""


@dataclass(frozen=True)
class Lease:
    """The right to drive a job, for as long as nobody has taken it with a higher ``token``."""

    job_id: str
    holder: str
    token: int


def database_time(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock, which all coordinators share."""
    if several_coordinators(connection):
        return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())
    return float(connection.execute(select(literal_column("(julianday('now') - 2440587.5) * 86400.0"))).scalar_one())


def take(connection: Connection, job_id: str, holder: str, seconds: float) -> Lease | None:
    """The job's lease for so many ``seconds``, unless another holder has it.

    A holder's own, from before it was started again, it gets back at once. A database with one coordinator has no other
    holders.
    """
    query = select(leases).where(leases.c.job_id == job_id)
    if connection.execute(query).one_or_none() is None:
        insert = postgresql.insert if several_coordinators(connection) else sqlite.insert
        values = {"job_id": job_id, "holder": holder, "token": 0, "expires_at": 0.0}
        connection.execute(insert(leases).values(values).on_conflict_do_nothing())
    # One that is locked belongs to somebody who is writing.
    row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
    now = database_time(connection)
    if row is None or (several_coordinators(connection) and row.holder != holder and row.expires_at > now):
        return None
    lease = Lease(job_id, holder, row.token + 1)
    connection.execute(
        update(leases)
        .where(leases.c.job_id == job_id)
        .values(holder=holder, token=lease.token, expires_at=now + seconds)
    )
    return lease


def renew(connection: Connection, lease: Lease, seconds: float) -> None:
    """The lease lasts for ``seconds`` from now.

    :raises LeaseLostError: somebody has taken it, or the job has ended.
    """
    check(connection, lease)
    expires_at = database_time(connection) + seconds
    connection.execute(update(leases).where(leases.c.job_id == lease.job_id).values(expires_at=expires_at))


def check(connection: Connection, lease: Lease) -> None:
    """Nobody takes the lease before this transaction ends.

    :raises LeaseLostError: somebody has taken it, or the job has ended.
    """
    query = (
        select(leases.c.token, leases.c.holder, jobs.c.state)
        .join(jobs, jobs.c.id == leases.c.job_id)
        .where(leases.c.job_id == lease.job_id)
        .with_for_update(of=leases)
    )
    row = connection.execute(query).one()
    if row.token != lease.token:
        raise LeaseLostError(f"job {lease.job_id} is driven by {row.holder}")
    if row.state not in UNFINISHED:
        raise LeaseLostError(f"job {lease.job_id} is {row.state}")


def release(connection: Connection, lease: Lease) -> None:
    """Let others have it at once, if it has not been taken."""
    own = (leases.c.job_id == lease.job_id) & (leases.c.token == lease.token)
    connection.execute(update(leases).where(own).values(expires_at=0.0))
