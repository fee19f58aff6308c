"""``fwdllm-server health``: it serves, and which jobs wait for devices all the same."""

from __future__ import annotations

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server
from server.cli.scripted import STOPPED, Scripted, running
from server.rpc.loopback import bound

from fwdllm.v1.operator_pb2_grpc import add_OperatorServiceServicer_to_server

WHY = "waiting for devices: 2 of 3 are here"


class _Serving(HealthServicer):  # type: ignore[misc] # the package has no types
    async def Check(self, request, context):  # noqa: N802
        return HealthCheckResponse(status=HealthCheckResponse.SERVING)


@pytest.fixture
async def service(home):
    async with bound(home) as servers:
        service = Scripted()
        add_OperatorServiceServicer_to_server(service, servers.operator)
        add_HealthServicer_to_server(_Serving(), servers.operator)
        await servers.start()
        yield service


async def test_it_serves(service, cli):
    result = await cli("health")

    assert (result.code, result.out) == (0, "serving\n")


async def test_a_job_that_waits_for_long_is_named_and_is_no_fault_of_the_server(service, cli):
    service.jobs = [running(message=WHY), STOPPED]
    result, as_json = await cli("health"), await cli("health", "--json")

    assert (result.code, result.out) == (0, f"serving\njob news waits: {WHY}\n")
    assert as_json.json == {"status": "serving", "waiting": {"news": WHY}}
