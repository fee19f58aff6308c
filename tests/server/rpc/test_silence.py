"""A device that vanishes with a call open: the coordinator finds out in the time that its options say."""

from __future__ import annotations

import asyncio

import pytest
from helpers.silent_relay import SilentRelay, hurried
from server.rpc.loopback import authority_of, bound, channel, device_identity, make_home

from fwdllm.v1.device_pb2 import ReportRequest, ReportResponse
from fwdllm.v1.device_pb2_grpc import DeviceServiceServicer, DeviceServiceStub, add_DeviceServiceServicer_to_server
from fwdllm_server.rpc import grpc_server


class Waiting(DeviceServiceServicer):
    """Answers each report, and tells when a call is over."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def Report(self, request_iterator, context):  # noqa: N802
        try:
            async for _ in request_iterator:
                yield ReportResponse()
        finally:
            self.over.set()


async def test_a_vanished_devices_call_is_ended(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "_DEVICE_OPTIONS", hurried(grpc_server._DEVICE_OPTIONS))
    home = make_home(tmp_path / "server")
    authority, service = authority_of(home), Waiting()
    async with bound(home) as servers:
        add_DeviceServiceServicer_to_server(service, servers.device)
        await servers.start()
        with SilentRelay(int(servers.addresses.device.rpartition(":")[2])) as relay:
            address, identity = f"localhost:{relay.port}", device_identity(authority, "dev-1")
            async with channel(address, authority, identity) as opened:
                call = DeviceServiceStub(opened).Report()
                await call.write(ReportRequest())
                await call.read()
                relay.go_silent()
                await asyncio.wait_for(service.over.wait(), 40)
