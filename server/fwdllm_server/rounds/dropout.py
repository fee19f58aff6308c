"""Devices that drop out: their assignments expire, they rest, and more directions are assigned to make up for them.

A device drops out if it gives its assignment back, or sends nothing for so long that its work is reassigned. The
dropout rate is the fraction of recent assignments whose devices dropped out. An assignment that was open and not
overdue when its round closed is not counted: its device may have been slow, or its scalars were not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf

import structlog

from fwdllm_server.rounds.context import RoundContext
from fwdllm_server.store import assignments, job_devices, scalars
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.job_devices import Silence

QUIET = 0.25
"""Fraction of ``assignment_s`` without progress after which an assignment's work may be reassigned."""
_ROUNDS = 20
"""Number of past rounds from which the dropout rate is estimated."""
_LEAST_SEEN = 20
"""Smallest number of assignments for an estimate of the dropout rate."""

_log = structlog.get_logger()


def observed_drop_out(context: RoundContext) -> float:
    """Return the dropout rate of recent rounds, in [0, 1]. It is 0 unless the job's ``over_assign`` is "auto"."""
    bounds = context.job.spec.rounds
    if bounds.over_assign != "auto":
        return 0.0
    first = context.round.number - _ROUNDS
    done, vanished = assignments.outcomes(context.connection, context.job.id, first)
    return vanished / (done + vanished) if done + vanished >= _LEAST_SEEN else 0.0


def over_assignment(context: RoundContext) -> float:
    """Return the directions to assign for each that is waited for, at least 1: what drops out is made up for."""
    return context.job.spec.rounds.over_assigned(observed_drop_out(context))


def close_assignments(context: RoundContext) -> None:
    """Expire the open assignments of a round that is over, so that later scalars count as late."""
    quiet_until = context.now + (1 - QUIET) * context.job.spec.rounds.assignment_s
    work = assignments.of_round(context.connection, context.job.id, context.round.number)
    quiet = (each for each in work if each.open and each.expires_at <= quiet_until)
    # A device that fetched its assignment may just be slow. One that did not is likely gone, and rests.
    _note_silence(context, quiet, rests=lambda each: each.taken_at is None)
    assignments.expire_open(context.connection, context.job.id, context.round.number, quiet_until)


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
    _note_silence(context, overdue, rests=lambda _: True)


def _note_silence(
    context: RoundContext, given_up: Iterable[AssignmentRecord], rests: Callable[[AssignmentRecord], bool]
) -> None:
    """Record the devices that sent nothing for an assignment of directions, and whether each is to rest."""
    waiting = [] if context.job.head_uninitialised else list(given_up)
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
    job_devices.silent(context.connection, context.job.id, found, context.now)
    if resting := sorted(silence.device_id for silence in found if silence.rests):
        _log.info("devices rest: they sent nothing", job=context.job.name, round=context.round.number, devices=resting)
