"""Divergence: θ has left the region where the loss is a number to work with, and no further round brings it back.

The job fails at once, and what is exported is the last version of which nothing bad is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import structlog
from sqlalchemy import Connection

from fwdllm_server.config.job import JobSpec
from fwdllm_server.rounds.dropout import close_assignments
from fwdllm_server.rounds.training import RoundContext, Step, TrainingJob
from fwdllm_server.store import efforts, jobs, ledger, rounds, scalars
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.ledger import EvaluationRecord
from fwdllm_server.store.rounds import Phase

ABSURD_LOSS = 1e4
"""Nats that no model which is of any use has on average: those of a probability of 10⁻⁴³⁰⁰."""
_SMALLER = 10
"""What a learning rate that was too high is divided by in a suggestion."""

_log = structlog.get_logger()


def unusable_from(context: RoundContext, work: Sequence[AssignmentRecord]) -> str:
    """Whether the round's devices have no numbers to send, in words; empty if it is one device's trouble alone.

    That takes more than half of those that were at work, and two at least unless the job has had one device only, whose
    scalars were good before: a single stranger ends no job.
    """
    asked = {each.device_id for each in work if each.taken_at is not None}
    unusable = {each.device_id for each in work if each.state == AssignmentState.UNUSABLE}
    if not unusable or 2 * len(unusable) <= len(asked):
        return ""
    if len(unusable) == 1 and efforts.contributors(context.connection, context.job.id) != unusable:
        return ""
    version = context.round.version
    return (
        f"the scalars of {len(unusable)} of {len(asked)} devices at version {version} are not finite or far too large"
    )


def fail(context: RoundContext, found: str, good_version: int) -> Step:
    """Any phase → the job has failed, with a version of it kept as the last good one."""
    message = note(context.connection, context.job.id, context.job.spec, found, good_version, context.now)
    _log.warning("job failed", job=context.job.name, round=context.round.number, reason=message)
    rounds.enter(context.connection, context.round, Phase.ABANDONED, context.now, found)
    close_assignments(context)
    scalars.forget(context.connection, context.job.id, context.round.number)
    return Step(moved=True, job_ended=True)


def note(connection: Connection, job_id: str, spec: JobSpec, found: str, good_version: int, now: float) -> str:
    """The job has failed because of what was found; returns the message for its operator."""
    rates = ", ".join(
        f"[blocks.{name}] learning_rate = {block.learning_rate / _SMALLER:g} instead of {block.learning_rate:g}"
        for name, block in sorted(spec.blocks.items())
    )
    if good_version < 0:
        kept = "the model has no finite loss before any training; check it and its precision"
    else:
        kept = f"version {good_version} is kept, and what 'export' writes; submit the job again with {rates}"
    message = f"training has diverged: {found}; {kept}"
    jobs.set_state(connection, job_id, JobState.FAILED, message, now)
    jobs.set_good_version(connection, job_id, max(good_version, 0))
    return message


def note_loss(connection: Connection, job: TrainingJob, evaluation: EvaluationRecord, now: float) -> str:
    """The job has failed because of its held-out loss; returns the message for its operator."""
    good = [known.version for known in ledger.evaluations_of(connection, job.id) if known.version < evaluation.version]
    return note(connection, job.id, job.spec, absurd_loss(evaluation), max(good, default=-1), now)


def absurd_loss(evaluation: EvaluationRecord) -> str:
    """Whether no model that is of any use has such a loss, in words; empty if one may."""
    if isfinite(evaluation.loss) and evaluation.loss <= ABSURD_LOSS:
        return ""
    return f"the loss on the held-out rows is {evaluation.loss:.3g} at version {evaluation.version}"
