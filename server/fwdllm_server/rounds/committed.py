"""Phase committed: the next round begins, or the job is done."""

from __future__ import annotations

from math import inf

from fwdllm_server.rounds.training import MOVED, RoundContext, Step, wait
from fwdllm_server.store import jobs, ledger, rounds
from fwdllm_server.store.jobs import JobState


def advance(context: RoundContext) -> Step:
    """Begin the next round. After the last one, wait for its evaluation and end the job."""
    connection, job = context.connection, context.job
    if job.state.version < job.spec.rounds.count:
        rounds.begin(connection, job.id, context.round.number + 1, job.state.version, context.now)
        return MOVED
    evaluated = {record.version for record in ledger.evaluations_of(connection, job.id)}
    if job.state.version not in evaluated:
        return wait(inf)
    jobs.set_state(connection, job.id, JobState.DONE, "", context.now)
    return Step(moved=True, job_ended=True)
