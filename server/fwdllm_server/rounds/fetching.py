"""The way of an assignment to its device."""

from __future__ import annotations

from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import assignments, rounds
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState


def fetch(connection: Connection, record: AssignmentRecord, job: TrainingJob, now: float) -> device_pb2.Assignment:
    """The assignment as the device gets it; from now on it is taken."""
    current = rounds.latest(connection, record.job_id)
    assert current is not None
    if job.state.version < current.version:  # another coordinator drives it
        job.catch_up(connection)
    deadline = current.phase_since + job.spec.rounds.deadline_s
    # Fetched again after a restart it is not prolonged: a device that never reports must lose it in the end.
    if record.state == AssignmentState.OFFERED:
        assignments.take(connection, record.id, now)
        # Feature sums come all at once at the end: until then there is no news to wait for.
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
