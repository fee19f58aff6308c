"""Report: what is taken, what is not, and how the operator hears of it."""

from __future__ import annotations

from math import inf, nan

import grpc
import pytest
from helpers.serving import derivative, refusal, seeds_of

from fwdllm.v1.device_pb2 import ReportRequest, ResourceUsage
from fwdllm.v1.operator_pb2 import GetJobRequest, RevokeDeviceRequest

RUN = GetJobRequest(job="tiny")


def counts(answer) -> tuple[int, int, int, int, bool]:
    return answer.accepted, answer.repeated, answer.late, answer.unusable, answer.stop


async def test_the_assignment_of_another_device_is_refused(device, other):
    work = await device.assignment()
    status, reason, words = await refusal(other.report(work.assignment_id, [0.5]))

    assert (status, reason) == (grpc.StatusCode.PERMISSION_DENIED, "not-yours")
    assert words == f"assignment {work.assignment_id} belongs to another device; check in for one of your own"


async def test_scalars_from_a_device_that_does_not_own_the_assignment_count_for_nothing(server, device, other):
    work = await device.assignment()
    await refusal(other.report(work.assignment_id, [0.5] * 20))

    assert counts(await device.report(work.assignment_id, [0.5])) == (1, 0, 0, 0, False)


@pytest.mark.parametrize("assignment_id", ["", "nothing", "x" * 100_000])
async def test_an_unknown_assignment_is_not_found(device, assignment_id):
    status, reason, words = await refusal(device.report(assignment_id, [0.5]))

    assert (status, reason) == (grpc.StatusCode.NOT_FOUND, "not-found")
    assert words == f"no assignment {assignment_id[:96]!r}; drop it"


@pytest.mark.parametrize("bad", [nan, inf, -inf, 1e30, -65537.0])
async def test_a_number_that_cannot_be_used_ends_the_assignment(server, device, bad):
    work = await device.assignment()
    answer = await device.report(work.assignment_id, [0.5, bad, 0.5])

    assert counts(answer) == (2, 0, 0, 1, True)
    assert (await server.job()).scalars_unusable == 1
    assert (await device.check_in()).open_assignments == []


async def test_after_a_number_that_cannot_be_used_the_rest_is_late(server, device):
    work = await device.assignment()
    await device.report(work.assignment_id, [nan])
    answer = await device.report(work.assignment_id, [0.5, 0.5], first_index=1)

    assert counts(answer) == (0, 0, 2, 0, True)
    assert (await server.job()).scalars_late == 2


async def test_a_message_with_too_many_derivatives_is_refused(device):
    work = await device.assignment()
    status, reason, words = await refusal(device.report(work.assignment_id, [0.5] * 4097))

    assert (status, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "bad-field")
    assert words == "4097 derivatives; at most 4096 fit"


@pytest.mark.parametrize(("first_index", "usable"), [(19, 1), (20, 0), (2**32 - 1, 0)])
async def test_scalars_beyond_the_end_of_the_assignment_are_unusable(device, first_index, usable):
    work = await device.assignment()
    answer = await device.report(work.assignment_id, [0.5, 0.5], first_index)

    assert counts(answer) == (usable, 0, 0, 2 - usable, True)


async def test_a_repeated_message_counts_once(server, device):
    work = await device.assignment()
    first = await device.report(work.assignment_id, [0.25, 0.5, 0.75])
    again = await device.report(work.assignment_id, [0.25, 0.5, 0.75])
    job = await server.job()

    assert (counts(first), counts(again)) == ((3, 0, 0, 0, False), (0, 3, 0, 0, False))
    assert (job.scalars_repeated, job.round.directions_collected) == (3, 3)


async def test_a_message_that_overlaps_the_one_before_adds_what_is_new(device):
    work = await device.assignment()
    await device.report(work.assignment_id, [0.5, 0.5])

    assert counts(await device.report(work.assignment_id, [0.5, 0.5, 0.5], first_index=1)) == (2, 1, 0, 0, False)


async def test_scalars_for_a_round_that_has_closed_are_late(server, device):
    work = await device.assignment()
    await device.finish(work)
    await server.until(lambda job: job.version == 1)
    answer = await device.finish(work)

    assert counts(answer) == (0, 0, 20, 0, True)
    assert (await server.job()).scalars_late == 20


async def test_what_is_acknowledged_is_on_disk(server, device):
    work = await device.assignment()
    await device.report(work.assignment_id, [0.5] * 5)
    with server.runtime.database.transaction() as connection:
        found = connection.exec_driver_sql("SELECT seed, value FROM scalars ORDER BY seed").all()

    assert found == [(seed, 1 << 23) for seed in sorted(seeds_of(work)[:5])]


async def test_each_message_of_a_stream_is_answered_in_turn(device):
    work = await device.assignment()
    values = [derivative(seed) for seed in seeds_of(work)]
    call = device.service.Report(timeout=10)
    for index in (0, 1, 2):
        await call.write(
            ReportRequest(
                assignment_id=work.assignment_id, first_index=index * 2, derivatives=values[index * 2 : index * 2 + 2]
            )
        )
        answer = await call.read()
        assert (answer.assignment_id, answer.first_index, answer.accepted) == (work.assignment_id, index * 2, 2)
    await call.done_writing()

    assert await call.code() is grpc.StatusCode.OK


async def test_a_revoked_device_is_refused_at_the_next_message_of_its_open_stream(server, device):
    work = await device.assignment()
    call = device.service.Report(timeout=10)
    await call.write(ReportRequest(assignment_id=work.assignment_id, derivatives=[0.5]))
    assert (await call.read()).accepted == 1
    await server.operator.RevokeDevice(RevokeDeviceRequest(device="device-1"))
    await call.write(ReportRequest(assignment_id=work.assignment_id, first_index=1, derivatives=[0.5]))
    status, reason, _ = await refusal(call.read())

    assert (status, reason) == (grpc.StatusCode.UNAUTHENTICATED, "revoked")
    assert (await server.job()).round.directions_collected == 1


async def test_a_revoked_device_cannot_check_in(server, device):
    await server.operator.RevokeDevice(RevokeDeviceRequest(device=device.id))
    status, reason, _ = await refusal(device.check_in())

    assert (status, reason) == (grpc.StatusCode.UNAUTHENTICATED, "revoked")


async def test_resource_usage_is_added_up_but_not_for_a_message_sent_again(server, device):
    work = await device.assignment()
    message = ReportRequest(assignment_id=work.assignment_id, derivatives=[0.5])
    message.usage.seconds, message.usage.example_passes, message.usage.bytes_sent = 1.5, 20.0, 300
    message.usage.joules = 12.5
    for _ in range(2):
        async for _ in device.service.Report(iter([message]), timeout=10):
            pass
    job = await server.job()
    (usage,) = job.devices

    assert (job.device_seconds, job.example_passes) == (1.5, 20.0)
    assert (usage.device_id, usage.scalars, usage.bytes_sent, usage.joules) == (device.id, 1, 300, 12.5)


@pytest.mark.parametrize("joules", [-1.0, float("nan"), float("inf")])
async def test_an_energy_that_cannot_be_is_not_counted(server, device, joules):
    work = await device.assignment()
    message = ReportRequest(assignment_id=work.assignment_id, derivatives=[0.5], usage=ResourceUsage(joules=joules))
    async for _ in device.service.Report(iter([message]), timeout=10):
        pass
    (usage,) = (await server.job()).devices
    assert (usage.scalars, usage.seconds, usage.HasField("joules")) == (1, 0.0, False)


async def test_scalars_for_a_stopped_job_are_kept_and_no_more_are_wanted(server, device):
    work = await device.assignment()
    await server.operator.StopJob(RUN)
    answer = await device.report(work.assignment_id, [0.5])

    assert counts(answer) == (1, 0, 0, 0, True)
    assert (await server.job()).round.directions_collected == 1


async def test_a_device_that_reports_while_its_job_is_being_loaded_goes_on(server, device):
    work = await device.assignment()
    training = dict(server.coordinator.training)
    server.coordinator.training.clear()
    answer = await device.report(work.assignment_id, [0.5])
    server.coordinator.training.update(training)

    assert counts(answer) == (1, 0, 0, 0, False)
    assert (await device.assignment()).assignment_id == work.assignment_id
