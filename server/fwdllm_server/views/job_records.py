"""What a job was asked to do and what became of each version, as calls return it."""

from __future__ import annotations

from sqlalchemy import Connection

from fwdllm.v1 import operator_pb2
from fwdllm_server.store import ledger
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.tasks import task_named
from fwdllm_server.views.history import committed_after
from fwdllm_server.views.job_status import evaluation_message


def history_message(connection: Connection, record: JobRecord) -> operator_pb2.JobHistory:
    """Return every version of the job's model, by ascending version; none before there is a model."""
    task = task_named(record.spec().model.task)
    evaluated = ledger.evaluations_of(connection, record.id)
    evaluations = {each.version: evaluation_message(each, task) for each in evaluated}
    versions = [operator_pb2.VersionRecord(version=0)] if record.header is not None else []
    versions += [
        operator_pb2.VersionRecord(
            version=each.version,
            round=each.round,
            directions=each.directions,
            variance=each.variance,
            variance_threshold=each.variance_threshold,
            reason=each.reason,
            committed_unix_s=each.committed_at,
        )
        for each in committed_after(connection, record.id, 0)
    ]
    for message in versions:
        if message.version in evaluations:
            message.evaluation.CopyFrom(evaluations[message.version])
    return operator_pb2.JobHistory(job_id=record.id, name=record.name, versions=versions)


def spec_message(record: JobRecord) -> operator_pb2.JobSpec:
    """Return the job's file, and the specification that it was resolved to, with every default and its preset."""
    return operator_pb2.JobSpec(
        job_id=record.id,
        name=record.name,
        spec_toml=record.spec_toml,
        base_folder=record.base_folder,
        resolved_json=record.spec().model_dump_json(),
    )
