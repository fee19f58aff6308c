"""Devices whose scalars are noise get no work: what their self-tests said, and what is enough."""

from __future__ import annotations

from sqlalchemy import Connection

from fwdllm_common.canary import MAX_SIGNAL_TO_NOISE
from fwdllm_server.store import assignments, efforts
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState

MIN_SIGNAL_TO_NOISE = 3.0
"""At 3 the noise of a device adds a ninth to the mean square of its scalars, and so to the directions that are needed.

Devices that compute in float32 are far above, those that quantise activations below 1 at the default ε (decision 0014).
"""
RETEST_S = 86_400.0
"""Seconds after which a device that failed is asked again: its software may have changed."""


def record(
    connection: Connection, assignment: AssignmentRecord, signal_to_noise: float, assignment_s: float, now: float
) -> bool:
    """Store what a self-test found; returns whether the device goes on. If not, others do its assignment.

    If it does, the first self-test since an open assignment was fetched prolongs that by ``assignment_s`` seconds: a
    download may have come before.
    """
    found = believed(signal_to_noise)
    before = efforts.self_tested_at(connection, assignment.job_id, assignment.device_id)
    efforts.self_tested(connection, assignment.job_id, assignment.device_id, found, now)
    if found >= MIN_SIGNAL_TO_NOISE:
        if assignment.open and assignment.taken_at is not None and (before is None or before < assignment.taken_at):
            assignments.prolong(connection, assignment.id, now + assignment_s)
        return True
    if assignment.open:
        assignments.set_state(connection, assignment.id, AssignmentState.EXPIRED)
    return False


def believed(signal_to_noise: float) -> float:
    """What a device says, or 0 if that is no number from 0 to :data:`MAX_SIGNAL_TO_NOISE`."""
    return signal_to_noise if 0 <= signal_to_noise <= MAX_SIGNAL_TO_NOISE else 0.0


def noisy_devices(connection: Connection, job_id: str, now: float) -> frozenset[str]:
    """The devices that failed on the job's bundle and are not to be asked again yet."""
    return efforts.noisy(connection, job_id, MIN_SIGNAL_TO_NOISE, now - RETEST_S)
