"""The status of each device and the reasons why it gets no work, from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import Connection

from fwdllm.v1 import conditions_pb2
from fwdllm_server.config.server_config import CheckInSection
from fwdllm_server.rounds.failing import failing_devices
from fwdllm_server.rounds.known_answers import noisy_devices
from fwdllm_server.store import assignments, devices, jobs
from fwdllm_server.store.devices import Device
from fwdllm_server.store.jobs import JobState

NOISY, FAILING, AWAY, REVOKED = "noisy", "failing", "away", "revoked"
_PREFIX = "HOLD_"
_HELD_S = 3600.0
"""The longest silence, in seconds, of a device that is held: it checks in every 15 to 30 minutes."""
_SLACK_S = 15.0
"""The delay, in seconds, that a busy machine may add to a check-in."""


class DeviceState(StrEnum):
    """The state of a device: the first that applies."""

    REVOKED = "revoked"  # refused for good
    WORKING = "working"  # has an assignment
    AWAY = "away"  # silent for two idle windows, or an hour if it was held, or never seen
    HELD = "held"  # reports that it does not work now
    IDLE = "idle"  # waits for an assignment


@dataclass(frozen=True)
class DeviceStatus:
    """A device, its state, and every reason why it gets no new assignment.

    ``failures`` are the running jobs that it cannot do, by name, each with the cause that the device reported.
    """

    device: Device
    state: DeviceState
    reasons: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)


def hold_words(conditions: conditions_pb2.Conditions | None) -> tuple[str, ...]:
    """Return the holds as words, ``low_battery`` for HOLD_LOW_BATTERY; a hold of a newer version as its number."""
    known = conditions_pb2.Hold.DESCRIPTOR.values_by_number
    return tuple(
        known[hold].name.removeprefix(_PREFIX).lower() if hold in known else str(hold)
        for hold in (conditions.holds if conditions is not None else ())
    )


def reasons_there_are() -> tuple[str, ...]:
    """Return every word that :attr:`DeviceStatus.reasons` can hold."""
    holds = [value.name.removeprefix(_PREFIX).lower() for value in conditions_pb2.Hold.DESCRIPTOR.values]
    return (*holds[1:], NOISY, FAILING, AWAY, REVOKED)


def device_statuses(connection: Connection, check_in: CheckInSection, now: float) -> Sequence[DeviceStatus]:
    """Return the status of every device at ``now`` (seconds since 1970), the newest device first."""
    busy = assignments.busy_devices(connection)
    running = list(jobs.in_state(connection, JobState.RUNNING))
    noisy: frozenset[str] = frozenset().union(*(noisy_devices(connection, job.id, now) for job in running))
    failures: dict[str, dict[str, str]] = {}
    for job in running:
        for device_id, failure in failing_devices(connection, job.id, now).items():
            failures.setdefault(device_id, {})[job.name] = failure.words
    silent_s = 2 * check_in.idle_max_ms / 1000 + _SLACK_S
    return [
        _status(device, device.id in busy, device.id in noisy, failures.get(device.id, {}), silent_s, now)
        for device in devices.all_devices(connection)
    ]


def _status(
    device: Device, busy: bool, noisy: bool, failures: Mapping[str, str], silent_s: float, now: float
) -> DeviceStatus:
    if device.revoked:
        return DeviceStatus(device, DeviceState.REVOKED, (REVOKED,), failures)
    holds = hold_words(device.conditions)
    reasons = (*holds, *([NOISY] if noisy else []), *([FAILING] if failures else []))
    if busy:
        return DeviceStatus(device, DeviceState.WORKING, reasons, failures)
    longest_s = max(_HELD_S, silent_s) if holds else silent_s
    if device.last_seen_at is None or device.last_seen_at < now - longest_s:
        return DeviceStatus(device, DeviceState.AWAY, (AWAY, *reasons), failures)
    return DeviceStatus(device, DeviceState.HELD if holds else DeviceState.IDLE, reasons, failures)
