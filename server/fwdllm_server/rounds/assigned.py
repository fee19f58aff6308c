"""Phase assigned: the selected devices fetch their assignments."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import structlog

from fwdllm_server.rounds.context import MOVED, RoundContext, Step, wait
from fwdllm_server.rounds.dropout import expire
from fwdllm_server.store import aggregations, assignments, rounds, scalars
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()


def advance(context: RoundContext) -> Step:
    """Move on to collecting when all devices have fetched their assignments, or after ``accept_s``.

    If too few have, move back to selecting. If enough have, and none of these still computes, the round does not wait
    for the others. They may still fetch their assignments.
    """
    bounds = context.job.spec.rounds
    offers = _offers(context)
    fetched = sum(offer.state != AssignmentState.OFFERED for offer in offers)
    at_work = any(offer.state == AssignmentState.TAKEN for offer in offers)
    needed = min(bounds.min_devices, len(offers))
    left = context.round.phase_since + bounds.accept_s - context.now
    if fetched < len(offers) and left > 0 and (at_work or fetched < needed):
        return wait(left)
    if left <= 0:
        expire(context, [offer for offer in offers if offer.state == AssignmentState.OFFERED])
    if fetched < needed:
        return _select_again(context, f"only {fetched} of {needed} devices fetched their assignment")
    rounds.enter(context.connection, context.round, Phase.COLLECTING, context.now, f"{fetched} devices at work")
    return MOVED


def _offers(context: RoundContext) -> Sequence[AssignmentRecord]:
    """Return the assignments of this selection, not those of an earlier one in the same round."""
    connection, job = context.connection, context.job
    work = assignments.of_round(connection, job.id, context.round.number)
    if (aggregation := aggregations.get(connection, job.id, context.round.number)) is not None:
        members = {member.assignment_id for member in aggregations.members(connection, aggregation)}
        return [offer for offer in work if offer.id in members]
    # Offers of an earlier selection expire earlier than those of this phase.
    since = context.round.phase_since
    return [offer for offer in work if offer.expires_at >= since + job.spec.rounds.assignment_s]


def _select_again(context: RoundContext, reason: str) -> Step:
    """Move the same round back to selecting. Devices that did not fetch their assignments rest for a while."""
    connection, job, number = context.connection, context.job, context.round.number
    _log.warning("selecting again", job=job.name, round=number, reason=reason)
    assignments.expire_open(connection, job.id, number, quiet_until=-inf)
    scalars.forget(connection, job.id, number)
    aggregations.forget(connection, job.id, number)
    rounds.set_plan(connection, context.round, ())
    rounds.enter(connection, context.round, Phase.SELECTING, context.now, reason)
    return MOVED
