"""What a device may use, what a revoked one loses, and what it hears."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from helpers.serving import Clock, everything, profile, refusal, serving
from server.rpc.loopback import make_home

from fwdllm.v1.device_pb2 import GetArtifactRequest
from fwdllm.v1.operator_pb2 import RevokeDeviceRequest
from fwdllm_common.protocol import MAX_MESSAGE_BYTES, RETRY_AFTER_KEY

BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")


@pytest.fixture
async def server(tmp_path, monkeypatch):
    """Without a job, with small limits, and two devices that have joined."""
    limits = {"STREAMS_PER_DEVICE": "2", "CALLS_PER_S": "2", "IDLE_S": "5"}
    for key, value in limits.items():
        monkeypatch.setenv(f"FWDLLM_LIMITS__{key}", value)
    async with serving(make_home(tmp_path / "server"), Clock()) as running:
        await running.join("one", "two")
        yield running


async def test_an_open_stream_of_a_revoked_device_ends_within_seconds(server):
    device = await server.device("one")
    await device.check_in()
    stream = device.service.Report(timeout=120)
    reading = asyncio.create_task(refusal(stream.read()))
    await server.operator.RevokeDevice(RevokeDeviceRequest(device=device.id))
    status, reason, words = await reading

    assert (status, reason) == (grpc.StatusCode.UNAUTHENTICATED, "revoked")
    assert "only with a new join token" in words
    assert (await refusal(device.check_in()))[:2] == (grpc.StatusCode.UNAUTHENTICATED, "revoked")


async def test_a_device_that_calls_too_often_hears_when_to_come_back_and_others_are_served(server):
    hasty, calm = await server.device("one"), await server.device("two")

    async def insist() -> None:
        await asyncio.gather(*(hasty.check_in() for _ in range(40)))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await insist()
    trailing = dict(tuple(refused.value.trailing_metadata()))

    assert (refused.value.code(), trailing["fwdllm-reason"]) == BUSY
    assert 1 <= int(trailing[RETRY_AFTER_KEY]) <= 500
    assert (await calm.check_in()).HasField("next")


async def test_a_device_has_so_many_streams_open_and_one_on_which_nothing_comes_is_ended(server):
    greedy = await server.device("one")
    await greedy.check_in()
    streams = [greedy.service.Report(timeout=120) for _ in range(3)]
    reasons = sorted([(await refusal(stream.read()))[1] for stream in streams])

    assert reasons == ["busy", "idle", "idle"]


async def test_a_message_beyond_four_mebibytes_is_refused(server):
    device = await server.device("one")
    large = profile(software="x" * (MAX_MESSAGE_BYTES + 1))

    assert (await refusal(device.service.CheckIn(large, timeout=60)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await refusal(everything(device.service.GetArtifact(GetArtifactRequest(sha256=b"x"), timeout=60))))[1] == (
        "bad-field"
    )
