"""Assignments whose time is up, and devices of which nothing came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf

import structlog

from fwdllm_server.rounds.training import RoundContext
from fwdllm_server.store import assignments, efforts, scalars
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.efforts import Failure

_log = structlog.get_logger()


def expire_overdue(context: RoundContext) -> tuple[Sequence[AssignmentRecord], float]:
    """Expire the round's assignments without news; returns all as they are now, and the seconds to the next expiry."""
    work = []
    remaining = inf
    overdue = []
    for assignment in assignments.of_round(context.connection, context.job.id, context.round.number):
        left = assignment.expires_at - context.now
        if assignment.open and left <= 0:
            overdue.append(assignment)
            work.append(replace(assignment, state=AssignmentState.EXPIRED))
            continue
        work.append(assignment)
        if assignment.open:
            remaining = min(remaining, left)
    expire(context, overdue)
    return work, remaining


def expire(context: RoundContext, overdue: Sequence[AssignmentRecord]) -> None:
    """Give some open assignments up; a device that sent nothing for its own is left alone for a while."""
    assignments.set_states(context.connection, {each.id: AssignmentState.EXPIRED for each in overdue})
    note_failures(context, overdue)


def note_failures(context: RoundContext, given_up: Iterable[AssignmentRecord]) -> None:
    """Leave the devices alone for a while that have sent nothing for an assignment of a round that measures."""
    waiting = [] if context.job.is_draft else list(given_up)
    if not waiting:
        return
    heard_of = scalars.assignments_with_any(context.connection, context.job.id, context.round.number)
    assignment_s = context.job.spec.rounds.assignment_s
    failures = [
        Failure(each.device_id, context.now - (each.expires_at - assignment_s))
        for each in waiting
        if each.id not in heard_of
    ]
    efforts.fail(context.connection, context.job.id, failures, context.now)
    if failures:
        _log.info(
            "devices sent nothing",
            job=context.job.name,
            round=context.round.number,
            devices=sorted(failure.device_id for failure in failures),
        )
