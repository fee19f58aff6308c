"""Record the devices' known-answer tests. A device whose scalars are noise gets no work."""

from __future__ import annotations

from sqlalchemy import Connection

from fwdllm_common.known_answers import MAX_SIGNAL_TO_NOISE
from fwdllm_server.store import assignments, job_devices
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState

MIN_SIGNAL_TO_NOISE = 3.0
"""Smallest ratio to pass. At 3, noise adds a ninth to the mean square of scalars, and to the directions needed.

Devices that compute in float32 are far above it. Those that quantise activations are below 1 at the default ε (decision
0014).
"""
RETEST_S = 86_400.0
"""Seconds until a device that failed is selected again. Its software may have changed by then."""


def record(
    connection: Connection, assignment: AssignmentRecord, signal_to_noise: float, expires_at: float, now: float
) -> bool:
    """Store the result of a known-answer test, and return whether the device is used.

    If not, its assignment is reassigned. If so, the first test after an assignment was fetched prolongs the assignment
    until ``expires_at``, because the test may follow a long download. Times are seconds since 1970.
    """
    found = usable_ratio(signal_to_noise)
    before = job_devices.tested_at(connection, assignment.job_id, assignment.device_id)
    job_devices.tested(connection, assignment.job_id, assignment.device_id, found, now)
    if found >= MIN_SIGNAL_TO_NOISE:
        if assignment.open and assignment.taken_at is not None and (before is None or before < assignment.taken_at):
            assignments.prolong(connection, assignment.id, expires_at)
        return True
    if assignment.open:
        assignments.set_state(connection, assignment.id, AssignmentState.EXPIRED)
    return False


def usable_ratio(signal_to_noise: float) -> float:
    """Return a reported ratio, or 0 if it is not from 0 to :data:`MAX_SIGNAL_TO_NOISE`."""
    return signal_to_noise if 0 <= signal_to_noise <= MAX_SIGNAL_TO_NOISE else 0.0


def noisy_devices(connection: Connection, job_id: str, now: float) -> frozenset[str]:
    """Return the devices that failed with the job's bundle and may not be selected yet."""
    return job_devices.noisy(connection, job_id, MIN_SIGNAL_TO_NOISE, now - RETEST_S)
