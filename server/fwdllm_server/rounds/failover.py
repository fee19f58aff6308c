"""Failover of a job to another coordinator: the open round's deadlines are measured from the failover on.

Devices could not report while no coordinator ran the job, and the earlier coordinator's clock may differ.
"""

from __future__ import annotations

from sqlalchemy import Connection

from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import aggregations, assignments, rounds


def resume_after_failover(connection: Connection, job: TrainingJob, now: float) -> None:
    """Restart the open round's current phase and step, and the lifetimes of its open assignments, at ``now``.

    ``now`` is seconds since 1970.
    """
    record = rounds.latest(connection, job.id)
    if record is None:
        return
    rounds.enter(connection, record, record.phase, now, record.reason)
    aggregations.restart_step(connection, job.id, record.number, now)
    expires_at = job.expiry(phase_since=now, now=now)
    work = assignments.of_round(connection, job.id, record.number)
    assignments.prolong_all(connection, {each.id: expires_at for each in work if each.open})
