"""The leases of jobs: the holder drives the job's rounds and renews the lease; when it expires, another takes it.

Each taking gives the lease a new token. Writes that only the driver may make check it in the same transaction
(:func:`check`), so a driver that was paused for longer than its lease cannot write any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, literal_column, select, update

from fwdllm_common.errors import FwdllmError
from fwdllm_server.store.jobs import UNFINISHED
from fwdllm_server.store.locks import several_coordinators
from fwdllm_server.store.schema import jobs, leases
from fwdllm_server.store.statements import insert_into


class LeaseLostError(FwdllmError):
    """The job is driven by another coordinator, or has ended."""


@dataclass(frozen=True)
class Lease:
    """The right to drive a job until another coordinator takes it with a higher ``token``."""

    job_id: str
    holder: str
    token: int


def database_time(connection: Connection) -> float:
    """Return the seconds since 1970 by the database's clock, which all coordinators share."""
    if several_coordinators(connection):
        return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())
    return float(connection.execute(select(literal_column("(julianday('now') - 2440587.5) * 86400.0"))).scalar_one())


def take(connection: Connection, job_id: str, holder: str, seconds: float) -> Lease | None:
    """Take the job's lease for ``seconds`` seconds; return None if another holder has it.

    A holder that was restarted gets its own lease back at once. A database with one coordinator has no other holders.
    """
    query = select(leases).where(leases.c.job_id == job_id)
    if connection.execute(query).one_or_none() is None:
        values = {"job_id": job_id, "holder": holder, "token": 0, "expires_at": 0.0}
        insert = insert_into(leases, connection.dialect.name)
        connection.execute(insert.values(values).on_conflict_do_nothing())
    # A lease that is locked belongs to a coordinator that is writing.
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
    """Extend the lease to ``seconds`` seconds from now.

    :raises LeaseLostError: another coordinator has taken it, or the job has ended.
    """
    check(connection, lease)
    expires_at = database_time(connection) + seconds
    connection.execute(update(leases).where(leases.c.job_id == lease.job_id).values(expires_at=expires_at))


def check(connection: Connection, lease: Lease) -> None:
    """Check the lease and lock it until this transaction ends.

    :raises LeaseLostError: another coordinator has taken it, or the job has ended.
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
    """Release the lease, so that another coordinator can take it at once, if it is still held."""
    own = (leases.c.job_id == lease.job_id) & (leases.c.token == lease.token)
    connection.execute(update(leases).where(own).values(expires_at=0.0))
