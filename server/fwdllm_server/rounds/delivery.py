"""Deliver an assignment to its device, and take it back from a device that may not work on it now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

import structlog
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.job_choice import JobChoice
from fwdllm_common.secure_aggregation import MIN_MEMBERS
from fwdllm_server.algorithm.accountant import noise_multiplier
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import aggregations, assignments, locks, rounds
from fwdllm_server.store.aggregations import AggregationRecord, MemberRecord
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState

_log = structlog.get_logger()


def fetch(connection: Connection, record: AssignmentRecord, job: TrainingJob, now: float) -> device_pb2.Assignment:
    """Mark an assignment as taken, and return its message for the device. ``now`` is seconds since 1970."""
    current = rounds.latest(connection, record.job_id)
    assert current is not None
    if job.state.version < current.version:  # another coordinator runs the job
        job.catch_up(connection)
    deadline = current.phase_since + job.spec.rounds.deadline_s
    sum_of = _secure_aggregation(connection, record, job)
    # A repeated fetch does not prolong it: a device that never reports must lose the assignment eventually.
    if record.state == AssignmentState.OFFERED:
        assignments.take(connection, record.id, now)
        assignments.prolong(connection, record.id, job.expiry(current.phase_since, now))
    message = message_of(record, job, sum_of)
    message.deadline_ms = min(round(1000 * max(0.0, deadline - now)), (1 << 32) - 1)
    return message


def message_of(
    record: AssignmentRecord, job: TrainingJob, sum_of: device_pb2.SecureAggregation | None
) -> device_pb2.Assignment:
    """Return the message of an assignment without its deadline."""
    return device_pb2.Assignment(
        assignment_id=record.id,
        job_id=job.id,
        job_name=job.name,
        round=record.round,
        header=None if job.head_uninitialised else job.header.to_message(),
        manifest_sha256=bytes.fromhex(job.manifest_sha256),
        version=job.state.version,
        theta_digest=job.state.digest,
        directions=record.tasks,
        evaluate=record.evaluate,
        feature_sums=job.head_uninitialised,
        secure_aggregation=sum_of,
    )


def least_in_sum(job: TrainingJob, members: int) -> int:
    """Return the fewest of so many members over which a sum is made."""
    return max(MIN_MEMBERS, ceil(job.spec.rounds.min_fraction * members))


def part_in(
    aggregation: AggregationRecord, member: MemberRecord, members: int, job: TrainingJob
) -> device_pb2.SecureAggregation:
    """Return a device's part in a sum of so many members: with differential privacy its clip and its share of noise.

    Shares are such that the fewest that can be in the sum have all the noise together.
    """
    part = device_pb2.SecureAggregation(session=aggregation.session, member=member.number, weight=member.weight)
    if (budget := job.spec.privacy.budget) is not None:
        part.clip = budget.clip
        part.noise = noise_multiplier(budget) ** 2 / least_in_sum(job, members)
    return part


def _secure_aggregation(
    connection: Connection, record: AssignmentRecord, job: TrainingJob
) -> device_pb2.SecureAggregation | None:
    """Return what the device needs to mask its scalars; None where they are sent as they are."""
    found, member = (
        aggregations.get(connection, record.job_id, record.round),
        aggregations.member(connection, record.id),
    )
    if found is None or member is None:
        # Without it the device would send its scalars as they are.
        assert not job.spec.privacy.secure_aggregation, (
            f"the assignment {record.id} has no part in its round's secure aggregation"
        )
        return None
    return part_in(found, member, aggregations.count(connection, found), job)


def take_back(
    connection: Connection, device_id: str, request: device_pb2.CheckInRequest, training: Mapping[str, TrainingJob]
) -> Sequence[AssignmentRecord]:
    """Take back what a device does not work on, by its check-in. Return the assignments that it may report on.

    These are all its assignments if it is on hold, else those of jobs that it does not choose. Scalars that it has
    measured still count; the rest is reassigned (:mod:`fwdllm_server.rounds.reassignment`).
    """
    choice = JobChoice.from_message(request.jobs)
    counting = []
    for found in _settled(connection, device_id):
        job = training.get(found.job_id)
        if found.open and (request.conditions.holds or (job is not None and not choice.allows(job.name))):
            assignments.set_state(connection, found.id, AssignmentState.RETURNED)
            _log.info("assignment given back", device=device_id, assignment=found.id, was=str(found.state))
            found = replace(found, state=AssignmentState.RETURNED)
        counting.append(found)
    return counting


def _settled(connection: Connection, device_id: str) -> Sequence[AssignmentRecord]:
    """Return the assignments that the device may report on. Their rounds stay in their phases in this transaction."""
    found = assignments.counting_of_device(connection, device_id)
    may_have_changed = [locks.follow_rounds(connection, job_id) for job_id in sorted({each.job_id for each in found})]
    return assignments.counting_of_device(connection, device_id) if any(may_have_changed) else found
