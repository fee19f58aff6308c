"""Phases committed and abandoned: the round is over, and the next one begins or the job ends."""

from __future__ import annotations

from math import inf

import structlog

from fwdllm_server.rounds.context import MOVED, RoundContext, Step, wait
from fwdllm_server.rounds.dropout import close_assignments
from fwdllm_server.rounds.early_stopping import early_stop
from fwdllm_server.store import aggregations, jobs, ledger, rounds, scalar_spans, scalars
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.rounds import Phase

_log = structlog.get_logger()


def abandon(context: RoundContext, reason: str) -> Step:
    """Move the round from any phase to abandoned. Fail the job after too many abandoned rounds in a row."""
    connection, job = context.connection, context.job
    rounds.enter(connection, context.round, Phase.ABANDONED, context.now, reason)
    close_assignments(context)
    scalars.forget(connection, job.id, context.round.number)
    scalar_spans.forget(connection, job.id, context.round.number)
    aggregations.forget(connection, job.id, context.round.number)
    in_a_row = rounds.abandoned_in_a_row(connection, job.id)
    _log.warning("round abandoned", job=job.name, round=context.round.number, reason=reason, in_a_row=in_a_row)
    if in_a_row > job.spec.rounds.max_abandoned:
        message = (
            f"{in_a_row} rounds in a row were abandoned, the last because {reason}; fix the cause and resume the job"
        )
        jobs.set_state(connection, job.id, JobState.FAILED, message, context.now)
        return Step(moved=True, job_ended=True)
    return MOVED


def after_abandoned(context: RoundContext) -> Step:
    """Begin the next round at the same version."""
    rounds.begin(context.connection, context.job.id, context.round.number + 1, context.round.version, context.now)
    return MOVED


def after_committed(context: RoundContext) -> Step:
    """Begin the next round, or stop early. After the last one, wait for its evaluation and end the job."""
    connection, job = context.connection, context.job
    if job.state.version < job.spec.rounds.count:
        if why := early_stop(context):
            jobs.set_state(connection, job.id, JobState.DONE, why, context.now)
            return Step(moved=True, job_ended=True)
        rounds.begin(connection, job.id, context.round.number + 1, job.state.version, context.now)
        return MOVED
    evaluated = {record.version for record in ledger.evaluations_of(connection, job.id)}
    if job.state.version not in evaluated:
        return wait(inf)
    jobs.set_state(connection, job.id, JobState.DONE, "", context.now)
    return Step(moved=True, job_ended=True)
