"""A session as it should go: check in, measure, report."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers.sessions import SEEDS, expected, hand_out, scalars
from structlog.testing import capture_logs

from fwdllm.v1 import device_pb2
from fwdllm_common.directions import Directions
from fwdllm_common.errors import (
    BadInputError,
)


def test_every_scalar_arrives_in_order_and_is_right(device, coordinator, job, new_stop):
    job.commit()
    hand_out(coordinator, job.answer(job.assignment()))
    stop = new_stop(last=1)
    device.run(stop)
    assert device.compute.computed == SEEDS
    np.testing.assert_allclose(scalars(coordinator), expected(job), rtol=1e-4)
    assert coordinator.check_ins[0].labels == ["no", "yes"]
    assert device.unacknowledged() == []
    assert stop.waits == [0.011]  # the window of the last answer, not of the check-in


def test_a_task_is_measured_as_the_coordinator_asks(device, coordinator, job, new_stop):
    """Seeds in several ranges, as sampling leaves them; the central difference in one task and not in the other."""
    asked = [
        device_pb2.DirectionTask(
            block=block,
            seeds=[device_pb2.SeedRange(first=first, count=2) for first in (5, 2**40)],
            epsilon=1e-3,
            batch_size=4,
            central=central,
        )
        for block, central in (("body", True), ("head", False))
    ]
    hand_out(coordinator, job.answer(job.assignment(directions=asked)))
    device.run(new_stop(last=1))
    assert [(task.block, task.central) for task in device.compute.tasks] == [("body", True), ("head", False)]
    assert device.compute.computed == 2 * [5, 6, 2**40, 2**40 + 1]


def test_the_header_says_how_directions_are_distributed(device, coordinator, job, new_stop):
    rademacher = expected(job)
    job.header = job.state.header = replace(
        job.header, directions=Directions(job.header.directions.run_key, "gaussian")
    )
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=1))
    np.testing.assert_allclose(scalars(coordinator), expected(job), rtol=1e-3, atol=1e-4)
    assert not np.allclose(scalars(coordinator), rademacher, rtol=0.1)


def test_a_distribution_that_the_device_does_not_know_is_refused(device, coordinator, job, new_stop):
    assignment = job.assignment()
    assignment.header.distribution = 99
    hand_out(coordinator, job.answer(assignment))
    with pytest.raises(BadInputError, match="unknown distribution of directions; update fwdllm"):
        device.run(new_stop(last=3), once=True)


def test_idle_devices_come_back_in_the_window(device, coordinator, new_stop):
    hand_out(coordinator, device_pb2.CheckInResponse(next=device_pb2.CheckInWindow(min_ms=2000, max_ms=5000)))
    stop = new_stop(last=20)
    device.run(stop)
    assert len(coordinator.check_ins) == 20
    assert all(2 <= wait <= 5 for wait in stop.waits)
    assert len(set(stop.waits)) > 10
    assert device.opened == []


def test_clocks_that_differ_are_told_once(device, coordinator, new_stop):
    coordinator.on_check_in = lambda request: device_pb2.CheckInResponse(unix_s=int(time.time()) + 600)
    with capture_logs() as lines:
        device.run(new_stop(last=3))
    assert [line["seconds_ahead"] for line in lines if "clocks differ" in line["event"]] == pytest.approx([-600], abs=9)


def test_one_engine_serves_many_rounds(device, coordinator, job, new_stop):
    def on_check_in(request):
        job.commit()
        return job.answer(job.assignment(f"a{len(coordinator.check_ins)}"))

    coordinator.on_check_in = on_check_in
    device.run(new_stop(last=3))
    assert len(device.opened) == 1
    assert Counter(device.compute.computed) == dict.fromkeys(SEEDS, 3)
    assert [request.has_version for request in coordinator.weights_requests] == [False, True, True]


def test_scalars_share_messages_when_they_come_fast(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=1), clock=lambda: 0.0)
    assert [len(report.derivatives) for report in coordinator.reports] == [10]


def test_no_message_is_too_large(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(seeds=((1, 5000), (9000, 4000)))))
    device.run(new_stop(last=1), clock=lambda: 0.0)
    assert [len(report.derivatives) for report in coordinator.reports] == [4096, 4096, 808]
    assert len(scalars(coordinator)) == 9000


def test_packed_scalars_have_messages_of_their_own(device, coordinator, job, new_stop):
    mixed, plain = job.assignment("mixed"), job.assignment("plain")
    mixed.directions[1].packed = True
    hand_out(coordinator, job.answer(mixed), job.answer(plain))
    device.run(new_stop(last=2), clock=lambda: 0.0)
    single, packed, _ = coordinator.reports
    assert (len(single.derivatives), len(single.halves)) == (6, 0)
    assert (packed.first_index, len(packed.derivatives)) == (6, 0)
    expected = scalars(coordinator, "plain")[6:]
    assert np.frombuffer(packed.halves, dtype="<f2").tolist() == expected.astype(np.float16).tolist()


def test_resource_usage_is_reported(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=1))
    job_devices = [report.usage for report in coordinator.reports]
    assert sum(usage.example_passes for usage in job_devices) == 40
    assert all(usage.seconds > 0 and usage.peak_rss_bytes > 10_000_000 for usage in job_devices)
    assert job_devices[-1].bytes_sent > job_devices[0].bytes_sent > 0
    assert job_devices[0].bytes_received > 200
    assert job_devices[0].artifact_bytes > sum(file.bytes for file in job.manifest.files)


def test_evaluation_travels_with_the_first_scalars(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(evaluate=True)))
    device.run(new_stop(last=1))
    with_counts = [report for report in coordinator.reports if report.HasField("evaluation")]
    assert [(r.first_index, r.evaluation.correct, r.evaluation.total) for r in with_counts] == [(0, 3, 5)]


def test_evaluation_alone(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(evaluate=True, directions=[])))
    device.run(new_stop(last=2))
    assert [report.evaluation.total for report in coordinator.reports] == [5]
    assert device.compute.evaluations == 1
    assert device.compute.unloaded == 2  # after each of both turns


def test_stop_ends_the_computing(device, coordinator, job, new_stop):
    def enough(request):
        answer = coordinator.acknowledgement(request)
        answer.stop = True
        return answer

    coordinator.on_report = enough
    hand_out(coordinator, job.answer(job.assignment(seeds=((1, 60_000), (0, 1)))))
    device.run(new_stop(last=1))
    assert len(device.compute.computed) < 60_000
    assert device.unacknowledged() == []


def test_nothing_is_computed_past_the_deadline(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(deadline_ms=5000)))
    now = [0.0]
    device.compute.before_chunk = lambda: now.__setitem__(0, now[0] + 2.0)
    device.run(new_stop(last=1), clock=lambda: now[0])
    assert device.compute.computed == SEEDS[:6]
    assert len(scalars(coordinator)) == 6


def test_a_download_past_the_deadline_leaves_nothing_to_compute(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(deadline_ms=500, evaluate=True)))
    device.run(new_stop(last=1))
    assert (device.compute.computed, device.compute.evaluations) == ([], 0)
