"""Several coordinators on one PostgreSQL: any of them serves devices and operators, one drives the rounds."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from helpers.postgres import Postgres
from helpers.serving import JOB, ScriptedDevice, Serving, change_job, refusal, serving, work_until_done
from helpers.shared_store import another, share
from sqlalchemy import select

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, JOB_STATE_RUNNING, JOB_STATE_STOPPED, GetJobRequest
from fwdllm_client.policy.policy import Policy
from fwdllm_server.config.home import ServerHome
from fwdllm_server.store import schema


@pytest.fixture
def shared_home(folder: Path, postgres: Postgres) -> ServerHome:
    """The prepared server, its store in PostgreSQL."""
    home = ServerHome.open(folder / "server")
    share(home, postgres.create_database())
    return home


@pytest.fixture
async def pair(shared_home: ServerHome, folder: Path) -> AsyncIterator[Callable[..., object]]:
    """Starts two coordinators; the first drives the job."""
    async with AsyncExitStack() as stack:

        async def start(**rounds: object) -> tuple[Serving, Serving]:
            change_job(shared_home, {"rounds": rounds})
            first = await stack.enter_async_context(serving(shared_home))
            second = await stack.enter_async_context(serving(another(shared_home, folder / "second")))
            return first, second

        yield start


def driver(server: Serving) -> str:
    with server.runtime.database.transaction() as connection:
        return connection.execute(select(schema.leases.c.holder)).scalar_one()


@asynccontextmanager
async def at_work(*devices: ScriptedDevice) -> AsyncIterator[None]:
    """Devices that do whatever they are given, until the block ends."""

    async def work(device: ScriptedDevice) -> None:
        while True:
            answer = await device.check_in()
            if answer.HasField("assignment"):
                await device.finish(answer.assignment)
            else:
                await asyncio.sleep(answer.next.min_ms / 1000)

    tasks = [asyncio.create_task(work(device)) for device in devices]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_devices_of_both_take_part_in_the_rounds_that_one_drives(pair):
    one, two = await pair(count=2, min_devices=2, gather_s=0)
    async with at_work(await one.device("device-1"), await two.device("device-2")):
        job = await two.until_state(JOB_STATE_DONE)

    assert driver(two) == one.runtime.name
    assert job.rounds_committed == 2
    assert job.round.devices == 2
    assert job.scalars_late == job.scalars_repeated == 0


async def test_a_driver_whose_store_is_busy_keeps_its_lease(pair, monkeypatch):
    monkeypatch.setenv("FWDLLM_STORE__LEASE_S", "3")
    one, two = await pair(min_devices=2)

    def expires_at() -> float:
        with two.runtime.database.transaction() as connection:
            return connection.execute(select(schema.leases.c.expires_at)).scalar_one()

    before, free = await asyncio.to_thread(expires_at), threading.Event()
    busy = asyncio.create_task(one.runtime.in_store(free.wait))
    try:
        while await asyncio.to_thread(expires_at) == before:
            await asyncio.sleep(0.05)
    finally:
        free.set()
        await busy
    assert driver(two) == one.runtime.name


async def test_who_follows_a_job_goes_on_with_it_when_its_driver_stops(shared_home, folder):
    change_job(shared_home, {"rounds": {"count": 2, "min_devices": 1}})
    async with serving(another(shared_home, folder / "second")) as two:
        pass  # its directory is made
    async with AsyncExitStack() as stack:
        async with serving(shared_home) as one:
            two = await stack.enter_async_context(serving(two.home))
            device = await two.device("device-1")
            assignment = await device.assignment()
            assert driver(two) == one.runtime.name
        await device.finish(assignment)
        job = await work_until_done(two, device)

    assert (job.state, job.rounds_committed) == (JOB_STATE_DONE, 2)


async def test_a_follower_hands_out_the_weights_that_the_driver_has_committed(pair):
    one, two = await pair(count=2, min_devices=1)
    first = await one.device("device-1")
    await first.finish(await first.assignment())
    later = await (await two.device("device-2")).assignment()

    assert (later.round, later.version) == (2, 1)
    assert later.theta_digest == (await one.job()).theta_digest


async def test_an_operator_may_stop_and_resume_a_job_at_either(pair):
    one, two = await pair(count=1, min_devices=1)
    stopped = await two.operator.StopJob(GetJobRequest(job=JOB))
    assert stopped.state == JOB_STATE_STOPPED
    for _ in range(1000):
        if not one.coordinator.training:
            break
        await asyncio.sleep(0.01)
    device = await one.device("device-1")
    assert not (await device.check_in()).HasField("assignment")

    resumed = await one.operator.ResumeJob(GetJobRequest(job=JOB))
    assert resumed.state == JOB_STATE_RUNNING
    assert (await work_until_done(one, device)).state == JOB_STATE_DONE


async def test_what_another_device_was_given_is_refused_everywhere(pair):
    one, two = await pair(min_devices=1)
    assignment = await (await one.device("device-1")).assignment()
    stranger = await two.device("device-2")

    assert "another device" in (await refusal(stranger.finish(assignment)))[2]


async def test_a_whole_deployment_on_postgresql(shared_home, workplace):
    """Real agents, computing; enrolled in SQLite's days."""
    change_job(shared_home, {"rounds": {"count": 2, "min_devices": 2}})
    async with serving(shared_home) as server:
        await server.join("device-5")
        async with server.agents(workplace, {"device-1": Policy(), "device-2": Policy()}, 0.0):
            job = await server.until_state(JOB_STATE_DONE)

    assert (job.rounds_committed, len(job.devices)) == (2, 2)
