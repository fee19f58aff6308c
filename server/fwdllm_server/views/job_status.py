"""A job as a message of the operator's contract."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection

from fwdllm.v1 import operator_pb2
from fwdllm_common.errors import FwdllmError
from fwdllm_common.ledger import RunHeader
from fwdllm_server.rounds.collecting import directions_in
from fwdllm_server.rounds.failing import failing_devices
from fwdllm_server.rounds.known_answers import noisy_devices
from fwdllm_server.rounds.stalled import why_stalled
from fwdllm_server.store import assignments, job_devices, jobs, ledger, releases, rounds
from fwdllm_server.store.jobs import UNFINISHED, JobRecord, JobState
from fwdllm_server.store.ledger import EvaluationRecord
from fwdllm_server.store.rounds import Phase, RoundRecord
from fwdllm_server.tasks import Task, perplexity, task_named
from fwdllm_server.views.privacy import privacy_budget, what_is_inferred
from fwdllm_server.views.versions import best_of

_STATES = {
    JobState.PREPARING: operator_pb2.JOB_STATE_PREPARING,
    JobState.RUNNING: operator_pb2.JOB_STATE_RUNNING,
    JobState.DONE: operator_pb2.JOB_STATE_DONE,
    JobState.STOPPED: operator_pb2.JOB_STATE_STOPPED,
    JobState.FAILED: operator_pb2.JOB_STATE_FAILED,
}


def job_message(connection: Connection, record: JobRecord, now: float) -> operator_pb2.Job:
    """Return the status of a job; where its records are damaged, the part that can still be read."""
    try:
        return _whole_message(connection, record, now)
    except (FwdllmError, ValueError, KeyError, TypeError) as error:
        why = f"its records are damaged ({error}); restore the database from a backup"
        return operator_pb2.Job(
            job_id=record.id,
            name=record.name,
            state=_state(record),
            priority=record.priority,
            message=f"{record.message}; {why}" if record.message else why,
            rounds_wanted=record.rounds_wanted,
        )


def _whole_message(connection: Connection, record: JobRecord, now: float) -> operator_pb2.Job:
    committed, directions = ledger.totals(connection, record.id)
    devices = list(_devices(connection, record.id, now))
    why = why_stalled(connection, record, now)
    budget = privacy_budget(record.spec().privacy, releases.most(connection, record.id))
    message = operator_pb2.Job(
        job_id=record.id,
        name=record.name,
        state=_state(record),
        priority=record.priority,
        message=record.message or why,
        rounds_committed=committed,
        rounds_abandoned=rounds.count_in(connection, record.id, Phase.ABANDONED),
        rounds_wanted=record.rounds_wanted,
        directions=directions,
        example_passes=sum(device.example_passes for device in devices),
        device_seconds=sum(device.seconds for device in devices),
        scalars_repeated=record.scalars_repeated,
        scalars_late=record.scalars_late,
        scalars_unusable=record.scalars_unusable,
        head_init=record.head_init,
        version=committed,
        theta_digest=ledger.newest_digest(connection, record.id) or _initial_digest(record),
        devices=devices,
        trainable_parameters=record.trainable_parameters or None,
        privacy=what_is_inferred(record.spec().privacy, budget),
        privacy_budget=budget,
        same_name=jobs.ids_of_name(connection, record.name, other_than=record.id),
    )
    _add_times(connection, message, record, now)
    if why:  # whatever is left begins only when it goes on
        message.seconds_left = 0
    _add_evaluations(connection, message, record)
    current = rounds.latest(connection, record.id)
    if current is not None:
        message.round.CopyFrom(_round(connection, current))
    return message


def _state(record: JobRecord) -> operator_pb2.JobState:
    if record.paused and record.state in UNFINISHED:
        return operator_pb2.JOB_STATE_PAUSED
    return _STATES[record.state]


def _initial_digest(record: JobRecord) -> bytes:
    return b"" if record.header is None else RunHeader.from_bytes(record.header).initial_theta_digest


def _add_times(connection: Connection, message: operator_pb2.Job, record: JobRecord, now: float) -> None:
    if record.started_at is None:
        return
    message.seconds_running = (record.ended_at or now) - record.started_at
    # While it was paused or had ended, no round was under way.
    since = max(record.started_at, record.resumed_at or 0)
    committed = rounds.count_in(connection, record.id, Phase.COMMITTED, since)
    if record.state == JobState.RUNNING and committed:
        left = message.rounds_wanted - message.rounds_committed
        message.seconds_left = (now - since) / committed * left


def _add_evaluations(connection: Connection, message: operator_pb2.Job, record: JobRecord) -> None:
    found = ledger.evaluations_of(connection, record.id)
    if not found:
        return
    task = task_named(record.spec().model.task)
    if found[0].version == 0:
        message.initial_evaluation.CopyFrom(evaluation_message(found[0], task))
    message.latest_evaluation.CopyFrom(evaluation_message(found[-1], task))
    message.best_evaluation.CopyFrom(evaluation_message(best_of(found, task), task))
    correct, total, f1 = assignments.federated_counts(connection, record.id)
    if total:
        latest = message.latest_evaluation
        latest.federated_rows = total
        latest.federated_accuracy = (correct if f1 is None else f1) / total
        if f1 is not None:
            latest.federated_exact_match = correct / total


def evaluation_message(record: EvaluationRecord, task: Task) -> operator_pb2.Evaluation:
    """Return an evaluation as calls return it, without the devices' own counts."""
    return operator_pb2.Evaluation(
        version=record.version,
        accuracy=record.accuracy,
        loss=record.loss,
        rows=record.rows,
        exact_match=record.exact_match,
        metric=task.metrics[0],
        metric_beside=task.metrics[1] if len(task.metrics) > 1 else "",
        perplexity=perplexity(record.loss) if task.has_perplexity else None,
    )


def _round(connection: Connection, record: RoundRecord) -> operator_pb2.Round:
    # What a committed round had collected is in the ledger.
    collected = (
        ledger.directions_of(connection, record.job_id, record.version + 1)
        if record.phase == Phase.COMMITTED
        else sum(directions_in(connection, record.job_id, record.number, plan) for plan in record.plan)
    )
    return operator_pb2.Round(
        number=record.number,
        phase=record.phase,
        directions_wanted=sum(plan.wanted for plan in record.plan),
        directions_collected=collected,
        variance=record.variance or None,
        variance_threshold=record.variance_threshold,
        reason=record.reason,
        devices=len({work.device_id for work in assignments.of_round(connection, record.job_id, record.number)}),
    )


def _devices(connection: Connection, job_id: str, now: float) -> Iterator[operator_pb2.DeviceUsage]:
    noisy = noisy_devices(connection, job_id, now)
    failing = failing_devices(connection, job_id, now)
    for row in job_devices.of_job(connection, job_id):
        yield operator_pb2.DeviceUsage(
            device_id=row.device_id,
            scalars=row.scalars,
            seconds=row.seconds,
            example_passes=row.example_passes,
            peak_rss_bytes=row.peak_rss_bytes or None,
            bytes_sent=row.bytes_sent,
            bytes_received=row.bytes_received,
            artifact_bytes=row.artifact_bytes,
            signal_to_noise=row.signal_to_noise,
            noisy=row.device_id in noisy,
            joules=row.joules,
            failure=failing[row.device_id].words if row.device_id in failing else "",
        )
