"""Whatever numbers a device sends, in any field of any message: pages, metrics, answers and the log stand it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf, nan

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from helpers.rig import JOB, Rig
from helpers.serving import profile
from helpers.tiny_head import HeadlessRig
from helpers.tiny_job import job_toml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Connection
from structlog.testing import capture_logs

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import FwdllmError
from fwdllm_server.cli import progress, top
from fwdllm_server.config.server_config import CheckInSection
from fwdllm_server.coordinator.peers import present
from fwdllm_server.dashboard import documents
from fwdllm_server.metrics.state import StateCollector, read
from fwdllm_server.rounds import feature_reporting, known_answers, reporting
from fwdllm_server.rounds.reporting import Report
from fwdllm_server.rpc.device_service import check_check_in
from fwdllm_server.rpc.operator_service import _device_message
from fwdllm_server.store import assignments, devices, jobs
from fwdllm_server.store.devices import Sighting
from fwdllm_server.views.device_status import device_statuses
from fwdllm_server.views.job_status import job_message
from fwdllm_server.views.message_json import as_dict

CHECK_IN = CheckInSection()
_FLOATS = (0.0, -1.0, 1.0, nan, inf, -inf, 5e-324, 1e-300, 3.4e38, 2.0**53, 2.0**62, 1e300, 1.7e308)
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(1 << 31), (1 << 31) - 1),
}
_SINGLE = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


def numbers(field: FieldDescriptor) -> st.SearchStrategy[float]:
    """What a numeric field can hold, with a liking for the ends of it."""
    if field.cpp_type in _SINGLE:
        return st.sampled_from(_FLOATS) | st.floats(width=32 if field.cpp_type == _SINGLE[0] else 64)
    least, greatest = _BITS[field.cpp_type]
    bounds = {least, least + 1, -1, 0, 1, 1 << 31, 1 << 53, 1 << 62, (1 << 63) - 1, greatest - 1, greatest}
    return st.sampled_from(sorted(bound for bound in bounds if least <= bound <= greatest)) | st.integers(
        least, greatest
    )


def fill(message: Message, data: st.DataObject, often: float) -> None:
    """Put some number into every numeric field, of messages inside too, or into some of them."""
    for field in message.DESCRIPTOR.fields:
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            inside = getattr(message, field.name)
            for each in [inside.add()] if field.is_repeated else [inside]:
                each.SetInParent()
                fill(each, data, often)
        elif field.cpp_type in (*_SINGLE, *_BITS) and data.draw(st.floats(0, 1)) < often:
            if field.is_repeated:
                del getattr(message, field.name)[:]
                getattr(message, field.name).extend(data.draw(st.lists(numbers(field), max_size=8)))
            else:
                setattr(message, field.name, data.draw(numbers(field)))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Rounds without end, in which devices evaluate too."""
    rounds = {"count": 1000, "min_devices": 2, "federated_evaluate_every": 1}
    rig = Rig.create(tmp_path_factory.mktemp("rig"), job_toml({"rounds": rounds}), ("a", "b", "c"))
    yield rig
    rig.database.close()


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadlessRig]:
    rig = HeadlessRig.headless(tmp_path_factory.mktemp("headless"), ("a", "b"), min_devices=2)
    yield rig
    rig.database.close()


def look(connection: Connection, now: float) -> None:
    """Everything that an operator can look at."""
    json.dumps(documents.overview(connection, CHECK_IN, now), allow_nan=False)
    for job_id in (None, JOB):
        json.dumps(documents.devices(connection, CHECK_IN, now, job_id), allow_nan=False)
    record = jobs.get(connection, JOB)
    assert record is not None
    json.dumps(documents.job(connection, record, now), allow_nan=False)
    message = job_message(connection, record, now)
    json.dumps(as_dict(message), allow_nan=False)
    progress.render(message)
    progress.line(message)
    statuses = [_device_message(status) for status in device_statuses(connection, CHECK_IN, now)]
    top.picture([message], statuses)
    top.lines([message], statuses)
    registry, state = CollectorRegistry(), StateCollector()
    state.families = read(connection, CHECK_IN, now)
    registry.register(state)
    shown = generate_latest(registry)
    assert b"fwdllm_device_bytes_total" in shown
    assert b"inf" not in shown.lower().replace(b"info", b"")


def log_is_json(lines: list[dict[str, object]]) -> None:
    json.dumps(lines, allow_nan=False, default=str)


_SETTINGS = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_SETTINGS
@given(st.data(), st.sampled_from([0.2, 1.0]))
def test_reports(rig: Rig, data: st.DataObject, often: float) -> None:
    request = device_pb2.ReportRequest(
        derivatives=[0.5], usage=device_pb2.ResourceUsage(seconds=1, example_passes=9, bytes_sent=1, joules=1)
    )
    fill(request, data, often)
    with capture_logs() as lines:
        rig.check_in("a", "b")
        rig.settle()
        work = rig.check_in("a", "b")
        for assignment in work[:1]:
            request.assignment_id = assignment.id
            with rig.database.transaction() as connection:
                current = assignments.get(connection, assignment.id)
                assert current is not None
                for _ in range(3):  # sums have ends too
                    reporting.record(connection, [Report(current, request, 30.0)], rig.now)
        rig.now += 1000
        rig.settle()
    log_is_json(lines)
    with rig.database.transaction() as connection:
        look(connection, rig.now)


@_SETTINGS
@given(st.data(), st.sampled_from([0.1, 0.5]))
def test_check_ins(rig: Rig, data: st.DataObject, often: float) -> None:
    request = profile(labels=["no", "yes"])
    fill(request, data, often)
    try:
        check_check_in(request)
    except FwdllmError:
        return
    with rig.database.transaction() as connection:
        devices.seen(connection, [Sighting("c", request.training_examples, "x", request.conditions)], rig.now)
        look(connection, rig.now)
    rig.presence.seen(present("c", rig.now, request))
    rig.settle()


@_SETTINGS
@given(st.data())
def test_known_answer_tests(rig: Rig, data: st.DataObject) -> None:
    request = device_pb2.SelfTestRequest()
    fill(request, data, 1.0)
    work = rig.begin_round("a", "b")
    with rig.database.transaction() as connection:
        for assignment in work[:1]:
            current = assignments.get(connection, assignment.id)
            assert current is not None
            known_answers.record(connection, current, request.signal_to_noise, rig.now + 30, rig.now)
        look(connection, rig.now)
    json.dumps(known_answers.usable_ratio(request.signal_to_noise), allow_nan=False)
    rig.later(100_000)


@_SETTINGS
@given(st.data(), st.sampled_from([0.3, 1.0]))
def test_feature_sums(headless: HeadlessRig, data: st.DataObject, often: float) -> None:
    request = device_pb2.FeatureSumsRequest(usage=device_pb2.ResourceUsage(seconds=1))
    fill(request, data, often)
    headless.here("a", "b")
    headless.settle()
    work = headless.fetch("a")
    with headless.database.transaction() as connection:
        if work is not None:
            current = assignments.get(connection, work.assignment_id)
            assert current is not None
            feature_reporting.record(connection, current, request, headless.job.manifest)
        look(connection, headless.now)
    headless.later(1000)
