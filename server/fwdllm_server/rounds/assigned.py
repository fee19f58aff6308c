"""Assigned: the cohort fetches its assignments."""

from __future__ import annotations

from fwdllm_server.rounds.abandoned import abandon
from fwdllm_server.rounds.training import MOVED, RoundContext, Step, wait
from fwdllm_server.store import assignments, rounds
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.rounds import Phase


def advance(context: RoundContext) -> Step:
    """Assigned → collecting when all have fetched theirs, or the time is up; too few then abandon the round.

    If enough have and none of them is at work any more, nobody waits for the others; they may still fetch theirs.
    """
    bounds = context.job.spec.rounds
    offers = assignments.of_round(context.connection, context.job.id, context.round.number)
    fetched = sum(offer.state != AssignmentState.OFFERED for offer in offers)
    at_work = any(offer.state == AssignmentState.TAKEN for offer in offers)
    needed = min(bounds.min_devices, len(offers))
    left = context.round.phase_since + bounds.accept_s - context.now
    if fetched < len(offers) and left > 0 and (at_work or fetched < needed):
        return wait(left)
    if fetched < needed:
        return abandon(context, f"only {fetched} of {needed} devices fetched their assignment")
    for offer in offers:
        if offer.state == AssignmentState.OFFERED and left <= 0:
            assignments.set_state(context.connection, offer.id, AssignmentState.EXPIRED)
    rounds.enter(context.connection, context.round, Phase.COLLECTING, context.now, f"{fetched} devices at work")
    return MOVED
