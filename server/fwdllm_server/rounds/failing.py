"""Devices that have said that they cannot do a job: others get its work, and the operator hears why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import IntegrityError
from fwdllm_server.store import assignments, efforts
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.efforts import Failure

AGAIN_S = 86_400.0
"""Seconds after which a device is asked again: its software, or what its owner allows, may have changed."""
PASSING_AGAIN_S = 900.0
"""That of what passes: a file that arrived damaged."""

_log = structlog.get_logger()


def record(
    connection: Connection, device_id: str, failures: Sequence[device_pb2.AssignmentFailure], now: float
) -> None:
    """Note what a device cannot do, and let others do it. Of what is not the device's own nothing is noted."""
    found = assignments.by_id(connection, [failure.assignment_id for failure in failures])
    for failure in failures:
        work = found.get(failure.assignment_id)
        if work is None or work.device_id != device_id:
            continue
        again_s = PASSING_AGAIN_S if failure.code == IntegrityError.code else AGAIN_S
        noted = Failure(failure.code, failure.message, now + again_s)
        efforts.failed(connection, work.job_id, device_id, noted)
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
    """The devices that cannot do the job and are not to be asked again yet, with the last cause of each."""
    return efforts.failing(connection, job_id, now)
