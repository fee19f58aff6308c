"""Assigned: the cohort fetches its assignments."""

from __future__ import annotations

from math import inf

import structlog

from fwdllm_server.rounds.expiring import expire
from fwdllm_server.rounds.training import MOVED, RoundContext, Step, wait
from fwdllm_server.store import assignments, rounds, scalars
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()


def advance(context: RoundContext) -> Step:
    """Assigned → collecting when all have fetched theirs, or the time is up; if too few have, selecting again.

    If enough have and none of them is at work any more, nobody waits for the others; they may still fetch theirs.
    """
    bounds = context.job.spec.rounds
    work = assignments.of_round(context.connection, context.job.id, context.round.number)
    # Those of a selection before were offered before the phase began.
    offers = [offer for offer in work if offer.expires_at >= context.round.phase_since + bounds.assignment_s]
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


def _select_again(context: RoundContext, reason: str) -> Step:
    """Assigned → selecting, of the same round; who did not fetch is left alone for a while."""
    connection, job, number = context.connection, context.job, context.round.number
    _log.warning("selecting again", job=job.name, round=number, reason=reason)
    assignments.expire_open(connection, job.id, number, quiet_until=-inf)
    scalars.forget(connection, job.id, number)
    rounds.set_plan(connection, context.round, ())
    rounds.enter(connection, context.round, Phase.SELECTING, context.now, reason)
    return MOVED
