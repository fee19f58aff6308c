"""A coordinator takes a job over: the time before counts for no deadline of the round that is open.

Nobody could report while no coordinator drove the job, and the one before may have had another clock.
"""

from __future__ import annotations

from sqlalchemy import Connection

from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import assignments, rounds


def resume_after_failover(connection: Connection, job: TrainingJob, now: float) -> None:
    """The open round's phase begins anew, and its open assignments have their time from now."""
    record = rounds.latest(connection, job.id)
    if record is None:
        return
    rounds.enter(connection, record, record.phase, now, record.reason)
    bounds = job.spec.rounds
    expires_at = now + (bounds.deadline_s if job.is_draft else bounds.assignment_s)
    work = assignments.of_round(connection, job.id, record.number)
    assignments.prolong_all(connection, {each.id: expires_at for each in work if each.open})
