"""The dropout rate: the fraction of recent assignments whose devices dropped out.

A device drops out if it gives its assignment back, or sends nothing for so long that its work is reassigned. An
assignment that was open and not overdue when its round closed is not counted: its device may have been slow, or its
scalars were not needed.
"""

from __future__ import annotations

from fwdllm_server.rounds.expiring import note_silence
from fwdllm_server.rounds.training import RoundContext
from fwdllm_server.store import assignments

QUIET = 0.25
"""Fraction of ``assignment_s`` without progress after which an assignment's work may be reassigned."""
_ROUNDS = 20
"""Number of past rounds from which the dropout rate is estimated."""
_LEAST_SEEN = 20
"""Smallest number of assignments for an estimate of the dropout rate."""


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
    note_silence(context, quiet, rests=lambda each: each.taken_at is None)
    assignments.expire_open(context.connection, context.job.id, context.round.number, quiet_until)
