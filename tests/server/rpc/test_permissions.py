"""Who may call what is said of every method, and holds on every port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from server.rpc.loopback import authority_of, bound, channel, device_identity, make_home

from fwdllm.v1 import device_pb2, operator_pb2
from fwdllm.v1.device_pb2_grpc import DeviceServiceServicer, DeviceServiceStub, add_DeviceServiceServicer_to_server
from fwdllm_server.rpc.permissions import CALLERS, Anyone
from fwdllm_server.security.roles import Role

METHODS = {
    f"/{service.full_name}/{method.name}"
    for file in (device_pb2.DESCRIPTOR, operator_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}


def test_every_method_is_listed_and_nothing_else() -> None:
    assert set(CALLERS) == METHODS


def test_only_enrolment_and_health_are_open_to_all_and_each_service_has_one_role() -> None:
    roles = {method: allowed for method, allowed in CALLERS.items() if allowed is not Anyone.ANYONE}
    open_to_all = {"/fwdllm.v1.EnrolmentService/Enroll", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
    assert set(CALLERS) - set(roles) == open_to_all
    for method, role in roles.items():
        assert role is (Role.DEVICE if "DeviceService" in method else Role.OPERATOR)


class Answering(DeviceServiceServicer):
    async def CheckIn(self, request: device_pb2.CheckInRequest, context: object) -> device_pb2.CheckInResponse:  # noqa: N802
        return device_pb2.CheckInResponse(message="hello")


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[DeviceServiceStub]:
    home = make_home(tmp_path / "server")
    authority = authority_of(home)
    async with bound(home) as servers:
        add_DeviceServiceServicer_to_server(Answering(), servers.device)
        await servers.start()
        async with channel(servers.addresses.device, authority, device_identity(authority, "dev-1")) as open_channel:
            yield DeviceServiceStub(open_channel)


async def test_a_method_that_nobody_was_allowed_is_refused(
    stub: DeviceServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await stub.CheckIn(device_pb2.CheckInRequest())).message == "hello"
    monkeypatch.delitem(CALLERS, "/fwdllm.v1.DeviceService/CheckIn")
    with pytest.raises(grpc.aio.AioRpcError, match="not open to any caller") as refused:
        await stub.CheckIn(device_pb2.CheckInRequest())
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
