"""Whole runs over the wire: real agents, stops, restarts, and what the ledger says of them."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import pytest
from helpers.serving import derivative, seeds_of, serving, work_until_done

from fwdllm.v1.operator_pb2 import (
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    JOB_STATE_STOPPED,
    GetJobRequest,
)
from fwdllm_client.policy.policy import Policy
from fwdllm_common.ledger import LedgerEntry
from fwdllm_server.config.home import ServerHome

RUN = GetJobRequest(job="tiny")


@pytest.fixture
async def uninterrupted(folder, tmp_path, clock):
    """The ledger of a run that nobody stops."""
    shutil.copytree(folder, tmp_path / "uninterrupted", ignore=shutil.ignore_patterns("*.sock"))
    async with serving(ServerHome.open(tmp_path / "uninterrupted" / "server"), clock) as server:
        job = await work_until_done(server, await server.device("device-1"))
        assert job.state == JOB_STATE_DONE
        return server.ledger()


async def test_four_agents_bring_a_job_to_its_end(start, workplace):
    names = ("device-1", "device-2", "device-3", "device-4")
    server = await start(min_devices=4, federated_evaluate_every=1)
    async with server.agents(workplace, dict.fromkeys(names, Policy()), 0.2):
        job = await server.until_state(JOB_STATE_DONE)

    assert (job.rounds_committed, job.rounds_abandoned, job.directions) == (2, 0, 40)
    assert [device.scalars for device in job.devices] == [10, 10, 10, 10]
    assert (job.scalars_late, job.scalars_unusable) == (0, 0)
    assert job.latest_evaluation.version == 2
    assert job.latest_evaluation.rows == 30
    assert 0 < job.latest_evaluation.federated_rows < 40
    assert job.example_passes > 0


async def test_every_direction_is_in_the_ledger_once(server, device):
    await work_until_done(server, device)
    for number, data in enumerate(server.ledger(), start=1):
        for update, index, count in zip(LedgerEntry.from_bytes(data).updates, (0, 1), (8, 12), strict=True):
            first = number << 32 | index << 24
            np.testing.assert_array_equal(np.sort(update.seeds), np.arange(first, first + count, dtype=np.uint64))


async def test_devices_that_share_the_work_evenly_make_the_same_ledger_as_one(start, uninterrupted):
    server = await start(min_devices=2)
    devices = [await server.device(name) for name in ("device-1", "device-2")]
    await work_until_done(server, *devices)

    assert server.ledger() == uninterrupted


@pytest.mark.parametrize("pause_s", [0, 10_000])
async def test_a_stopped_job_goes_on_with_the_same_round_and_what_it_has(server, device, clock, uninterrupted, pause_s):
    """However long it was stopped: deadlines do not run meanwhile."""
    work = await device.assignment()
    await device.report(work.assignment_id, [derivative(seed) for seed in seeds_of(work)[:7]])
    stopped = await server.operator.StopJob(RUN)
    clock.now += pause_s
    resumed = await server.operator.ResumeJob(RUN)

    assert (stopped.state, resumed.state) == (JOB_STATE_STOPPED, JOB_STATE_RUNNING)
    assert (resumed.round.number, resumed.round.directions_collected) == (1, 7)
    assert (await device.assignment()).assignment_id == work.assignment_id
    done = await work_until_done(server, device)
    assert (done.state, done.rounds_abandoned, done.scalars_late) == (JOB_STATE_DONE, 0, 0)
    assert server.ledger() == uninterrupted


async def test_what_arrives_while_a_job_is_stopped_is_used_when_it_goes_on(server, device, clock, uninterrupted):
    work = await device.assignment()
    await server.operator.StopJob(RUN)
    clock.now += 1000
    assert (await device.finish(work)).accepted == 20
    clock.now += 1000
    await server.operator.ResumeJob(RUN)
    await work_until_done(server, device)

    assert server.ledger() == uninterrupted


async def test_a_round_that_goes_on_has_all_of_its_time_again(server, device, clock):
    await device.assignment()
    await server.until(lambda job: job.round.phase == "collecting")
    clock.now += 20
    await server.operator.StopJob(RUN)
    clock.now += 10_000
    await server.operator.ResumeJob(RUN)

    assert (await device.assignment()).deadline_ms == 100_000


async def test_a_restarted_server_goes_on_at_once(folder, clock, uninterrupted):
    home = ServerHome.open(folder / "server")
    async with serving(home, clock) as server:
        device = await server.device("device-1")
        work = await device.assignment()
        await device.report(work.assignment_id, [derivative(seed) for seed in seeds_of(work)[:7]])
    async with serving(home, clock) as server:
        device = await server.device("device-1")
        answer = await device.check_in()
        assert answer.assignment.assignment_id == work.assignment_id
        assert not (await device.finish(work)).stop
        await work_until_done(server, device)

        assert server.ledger() == uninterrupted


async def test_two_operators_who_resume_a_job_at_once_start_it_once(server, device, uninterrupted):
    await server.operator.StopJob(RUN)
    calls = [server.operator.ResumeJob(RUN) for _ in range(4)]
    answers = await asyncio.gather(*(asyncio.ensure_future(call_of(call)) for call in calls), return_exceptions=True)

    assert sum(not isinstance(answer, Exception) for answer in answers) == 1
    await work_until_done(server, device)
    assert server.ledger() == uninterrupted


async def call_of(call):
    return await call


async def test_a_job_that_failed_can_be_resumed_once_its_cause_is_mended(start, workplace, folder, clock):
    server = await start(deadline_s=100, assignment_s=1000, max_abandoned=0)
    device = await server.device("device-1")
    await device.assignment()
    await server.until(lambda job: job.round.phase == "collecting")
    clock.now += 101
    server.coordinator.wake()
    failed = await server.until_state(JOB_STATE_FAILED)
    assert "deadline: 0 of 20 directions are in" in failed.message
    resumed = await server.operator.ResumeJob(RUN)

    assert (resumed.state, resumed.message) == (JOB_STATE_RUNNING, "")
    assert (await work_until_done(server, device)).state == JOB_STATE_DONE


async def test_a_held_out_file_that_has_vanished_fails_the_job_and_not_the_server(folder, tmp_path, clock):
    home = ServerHome.open(folder / "server")
    from helpers.serving import change_job

    change_job(home, {"held_out": {"file": "vanished.csv"}})
    async with serving(home, clock) as server:
        device = await server.device("device-1")
        await device.finish(await device.assignment())
        job = await server.until_state(JOB_STATE_FAILED)

        assert "vanished.csv: cannot read the data" in job.message
        assert (await device.check_in()).message == "no job is running"
