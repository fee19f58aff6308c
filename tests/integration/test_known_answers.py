"""ReportSelfTest: who may say what, and what the coordinator makes of it."""

from __future__ import annotations

import grpc
from helpers.serving import refusal

from fwdllm.v1.device_pb2 import SelfTestRequest


async def test_a_good_device_goes_on(server, device):
    work = await device.assignment()
    answer = await device.service.ReportSelfTest(
        SelfTestRequest(assignment_id=work.assignment_id, signal_to_noise=500.0), timeout=10
    )

    assert answer.usable
    assert answer.HasField("next")
    assert (await device.report(work.assignment_id, [0.5])).accepted == 1


async def test_a_noisy_device_is_sent_away_and_the_operator_sees_why(server, device):
    work = await device.assignment()
    answer = await device.service.ReportSelfTest(
        SelfTestRequest(assignment_id=work.assignment_id, signal_to_noise=0.25), timeout=10
    )

    assert not answer.usable
    assert (await device.check_in()).open_assignments == []
    (found,) = (await server.job()).devices
    assert (found.noisy, found.signal_to_noise, found.scalars) == (True, 0.25, 0)


async def test_the_assignment_of_another_device_is_refused(device, other):
    work = await device.assignment()
    request = SelfTestRequest(assignment_id=work.assignment_id, signal_to_noise=0.0)
    status, reason, _ = await refusal(other.service.ReportSelfTest(request, timeout=10))

    assert (status, reason) == (grpc.StatusCode.PERMISSION_DENIED, "not-yours")
    assert (await device.report(work.assignment_id, [0.5])).accepted == 1
