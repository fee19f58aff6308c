"""The way of an assignment back from a device that may not work on it now."""

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
    """What a device may still report on, after taking from it what its check-in says that it does not work on.

    That is everything, or the jobs it does not choose. What it has measured counts; what it has not is nobody's, and
    handed over (:mod:`fwdllm_server.rounds.reassignment`).
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
    """What the device may still report on; no round of it moves on before this transaction ends."""
    found = assignments.counting_of_device(connection, device_id)
    may_have_changed = [locks.follow_rounds(connection, job_id) for job_id in sorted({each.job_id for each in found})]
    return assignments.counting_of_device(connection, device_id) if any(may_have_changed) else found
