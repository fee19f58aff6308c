"""The coordinator says NOT_SERVING when its store cannot be written or its loop is late, and SERVING again."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server
from server.rpc.loopback import authority_of, bound, channel, make_home

from fwdllm_server.coordinator.health import Health
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rpc.health_service import HealthService

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    home = make_home(tmp_path / "server")
    runtime = Runtime(home, home.config())
    yield runtime
    runtime.close()


async def until(health: Health, words: str) -> None:
    """Wait until the problem has these words, or is none if there are none."""
    async with asyncio.timeout(120):
        while words not in health.problem or (not words and health.problem):
            await health.changed.wait()


async def test_a_store_that_is_locked_is_not_serving_and_comes_back(runtime: Runtime) -> None:
    health = Health(runtime, write_every_s=0.01, patience_s=0.05, late_s=math.inf)
    assert "starting" in health.problem
    async with health.watching():
        assert health.problem == ""
        lock = sqlite3.connect(runtime.home.database, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        await until(health, "the store has not answered for 0.05 s")
        lock.execute("ROLLBACK")
        lock.close()
        await until(health, "")
    assert "stopping" in health.problem


async def test_a_store_that_refuses_to_write_is_not_serving(runtime: Runtime) -> None:
    health = Health(runtime, write_every_s=0.01, late_s=math.inf)
    async with health.watching():
        with runtime.database.transaction() as connection:
            connection.exec_driver_sql("ALTER TABLE alembic_version RENAME TO away")
        await until(health, "the store cannot be written: the database cannot be used")
        with runtime.database.transaction() as connection:
            connection.exec_driver_sql("ALTER TABLE away RENAME TO alembic_version")
        await until(health, "")


async def test_a_loop_that_is_late_is_not_serving_for_a_while(runtime: Runtime) -> None:
    health = Health(runtime, late_s=0.4)
    async with health.watching():
        await asyncio.sleep(0)
        time.sleep(0.9)
        await until(health, "the event loop was")
        await until(health, "")


async def test_probes_hear_of_it_without_a_certificate(runtime: Runtime) -> None:
    health = Health(runtime, late_s=math.inf)
    async with bound(runtime.home) as servers:
        add_HealthServicer_to_server(HealthService(health), servers.enrolment)
        await servers.start()
        async with channel(servers.addresses.enrolment, authority_of(runtime.home), None) as open_channel:
            probe = HealthStub(open_channel)
            assert (await probe.Check(HealthCheckRequest())).status == NOT_SERVING
            watch = probe.Watch(HealthCheckRequest(service="fwdllm.v1.DeviceService"))
            assert (await watch.read()).status == NOT_SERVING
            async with health.watching():
                assert (await watch.read()).status == SERVING
                assert (await probe.Check(HealthCheckRequest())).status == SERVING
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()
            with pytest.raises(grpc.aio.AioRpcError, match="no service 'news'"):
                await probe.Check(HealthCheckRequest(service="news"))
