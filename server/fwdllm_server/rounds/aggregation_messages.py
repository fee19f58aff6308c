"""A device's message of secure aggregation: stored once, answered as soon as the step that it belongs to has closed."""

from __future__ import annotations

from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import BadInputError
from fwdllm_common.secure_aggregation.cohort import KEY_BYTES, MAX_PEERS
from fwdllm_common.secure_aggregation.primitives import SEALED_BYTES, SHARE_BYTES
from fwdllm_server.store import aggregations, job_devices, rounds
from fwdllm_server.store.aggregations import AggregationRecord, MemberRecord, Step
from fwdllm_server.store.assignments import AssignmentRecord
from fwdllm_server.store.job_devices import Spent
from fwdllm_server.store.rounds import Phase

_ACCEPTING = (Phase.ASSIGNED, Phase.COLLECTING)
_LEAST_WAIT_S, _MOST_WAIT_S = 0.1, 5.0
_WAITED = 0.25
"""A device asks again after this share of the time that the step has lasted: late by a quarter of it at most."""


def take(
    connection: Connection, assignment: AssignmentRecord, request: device_pb2.AggregateRequest, now: float
) -> device_pb2.AggregateResponse:
    """Store a member's message, and return the answer, valid once the transaction is durable.

    :raises BadInputError: the message has parts of a wrong size.
    """
    step, data = _message(request)
    current = rounds.latest(connection, assignment.job_id)
    record = aggregations.get(connection, assignment.job_id, assignment.round)
    member = aggregations.member(connection, assignment.id)
    is_current = current is not None and current.number == assignment.round and current.phase in _ACCEPTING
    if record is None or member is None or not (is_current and assignment.open):
        return device_pb2.AggregateResponse(over=True)
    before = member.message(step)
    if before is None:
        if record.step is not step or not member.is_expected(step):
            return device_pb2.AggregateResponse(over=True)
        check(request, assignment.directions)
        aggregations.add_message(connection, assignment.id, step, data)
        if member.keys is None:  # its first message: what it was asked for is computed
            job_devices.add(connection, [_spent(assignment, now)])
    elif before != data:
        return device_pb2.AggregateResponse(over=True)  # the first one counts
    return _answer(record, member, step, now)


def check(request: device_pb2.AggregateRequest, directions: int) -> None:
    """Check the sizes of all parts of a message; what they say is looked at when the step closes.

    :raises BadInputError: a part has a wrong size.
    """
    kind = request.WhichOneof("message")
    if kind == "keys":
        _check_sizes([request.keys.sealing, request.keys.masking, request.keys.commitment], KEY_BYTES)
    elif kind == "shares":
        _check_sizes(list(request.shares.peers.values()), SEALED_BYTES)
    elif kind == "masked":
        _check_sizes([request.masked], 8 * directions)
    else:
        shares = request.unmasking
        _check_sizes([*shares.self_masks.values(), *shares.masking_keys.values()], SHARE_BYTES)


def _check_sizes(parts: list[bytes], size: int) -> None:
    if len(parts) > MAX_PEERS or any(len(part) != size for part in parts):
        raise BadInputError(f"a message of secure aggregation has at most {MAX_PEERS} parts of {size} bytes")


def _message(request: device_pb2.AggregateRequest) -> tuple[Step, bytes]:
    kind = request.WhichOneof("message")
    if kind is None:
        raise BadInputError("the request has no message of secure aggregation")
    if kind == "masked":
        return Step.MASKED, request.masked
    return Step(kind), getattr(request, kind).SerializeToString(deterministic=True)


def _answer(record: AggregationRecord, member: MemberRecord, step: Step, now: float) -> device_pb2.AggregateResponse:
    if record.step is step:
        wait_s = min(max(_WAITED * (now - record.step_since), _LEAST_WAIT_S), _MOST_WAIT_S)
        return device_pb2.AggregateResponse(wait_ms=round(1000 * wait_s))
    if record.step is step.next and member.inbox is not None:
        return device_pb2.AggregateResponse.FromString(member.inbox)
    return device_pb2.AggregateResponse(over=True)


def _spent(assignment: AssignmentRecord, now: float) -> Spent:
    waited_s = now - (now if assignment.taken_at is None else assignment.taken_at)
    return Spent(assignment.job_id, assignment.device_id, assignment.directions, None, assignment.passes, waited_s)
