"""Collecting under secure aggregation: the cohort's messages step by step, and in the end their sum (docs/privacy.md).

A step closes when the messages of all its members are in, or when it has waited long enough. What closes it is computed
from the stored messages alone, so that a coordinator that is killed goes on from the last transaction. From then on no
message of that step is taken, and so each member is told once who is in the sum.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median_high
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.estimator import MOST_EXAMPLES, Scalar
from fwdllm_common.fixed_point import MAX_MAGNITUDE, SCALE
from fwdllm_common.secure_aggregation import (
    Aggregation,
    NotEnoughMembersError,
    Session,
    messages,
    peers_of_all,
    threshold,
)
from fwdllm_common.secure_aggregation.cohort import SESSION_BYTES
from fwdllm_server.algorithm import BlockPlan, Measured
from fwdllm_server.algorithm.complete import Span
from fwdllm_server.rounds import diverged
from fwdllm_server.rounds.context import MOVED, Computation, RoundContext, Step, wait
from fwdllm_server.rounds.delivery import least_in_sum, message_of, part_in
from fwdllm_server.rounds.dropout import expire
from fwdllm_server.rounds.ended import abandon
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import aggregations, assignments, devices, releases, rounds
from fwdllm_server.store.aggregations import AggregationRecord, MemberRecord
from fwdllm_server.store.aggregations import Step as Stage
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.rounds import Phase, RoundRecord

COHORT = "cohort"
"""Who has measured the mean of a cohort's scalars."""
_UNITS = messages.MAX_WEIGHT // MOST_EXAMPLES
"""The weight of a device with as many rows as the median."""

LARGEST_SCALAR = MAX_MAGNITUDE * SCALE
"""Of one device, before it is multiplied by the weight."""

_log = structlog.get_logger()


class Closing(NamedTuple):
    """What closes a step: an answer for each assignment that goes on, or the sum, or why there is none."""

    inboxes: Mapping[str, bytes]
    total: NDArray[np.int64] | None = None
    in_sum: frozenset[str] = frozenset()
    failure: str = ""


def is_secured(record: RoundRecord) -> bool:
    """Whether all devices of a round measure the same directions and send their scalars masked."""
    return any(plan.shared for plan in record.plan)


def begin(context: RoundContext) -> None:
    """Begin the aggregation over all assignments that are offered. Its session is of this cohort alone."""
    connection, place = context.connection, (context.job.id, context.round.number)
    offers = [each for each in assignments.of_round(connection, *place) if each.state == AssignmentState.OFFERED]
    found = devices.by_id(connection, [each.device_id for each in offers])
    rows = {each.id: max(1, found[each.device_id].training_examples) for each in offers}
    middle = median_high(rows.values())
    if context.job.spec.privacy.budget is not None:
        weights = dict.fromkeys(rows, 1)  # a weight that follows from others' rows would tell of them
    else:
        weights = {work: weight(count, middle) for work, count in rows.items()}
    aggregations.forget(connection, *place)
    session, first = secrets.token_bytes(SESSION_BYTES), _first_step(context.job)
    aggregations.begin(connection, *place, session, weights, context.now, first)


def _first_step(job: TrainingJob) -> Stage:
    """Return the step that devices come to when they have computed."""
    return Stage.KEYS if job.masks else Stage.MASKED


def weight(examples: int, middle: int) -> int:
    """Return the weight of a device: by its examples, at most twice that of the median and at least a quarter of it."""
    return max(1, min(messages.MAX_WEIGHT, round(_UNITS * examples / middle)))


def advance(context: RoundContext) -> Step | Computation[Closing]:
    """Wait for the messages of the current step, or close it."""
    record = aggregations.get(context.connection, context.job.id, context.round.number)
    if record is None:
        return abandon(context, "its secure aggregation is not in the store")
    work = {each.id: each for each in assignments.of_round(context.connection, context.job.id, context.round.number)}
    waited_for = [work[each] for each in aggregations.waiting_for(context.connection, record) if work[each].open]
    if found := diverged.unusable_from(context, list(work.values())):
        return diverged.fail(context, found, good_version=context.round.version - 1)
    bounds = context.job.spec.rounds
    if record.step is _first_step(context.job):  # the devices compute
        until = context.round.phase_since + bounds.deadline_s
        expire(context, [each for each in waited_for if each.expires_at <= context.now])
        waited_for = [each for each in waited_for if each.expires_at > context.now]
        until = min([until, *(each.expires_at for each in waited_for)])
    else:
        until = record.step_since + bounds.accept_s
    if waited_for and context.now < until:
        return wait(until - context.now)
    members = aggregations.members(context.connection, record)
    sum_of = part_in(record, members[0], len(members), context.job)
    session = messages.session_of(message_of(work[members[0].assignment_id], context.job, sum_of))
    needed = least_in_sum(context.job, len(members))
    close = _close if context.job.masks else _added
    compute = partial(close, record, members, session, needed, bool(sum_of.noise))
    return Computation(context.round, compute, partial(_apply, record))


def by_block(context: RoundContext) -> Mapping[str, Measured]:
    """Return the mean of the cohort's scalars for each block of the plan, as if one device had measured it."""
    record = aggregations.get(context.connection, context.job.id, context.round.number)
    mean = None if record is None else record.mean
    if mean is None:
        return {plan.block: () for plan in context.round.plan}
    found, start = {}, 0
    for plan in context.round.plan:
        found[plan.block] = _measured(plan, mean[start : start + plan.wanted])
        start += plan.wanted
    return found


def _measured(plan: BlockPlan, values: NDArray[np.int64]) -> Measured:
    if plan.order:
        return [Span(plan.first_seed, values, COHORT, 1)]
    return [Scalar(seed, value, COHORT, 1) for seed, value in zip(plan.seeds, values.tolist(), strict=True)]


def _close(
    record: AggregationRecord, members: Sequence[MemberRecord], session: Session, needed: int, is_noised: bool
) -> Closing:
    """Return what follows from the messages; wrong ones count as if they had not come."""
    aggregation = _replayed(record, members, session)
    work = {member.number: member.assignment_id for member in members}
    left = {
        Stage.KEYS: aggregation.members,
        Stage.SHARES: aggregation.sharers,
        Stage.MASKED: aggregation.survivors,
        Stage.UNMASKING: aggregation.survivors,
    }[record.step]
    if len(left) < needed:
        return Closing({}, failure=f"{len(left)} of {len(members)} devices are left, {needed} are needed for a sum")
    if record.step in (Stage.SHARES, Stage.MASKED):
        # Devices would refuse to go on, each for itself.
        peers = aggregation.sealed_for if record.step is Stage.SHARES else aggregation.survivors_for
        if any(len(peers(n)) < threshold(len(aggregation.keys_for(n))) for n in left):
            return Closing({}, failure=f"only {len(left)} of {len(members)} devices are left, too few to unmask a sum")
    if record.step is not Stage.UNMASKING:
        return Closing({work[n]: _inbox(aggregation, record.step, n).SerializeToString() for n in left})
    try:
        total = aggregation.sum()
    except (NotEnoughMembersError, IntegrityError) as error:
        return Closing({}, failure=str(error))
    return _checked(total, [member for member in members if member.number in left], session, is_noised)


def _added(
    _record: AggregationRecord, members: Sequence[MemberRecord], session: Session, needed: int, is_noised: bool
) -> Closing:
    """Return the sum of what members would have masked."""
    words = {member.number: member.masked for member in members if member.masked is not None}
    if len(words) < needed:
        return Closing({}, failure=f"{len(words)} of {len(members)} devices are left, {needed} are needed for a sum")
    total: NDArray[np.uint64] = sum(map(messages.words_of, words.values()), np.zeros(session.length, dtype=np.uint64))
    return _checked(total.view(np.int64), [member for member in members if member.number in words], session, is_noised)


def _checked(total: NDArray[np.int64], in_sum: Sequence[MemberRecord], session: Session, is_noised: bool) -> Closing:
    """Return the sum, unless it is larger than what the devices in it can have measured."""
    together = sum(member.weight for member in in_sum)
    bound = (session.largest if is_noised else LARGEST_SCALAR) * together
    if np.any((total > bound) | (total < -bound)):
        return Closing({}, failure="the sum is larger than scalars can be: a device has sent something else")
    return Closing({}, total, frozenset(member.assignment_id for member in in_sum))


def _inbox(aggregation: Aggregation, step: Stage, number: int) -> device_pb2.AggregateResponse:
    """Return what a member gets for its message of a step."""
    if step is Stage.KEYS:
        return device_pb2.AggregateResponse(keys=messages.peers_message(aggregation.keys_for(number)))
    if step is Stage.SHARES:
        return device_pb2.AggregateResponse(shares=device_pb2.MemberShares(peers=aggregation.sealed_for(number)))
    return device_pb2.AggregateResponse(survivors=device_pb2.Survivors(peers=aggregation.survivors_for(number)))


def _replayed(record: AggregationRecord, members: Sequence[MemberRecord], session: Session) -> Aggregation:
    numbers = [member.number for member in members]
    aggregation = Aggregation(session, peers_of_all(numbers, record.session))
    for step in (Stage.KEYS, Stage.SHARES, Stage.MASKED, Stage.UNMASKING):
        for member in members:
            if (message := member.message(step)) is not None:
                try:
                    _add(aggregation, step, member.number, message)
                except BadInputError as error:
                    _log.warning("message left out of a sum", work=member.assignment_id, step=str(step), why=str(error))
    return aggregation


def _add(aggregation: Aggregation, step: Stage, number: int, message: bytes) -> None:
    if step is Stage.KEYS:
        aggregation.advertise(number, messages.advertisement_of(device_pb2.MemberKeys.FromString(message)))
    elif step is Stage.SHARES:
        aggregation.share(number, dict(device_pb2.MemberShares.FromString(message).peers))
    elif step is Stage.MASKED:
        aggregation.mask(number, messages.words_of(message))
    else:
        aggregation.unmask(number, messages.unmasking_of(device_pb2.UnmaskingShares.FromString(message)))


def _apply(record: AggregationRecord, context: RoundContext, closing: Closing) -> Step:
    """Begin the next step, or go on to committing with the sum."""
    if aggregations.get(context.connection, record.job_id, record.round) != record:
        return MOVED  # another step of the same round
    if closing.failure:
        return abandon(context, closing.failure)
    _log.info("step of the secure aggregation closed", job=context.job.name, round=record.round, step=str(record.step))
    if record.step is Stage.MASKED and context.job.spec.privacy.budget is not None:
        # From here on devices help to unmask the sum: it counts, whatever becomes of the round.
        work = assignments.of_round(context.connection, record.job_id, record.round)
        told = closing.inboxes.keys() | closing.in_sum
        releases.add(context.connection, record.job_id, {each.device_id for each in work if each.id in told})
    if closing.total is None:
        aggregations.enter(context.connection, record, closing.inboxes, context.now)
        return MOVED
    members = aggregations.members(context.connection, record)
    together = sum(member.weight for member in members if member.assignment_id in closing.in_sum)
    aggregations.add_sum(context.connection, record, closing.total, together, context.now)
    assignments.set_states(context.connection, dict.fromkeys(closing.in_sum, AssignmentState.DONE))
    reason = f"sum over {len(closing.in_sum)} of {len(members)} devices"
    rounds.enter(context.connection, context.round, Phase.COMMITTING, context.now, reason)
    return MOVED
