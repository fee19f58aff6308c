"""Check and store reported feature sums, each once (DESIGN §2, invariants 1 and 7)."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.manifest import Manifest
from fwdllm_common.protocol import MIN_CLASS_ROWS
from fwdllm_server.algorithm.class_means import LinearHead
from fwdllm_server.rounds.reporting import plausible
from fwdllm_server.store import assignments, devices, feature_sums, job_devices, rounds
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.feature_sums import FeatureSumRecord
from fwdllm_server.store.job_devices import Spent
from fwdllm_server.store.rounds import Phase


def record(
    connection: Connection, assignment: AssignmentRecord, request: device_pb2.FeatureSumsRequest, manifest: Manifest
) -> device_pb2.FeatureSumsResponse:
    """Store one message of feature sums. The response is valid once the transaction is durable."""
    if not _accepts(connection, assignment):
        return device_pb2.FeatureSumsResponse(late=len(request.sums))
    response = _record_sums(connection, assignment, request, manifest)
    if response.unusable:
        # The device's numbers are unusable. It is asked again in another window at the earliest.
        assignments.set_state(connection, assignment.id, AssignmentState.EXPIRED)
    elif request.last:
        assignments.set_state(connection, assignment.id, AssignmentState.DONE)
    # A repeated message repeats its resource usage, which must count once.
    if request.HasField("usage") and not response.repeated and plausible(request.usage):
        job_devices.add(connection, [Spent(assignment.job_id, assignment.device_id, 0, request.usage)])
    return response


def _accepts(connection: Connection, assignment: AssignmentRecord) -> bool:
    current = rounds.latest(connection, assignment.job_id)
    return assignment.open and current is not None and current.phase == Phase.INITIALISING


def _record_sums(
    connection: Connection, assignment: AssignmentRecord, request: device_pb2.FeatureSumsRequest, manifest: Manifest
) -> device_pb2.FeatureSumsResponse:
    response = device_pb2.FeatureSumsResponse()
    device = devices.device(connection, assignment.device_id)
    assert device is not None
    head = LinearHead.of(manifest)
    stored = dict(feature_sums.rows_of_device(connection, assignment.job_id, device.id))
    for item in request.sums:
        found = FeatureSumRecord(device.id, item.label, item.rows, np.array(item.features, dtype=np.float32))
        left = device.training_examples - sum(stored.values())
        if item.label in stored:
            response.repeated += 1
        elif MIN_CLASS_ROWS <= item.rows <= left and head.takes(item.label, found.features):
            feature_sums.add(connection, assignment.job_id, found)
            stored[item.label] = item.rows
            response.accepted += 1
        else:
            response.unusable += 1
    return response
