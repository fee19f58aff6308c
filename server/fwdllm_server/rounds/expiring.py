"""Assignments whose time is up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from fwdllm_server.rounds.training import RoundContext
from fwdllm_server.store import assignments
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState


def expire_overdue(context: RoundContext) -> tuple[Sequence[AssignmentRecord], float]:
    """Expire the round's assignments without news; returns all as they are now, and the seconds to the next expiry."""
    work = []
    remaining = inf
    for assignment in assignments.of_round(context.connection, context.job.id, context.round.number):
        left = assignment.expires_at - context.now
        if assignment.open and left <= 0:
            assignments.set_state(context.connection, assignment.id, AssignmentState.EXPIRED)
            work.append(replace(assignment, state=AssignmentState.EXPIRED))
            continue
        work.append(assignment)
        if assignment.open:
            remaining = min(remaining, left)
    return work, remaining
