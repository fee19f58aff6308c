"""Take assignments back from a device that may not work on them now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.job_choice import JobChoice
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import assignments, locks
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState

_log = structlog.get_logger()


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
