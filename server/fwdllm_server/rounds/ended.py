"""Phases committed and abandoned: the round is over, and the next one begins or the job ends."""

from __future__ import annotations

from math import inf

import structlog
from sqlalchemy import Connection

from fwdllm_server.rounds.context import MOVED, RoundContext, Step, wait
from fwdllm_server.rounds.dropout import close_assignments
from fwdllm_server.rounds.early_stopping import early_stop
from fwdllm_server.rounds.releasing import end_at_budget
from fwdllm_server.store import aggregations, assignments, jobs, ledger, rounds, scalar_spans, scalars
from fwdllm_server.store.aggregations import Step as Stage
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


def end_aggregation(connection: Connection, job_id: str) -> None:
    """Delete the devices' messages of a job that was stopped or has failed.

    When it is resumed, its round is abandoned, and the next one is another session. A sum is kept.
    """
    record = rounds.latest(connection, job_id)
    aggregation = None if record is None else aggregations.get(connection, job_id, record.number)
    if aggregation is None or aggregation.step is Stage.SUMMED:
        return
    aggregations.forget(connection, job_id, aggregation.round)
    assignments.expire_open(connection, job_id, aggregation.round)


def after_abandoned(context: RoundContext) -> Step:
    """Begin the next round at the same version, unless the privacy budget is spent."""
    if (ended := end_at_budget(context)) is not None:
        return ended
    rounds.begin(context.connection, context.job.id, context.round.number + 1, context.round.version, context.now)
    return MOVED


def after_committed(context: RoundContext) -> Step:
    """Begin the next round, or end early. After the last one, wait for its evaluation and end the job."""
    connection, job = context.connection, context.job
    if job.state.version < job.spec.rounds.count:
        if why := early_stop(context):
            jobs.set_state(connection, job.id, JobState.DONE, why, context.now)
            return Step(moved=True, job_ended=True)
        if (ended := end_at_budget(context)) is not None:
            return ended
        rounds.begin(connection, job.id, context.round.number + 1, job.state.version, context.now)
        return MOVED
    evaluated = {record.version for record in ledger.evaluations_of(connection, job.id)}
    if job.state.version not in evaluated:
        return wait(inf)
    jobs.set_state(connection, job.id, JobState.DONE, "", context.now)
    return Step(moved=True, job_ended=True)
