"""Expire overdue assignments, and record devices that sent nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf

import structlog

from fwdllm_server.rounds.training import RoundContext
from fwdllm_server.store import assignments, efforts, scalars
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.efforts import Silence

_log = structlog.get_logger()


def expire_overdue(context: RoundContext) -> tuple[Sequence[AssignmentRecord], float]:
    """Expire the round's overdue assignments. Return all assignments, and the seconds until the next expiry."""
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
    """Expire the given open assignments. A device that sent nothing for its assignment rests for a while."""
    assignments.set_states(context.connection, {each.id: AssignmentState.EXPIRED for each in overdue})
    note_silence(context, overdue, rests=lambda _: True)


def note_silence(
    context: RoundContext, given_up: Iterable[AssignmentRecord], rests: Callable[[AssignmentRecord], bool]
) -> None:
    """Record the devices that sent nothing for an assignment of directions, and whether each is to rest."""
    waiting = [] if context.job.is_draft else list(given_up)
    if not waiting:
        return
    heard_of = scalars.assignments_with_any(context.connection, context.job.id, context.round.number)
    assignment_s = context.job.spec.rounds.assignment_s
    found = [
        Silence(
            each.device_id,
            waited_s=context.now - (each.expires_at - assignment_s),
            passes=each.passes / max(1, each.directions),
            rests=rests(each),
        )
        for each in waiting
        if each.id not in heard_of
    ]
    efforts.silent(context.connection, context.job.id, found, context.now)
    if resting := sorted(silence.device_id for silence in found if silence.rests):
        _log.info("devices rest: they sent nothing", job=context.job.name, round=context.round.number, devices=resting)
