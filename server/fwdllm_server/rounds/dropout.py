"""Drop-out: which part of the assignments of the last rounds was left by devices that vanished.

They gave it back, or had been silent for so long that it was handed over. One that was at work when its round closed
says nothing: it was slow, or there was enough without it.
"""

from __future__ import annotations

from fwdllm_server.rounds.expiring import note_silence
from fwdllm_server.rounds.training import RoundContext
from fwdllm_server.store import assignments

QUIET = 0.25
"""Part of ``assignment_s`` without news after which an assignment is not counted on any more."""
_ROUNDS = 20
"""The drop-out of so many rounds past is what is expected."""
_LEAST_SEEN = 20
"""Fewer assignments say nothing about drop-out."""


def observed_drop_out(context: RoundContext) -> float:
    """From 0 to 1; 0 for a job that does not ask for it."""
    bounds = context.job.spec.rounds
    if bounds.over_assign != "auto":
        return 0.0
    first = context.round.number - _ROUNDS
    done, vanished = assignments.outcomes(context.connection, context.job.id, first)
    return vanished / (done + vanished) if done + vanished >= _LEAST_SEEN else 0.0


def close_assignments(context: RoundContext) -> None:
    """The round is over: what still counts of it is late from now on."""
    quiet_until = context.now + (1 - QUIET) * context.job.spec.rounds.assignment_s
    work = assignments.of_round(context.connection, context.job.id, context.round.number)
    quiet = (each for each in work if each.open and each.expires_at <= quiet_until)
    # One that is at work may just be slow; one that has not fetched its assignment is not there.
    note_silence(context, quiet, rests=lambda each: each.taken_at is None)
    assignments.expire_open(context.connection, context.job.id, context.round.number, quiet_until)
