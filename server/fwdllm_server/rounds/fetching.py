"""Deliver an assignment to its device."""

from __future__ import annotations

from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import assignments, rounds
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState


def fetch(connection: Connection, record: AssignmentRecord, job: TrainingJob, now: float) -> device_pb2.Assignment:
    """Mark an assignment as taken, and return its message for the device. ``now`` is seconds since 1970."""
    current = rounds.latest(connection, record.job_id)
    assert current is not None
    if job.state.version < current.version:  # another coordinator runs the job
        job.catch_up(connection)
    deadline = current.phase_since + job.spec.rounds.deadline_s
    # A repeated fetch does not prolong it: a device that never reports must lose the assignment eventually.
    if record.state == AssignmentState.OFFERED:
        assignments.take(connection, record.id, now)
        # Feature sums are sent once, at the end, so that their assignment has no earlier sign of progress.
        assignments.prolong(connection, record.id, deadline if job.is_draft else now + job.spec.rounds.assignment_s)
    return device_pb2.Assignment(
        assignment_id=record.id,
        job_id=job.id,
        job_name=job.name,
        round=record.round,
        header=None if job.is_draft else job.header.to_message(),
        manifest_sha256=bytes.fromhex(job.manifest_sha256),
        version=job.state.version,
        theta_digest=job.state.digest,
        deadline_ms=min(round(1000 * max(0.0, deadline - now)), (1 << 32) - 1),
        directions=record.tasks,
        evaluate=record.evaluate,
        feature_sums=job.is_draft,
    )
