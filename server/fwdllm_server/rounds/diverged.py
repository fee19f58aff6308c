"""Divergence: the loss or the scalars are no longer finite or plausible, and further rounds cannot repair θ.

The job fails at once. Its export is the last version that is known to be good.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import structlog
from sqlalchemy import Connection

from fwdllm_server.config.job import JobSpec
from fwdllm_server.rounds.context import RoundContext, Step
from fwdllm_server.rounds.dropout import close_assignments
from fwdllm_server.rounds.ended import end_aggregation
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import aggregations, job_devices, jobs, ledger, rounds, scalars
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.ledger import EvaluationRecord
from fwdllm_server.store.rounds import Phase

ABSURD_LOSS = 1e4
"""Mean loss in nats above which a model is useless: it is that of a probability of 10⁻⁴³⁰⁰."""
_SMALLER = 10
"""Divisor of a learning rate that was too high, for the suggested one."""

_log = structlog.get_logger()


def unusable_from(context: RoundContext, work: Sequence[AssignmentRecord]) -> str:
    """Return a message if most devices of the round sent unusable scalars, else an empty text.

    It takes more than half of the devices that have fetched assignments, and at least two. One device is enough only if
    it is the job's single contributor so far. So a single untrusted device cannot end a job.
    """
    asked = {each.device_id for each in work if each.taken_at is not None}
    unusable = {each.device_id for each in work if each.state == AssignmentState.UNUSABLE}
    if not unusable or 2 * len(unusable) <= len(asked):
        return ""
    if len(unusable) == 1 and job_devices.contributors(context.connection, context.job.id) != unusable:
        return ""
    version = context.round.version
    return (
        f"the scalars of {len(unusable)} of {len(asked)} devices at version {version} are not finite or far too large"
    )


def fail(context: RoundContext, found: str, good_version: int) -> Step:
    """Fail the job in any phase, and keep ``good_version`` as its last good version."""
    message = note(context.connection, context.job.id, context.job.spec, found, good_version, context.now)
    _log.warning("job failed", job=context.job.name, round=context.round.number, reason=message)
    rounds.enter(context.connection, context.round, Phase.ABANDONED, context.now, found)
    close_assignments(context)
    scalars.forget(context.connection, context.job.id, context.round.number)
    aggregations.forget(context.connection, context.job.id, context.round.number)
    return Step(moved=True, job_ended=True)


def note(connection: Connection, job_id: str, spec: JobSpec, found: str, good_version: int, now: float) -> str:
    """Mark the job as failed for the cause ``found``, and return the message for its operator.

    :param good_version: the last good version, negative if there is none.
    :param now: seconds since 1970.
    """
    rates = ", ".join(
        f"[blocks.{name}] learning_rate = {block.learning_rate / _SMALLER:g} instead of {block.learning_rate:g}"
        for name, block in sorted(spec.blocks.items())
    )
    if good_version < 0:
        kept = "the model's loss is not finite before any training; check the model and its precision"
    else:
        kept = f"version {good_version} is kept for 'export'; submit the job again with {rates}"
    message = f"training has diverged: {found}; {kept}"
    end_aggregation(connection, job_id)
    jobs.set_state(connection, job_id, JobState.FAILED, message, now)
    jobs.set_good_version(connection, job_id, max(good_version, 0))
    return message


def note_loss(connection: Connection, job: TrainingJob, evaluation: EvaluationRecord, now: float) -> str:
    """Mark the job as failed for its held-out loss, and return the message for its operator."""
    good = [known.version for known in ledger.evaluations_of(connection, job.id) if known.version < evaluation.version]
    return note(connection, job.id, job.spec, absurd_loss(evaluation), max(good, default=-1), now)


def absurd_loss(evaluation: EvaluationRecord) -> str:
    """Return a message if the loss is not finite or above :data:`ABSURD_LOSS`, else an empty text."""
    if isfinite(evaluation.loss) and evaluation.loss <= ABSURD_LOSS:
        return ""
    return f"the loss on the held-out rows is {evaluation.loss:.3g} at version {evaluation.version}"
