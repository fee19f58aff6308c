"""The JSON documents of the dashboard. Field names are those of ``--json`` on the command line where both exist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from itertools import accumulate
from math import isfinite
from typing import Any, TypeAlias

from sqlalchemy import Connection

from fwdllm_common.fixed_point import SCALE
from fwdllm_common.ledger import BlockUpdate
from fwdllm_server.config.server_config import CheckInSection
from fwdllm_server.rounds.stalled import why_stalled
from fwdllm_server.store import assignments, job_devices, jobs, ledger, rounds
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.tasks import task_named
from fwdllm_server.views import history
from fwdllm_server.views.device_status import DeviceState, DeviceStatus, device_statuses
from fwdllm_server.views.history import CommittedRound
from fwdllm_server.views.job_status import job_message
from fwdllm_server.views.message_json import as_dict

Facts: TypeAlias = dict[str, Any]

MAX_ROWS = 500
"""Largest number of rows of a table in one response."""


def overview(connection: Connection, check_in: CheckInSection, now: float) -> Facts:
    """Return a summary of every job, and the number of devices in each state."""
    statuses = device_statuses(connection, check_in, now)
    states = Counter(status.state for status in statuses)
    reasons = Counter(reason for status in statuses for reason in status.reasons)
    return {
        "version": version("fwdllm"),
        "jobs": [_job_line(connection, record, now) for record in jobs.in_state(connection)],
        "devices": {
            "total": len(statuses),
            "states": {state.value: states[state] for state in DeviceState},
            "reasons": dict(reasons.most_common()),
        },
    }


def job(connection: Connection, record: JobRecord, now: float) -> Facts:
    """Return a job as ``job show --json`` prints it, with sums over its devices instead of the devices."""
    message = job_message(connection, record, now)
    del message.devices[:]
    spent = job_devices.total(connection, record.id)
    current = rounds.latest(connection, record.id)
    return {
        **as_dict(message),
        "spent": spent._asdict(),
        "created_at": record.created_at,
        "phase_since": current.phase_since if current is not None else None,
    }


def evaluations(connection: Connection, job_id: str) -> Sequence[Facts]:
    """Return accuracy and loss of the evaluated versions, by ascending version."""
    return [
        {"version": each.version, "accuracy": _number(each.accuracy), "loss": _number(each.loss)}
        for each in ledger.evaluations_of(connection, job_id)
    ]


def committed_rounds(connection: Connection, job_id: str, after: int) -> Sequence[Facts]:
    """Return the rounds that led to versions above ``after``, oldest first."""
    return [_committed(each) for each in history.committed_after(connection, job_id, after)]


def curve(connection: Connection, record: JobRecord) -> Facts:
    """Return the evaluated versions with what they had cost: directions, and seconds since the first round began."""
    made = history.committed_after(connection, record.id, 0)
    versions = [0, *(each.version for each in made)]
    directions = dict(zip(versions, accumulate((each.directions for each in made), initial=0), strict=True))
    committed_at = {each.version: each.committed_at for each in made}
    began = record.started_at
    return {
        "job_id": record.id,
        "name": record.name,
        "metric": task_named(record.spec().model.task).metrics[0],
        "points": [
            {
                **point,
                "directions": directions.get(point["version"]),
                "seconds": 0.0 if not point["version"] else _since(began, committed_at.get(point["version"])),
            }
            for point in evaluations(connection, record.id)
        ],
    }


def _since(began: float | None, at: float | None) -> float | None:
    return None if began is None or at is None else max(0.0, at - began)


def ledger_page(connection: Connection, job_id: str, before: int, limit: int) -> Sequence[Facts]:
    """Return the rounds that led to versions below ``before``, newest first."""
    return [_committed(each) for each in history.committed_before(connection, job_id, before, limit)]


def ledger_entry(connection: Connection, job_id: str, at: int, offset: int, limit: int) -> Facts | None:
    """Return the round that led to version ``at``, with ``limit`` directions of each block from ``offset`` on."""
    found = history.entry(connection, job_id, at)
    if found is None:
        return None
    made, entry = found
    return {
        **_committed(made),
        "reason": made.reason,
        "bytes": made.size,
        "participants": [vars(each) for each in history.participants(connection, job_id, made.round)],
        "offset": offset,
        "blocks": [_block(update, offset, limit) for update in entry.updates],
    }


def devices(connection: Connection, check_in: CheckInSection, now: float, job_id: str | None) -> Sequence[Facts]:
    """Return every device by name. With a job, return its past and present devices and their resource usage."""
    spent = {row.device_id: row for row in job_devices.of_job(connection, job_id)} if job_id else {}
    taking_part = spent.keys() | (_at_work(connection, job_id) if job_id else set())
    found = [
        _device(status, spent.get(status.device.id))
        for status in device_statuses(connection, check_in, now)
        if not job_id or status.device.id in taking_part
    ]
    # Sorted by fixed properties, so that rows do not move when states change.
    return sorted(found, key=lambda device: (device["name"], device["device_id"]))


def _at_work(connection: Connection, job_id: str) -> set[str]:
    """Return the devices with an assignment of the current round, which may not have reported yet."""
    current = rounds.latest(connection, job_id)
    if current is None:
        return set()
    return {work.device_id for work in assignments.of_round(connection, job_id, current.number)}


def page_of(found: Sequence[Facts], search: str, state: str, offset: int, limit: int) -> Facts:
    """Return ``limit`` devices from ``offset`` on, of those with ``search`` in their name or id and in ``state``."""
    matching = [
        device
        for device in found
        if state in ("", device["state"])
        and (search.lower() in device["name"].lower() or search in device["device_id"])
    ]
    return {"total": len(matching), "offset": offset, "devices": matching[offset : offset + limit]}


def _job_line(connection: Connection, record: JobRecord, now: float) -> Facts:
    found = ledger.evaluations_of(connection, record.id)
    committed, directions = ledger.totals(connection, record.id)
    return {
        "job_id": record.id,
        "name": record.name,
        "state": record.state.value,
        "message": record.message or why_stalled(connection, record, now),
        "rounds_committed": committed,
        "rounds_wanted": record.rounds_wanted,
        "directions": directions,
        "accuracy": _number(found[-1].accuracy) if found else None,
        "initial_accuracy": _number(found[0].accuracy) if found else None,
        "loss": _number(found[-1].loss) if found else None,
        "created_at": record.created_at,
        "ended_at": record.ended_at,
        "curve": [_number(each.accuracy) for each in found],
    }


def _committed(made: CommittedRound) -> Facts:
    threshold = made.variance_threshold
    return {
        "version": made.version,
        "round": made.round,
        "directions": made.directions,
        "variance": _number(made.variance),
        "variance_threshold": _number(threshold) if threshold > 0 else None,
        "committed_at": made.committed_at,
        "theta_digest": made.theta_digest.hex(),
    }


def _block(update: BlockUpdate, offset: int, limit: int) -> Facts:
    some = slice(offset, offset + limit)
    return {
        "block": update.block,
        "learning_rate": float(update.learning_rate),
        "directions": len(update.seeds),
        # As text, because JavaScript numbers hold only 53 bits.
        "seeds": [str(seed) for seed in update.seeds[some].tolist()],
        "coefficients": [str(value) for value in update.coefficients[some].tolist()],
        "derivatives": [value / SCALE for value in update.coefficients[some].tolist()],
    }


def _device(status: DeviceStatus, spent: Any) -> Facts:
    device = status.device
    conditions = device.conditions
    return {
        "device_id": device.id,
        "name": device.name,
        "state": status.state.value,
        "reasons": list(status.reasons),
        "last_seen_at": device.last_seen_at,
        "training_examples": device.training_examples,
        "software": device.software,
        "conditions": as_dict(conditions) if conditions is not None else None,
        "spent": None
        if spent is None
        else {
            "scalars": spent.scalars,
            "seconds": spent.seconds,
            "peak_rss_bytes": spent.peak_rss_bytes,
            "bytes_sent": spent.bytes_sent,
            "bytes_received": spent.bytes_received,
            "artifact_bytes": spent.artifact_bytes,
            "joules": spent.joules,
            "signal_to_noise": spent.signal_to_noise,
        },
    }


def _number(value: float) -> float | None:
    return value if isfinite(value) else None
