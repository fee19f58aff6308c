"""The way of a scalar into the store: checked, turned into fixed point, counted once (DESIGN §2, invariant 4)."""

from __future__ import annotations

from math import isfinite

from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.counts import Counts
from fwdllm_common.fixed_point import UnusableScalarError, to_fixed_point
from fwdllm_common.protocol import MAX_SCALARS_PER_REPORT
from fwdllm_server.store import assignments, efforts, jobs, rounds, scalars
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState, seeds_of
from fwdllm_server.store.rounds import Phase, RoundRecord

_ACCEPTING = (Phase.ASSIGNED, Phase.COLLECTING)
_ROUNDING = 1e-9


def record(
    connection: Connection,
    assignment: AssignmentRecord,
    request: device_pb2.ReportRequest,
    assignment_s: float,
    now: float,
) -> device_pb2.ReportResponse:
    """Store one message of a report; everything in the answer holds once the transaction is on disk.

    News of an open assignment prolongs it by ``assignment_s`` seconds.
    """
    response = device_pb2.ReportResponse(assignment_id=assignment.id, first_index=request.first_index)
    if request.HasField("evaluation"):
        _record_evaluation(connection, assignment, request.evaluation)
    current = _accepting_round(connection, assignment)
    if current is not None:
        _record_scalars(connection, assignment, current, request, response)
        _move_on(connection, assignment, current, request, response, now + assignment_s)
    else:
        response.late = len(request.derivatives)
        response.stop = True
    jobs.count_unused(connection, assignment.job_id, response.repeated, response.late, response.unusable)
    # A message that is sent again carries its effort again.
    if request.HasField("effort") and not response.repeated and plausible(request.effort):
        efforts.add(connection, assignment.job_id, assignment.device_id, response.accepted, request.effort)
    return response


def _accepting_round(connection: Connection, assignment: AssignmentRecord) -> RoundRecord | None:
    current = rounds.latest(connection, assignment.job_id)
    accepts = (
        assignment.state != AssignmentState.EXPIRED
        and current is not None
        and current.number == assignment.round
        and current.phase in _ACCEPTING
    )
    return current if accepts else None


def _record_scalars(
    connection: Connection,
    assignment: AssignmentRecord,
    current: RoundRecord,
    request: device_pb2.ReportRequest,
    response: device_pb2.ReportResponse,
) -> None:
    seeds = assignment.seeds[request.first_index :]
    values: dict[int, int] = {}
    for seed, derivative in zip(seeds, request.derivatives[:MAX_SCALARS_PER_REPORT], strict=False):
        try:
            values[seed] = to_fixed_point(derivative)
        except UnusableScalarError:
            continue
    response.unusable = len(request.derivatives) - len(values)
    place = (connection, assignment.job_id, assignment.round)
    shared = {seed: devices for seed in values if (devices := current.devices_for(seed)) > 1}
    copies = scalars.next_copies(*place, assignment.device_id, shared)
    new = {seed: value for seed, value in values.items() if seed not in shared or seed in copies}
    response.accepted = scalars.record(*place, assignment.id, assignment.device_id, new, copies)
    response.repeated = len(values) - response.accepted


def _move_on(
    connection: Connection,
    assignment: AssignmentRecord,
    current: RoundRecord,
    request: device_pb2.ReportRequest,
    response: device_pb2.ReportResponse,
    expires_at: float,
) -> None:
    if response.unusable:
        # The device's numbers are no good: others measure what it has not.
        assignments.set_state(connection, assignment.id, AssignmentState.EXPIRED)
        response.stop = True
        return
    if all(_is_measured(connection, assignment, current, task) for task in assignment.tasks):
        assignments.set_state(connection, assignment.id, AssignmentState.DONE)
        # What it has not measured itself, others have.
        response.stop = request.first_index + len(request.derivatives) < len(assignment.seeds)
    else:
        assignments.prolong(connection, assignment.id, expires_at)


def _is_measured(
    connection: Connection, assignment: AssignmentRecord, current: RoundRecord, task: device_pb2.DirectionTask
) -> bool:
    seeds = seeds_of(task)
    # A round may have thousands of seeds, and this is asked for every message.
    within = (min(seeds), max(seeds))
    last = current.devices_for(seeds[0]) - 1  # where this one has a scalar, there are enough
    own = assignment.device_id if last else None  # measured by the device, it is others' to measure as well
    measured = scalars.seeds_of_round(connection, assignment.job_id, assignment.round, within, last, own)
    return measured.issuperset(seeds)


def _record_evaluation(
    connection: Connection, assignment: AssignmentRecord, counts: device_pb2.EvaluationCounts
) -> None:
    f1 = counts.f1 if counts.HasField("f1") else None
    # Exact matches have an F1 of 1; the rounding of a sum is forgiven.
    plausible_f1 = f1 is None or (counts.correct <= f1 * (1 + _ROUNDING) and f1 <= counts.total * (1 + _ROUNDING))
    if assignment.evaluate and counts.correct <= counts.total and plausible_f1:
        assignments.evaluated(connection, assignment.id, Counts(counts.correct, counts.total, f1))


def plausible(effort: device_pb2.Effort) -> bool:
    """Whether the numbers can be those of an effort."""
    numbers = (effort.seconds, effort.example_passes)
    return all(isfinite(number) and number >= 0 for number in numbers) and max(
        effort.peak_rss_bytes, effort.bytes_sent, effort.bytes_received, effort.artifact_bytes
    ) < (1 << 62)
