"""Record devices that report that they cannot do a job. Their work is reassigned, and the operator sees why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import IntegrityError
from fwdllm_server.store import assignments, job_devices
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.job_devices import Failure

AGAIN_S = 86_400.0
"""Seconds until a failed device is selected again. Its software or its owner's policy may have changed by then."""
PASSING_AGAIN_S = 900.0
"""Seconds until a device with a transient failure, such as a damaged download, is selected again."""

_log = structlog.get_logger()


def record(
    connection: Connection, device_id: str, failures: Sequence[device_pb2.AssignmentFailure], now: float
) -> None:
    """Record a device's failures, and return its assignments for reassignment.

    Failures of assignments that are not the device's own are ignored. ``now`` is seconds since 1970.
    """
    found = assignments.by_id(connection, [failure.assignment_id for failure in failures])
    for failure in failures:
        work = found.get(failure.assignment_id)
        if work is None or work.device_id != device_id:
            continue
        again_s = PASSING_AGAIN_S if failure.code == IntegrityError.code else AGAIN_S
        noted = Failure(failure.code, failure.message, now + again_s)
        job_devices.failed(connection, work.job_id, device_id, noted)
        if work.open:
            assignments.set_state(connection, work.id, AssignmentState.RETURNED)
        _log.warning(
            "a device cannot do a job",
            device=device_id,
            job=work.job_id,
            code=failure.code,
            why=failure.message,
            asked_again_in_s=again_s,
        )


def failing_devices(connection: Connection, job_id: str, now: float) -> Mapping[str, Failure]:
    """Return the devices that may not be selected yet because they cannot do the job, with the last cause of each."""
    return job_devices.failing(connection, job_id, now)
