"""A head from class means, over the wire: who is asked, what is sent, what the run begins with."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
from helpers.serving import everything, refusal, serving, work_until_done
from helpers.tiny_job import job_toml
from helpers.tiny_text import LABELS, save_tiny_model, write_rows
from server.rpc.loopback import make_home

from fwdllm.v1.device_pb2 import ClassSum, FeatureSumsRequest, GetArtifactRequest, GetWeightsRequest
from fwdllm.v1.operator_pb2 import (
    JOB_STATE_DONE,
    JOB_STATE_PREPARING,
    JOB_STATE_RUNNING,
    GetJobRequest,
    SubmitJobRequest,
)
from fwdllm_client.policy.policy import Policy
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.ledger import RunHeader
from fwdllm_common.protocol import FEATURE_SUMS
from fwdllm_server.config.home import ServerHome
from fwdllm_server.simulation.population import Population
from fwdllm_server.simulation.simulation import Simulation
from fwdllm_server.store import assignments, feature_sums, jobs

RUN = GetJobRequest(job="tiny")
DEVICES = ("device-1", "device-2")
WIDTH = 32
SECTIONS = {
    "job": {"name": "tiny", "seed": 3},
    "model": {"source": "model", "labels": list(LABELS), "max_tokens": 16, "pooling": "mean", "head": "class-means"},
    "peft": {"rank": 2, "layers": [-1]},
    "held_out": {"file": "held_out.csv"},
    "optimizer": {"kind": "sgd"},
    "rounds": {"count": 1, "min_devices": 1, "gather_s": 0, "accept_s": 50.0, "deadline_s": 100.0},
    "blocks.head": {"directions": 12, "batch_size": 8, "learning_rate": 1e-6},
    "blocks.peft": {"directions": 8, "batch_size": 8, "learning_rate": 1e-6},
}


@pytest.fixture(scope="module")
def place(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and rows enough for sums of each class."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny_model(folder / "model")
    write_rows(folder / "held_out.csv", 150, seed=0)
    for number, name in enumerate(DEVICES, start=1):
        write_rows(folder / f"{name}.csv", 60, seed=number)
    return folder


@pytest.fixture(scope="module")
def headless(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a server whose job has an uninitialised head, and the homes of two devices that have joined it."""
    folder = tmp_path_factory.mktemp("headless")

    async def headless() -> None:
        async with serving(make_home(folder / "server")) as server:
            await server.operator.SubmitJob(SubmitJobRequest(spec_toml=job_toml(SECTIONS), base_folder=str(place)))
            await server.join(*DEVICES)
            async for job in server.operator.WatchJob(RUN, timeout=120):
                if job.round.phase == "initialising":
                    break

    asyncio.run(headless())
    return folder


@pytest.fixture
def folder(headless: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(headless, tmp_path / "copy"))


@pytest.fixture
async def server(folder, clock):
    async with serving(ServerHome.open(folder / "server"), clock) as server:
        yield server


async def asked(server, name="device-1"):
    """A device whose owner allows it, and the assignment that it gets."""
    device = await server.device(name)
    for _ in range(1000):
        answer = await device.check_in(capabilities=[FEATURE_SUMS])
        if answer.HasField("assignment"):
            return device, answer.assignment
    raise AssertionError(answer)


def request_of(assignment, *labels, seed=0, last=True, rows=8):
    draw = np.random.default_rng(seed)
    sums = [ClassSum(label=label, rows=rows, features=draw.normal(label, 1, WIDTH)) for label in labels]
    return FeatureSumsRequest(assignment_id=assignment.assignment_id, sums=sums, last=last)


def stored(server):
    """The device ids behind the sums, those behind the assignments of round 0, and the job."""
    with server.runtime.database.transaction() as connection:
        record = jobs.find(connection, "tiny")
        senders, _ = feature_sums.sources(connection, record.id)
        work = assignments.of_round(connection, record.id, 0)
        return senders, {assignment.device_id for assignment in work}, record


async def test_two_agents_of_which_one_allows_it(server, place, clock):
    async with server.agents(place, dict(zip(DEVICES, (Policy(8), Policy()), strict=True)), 0.2):
        waiting = await server.until(lambda job: "1 have sent" in job.round.reason or job.state != JOB_STATE_PREPARING)
        assert (waiting.state, waiting.head_init, waiting.theta_digest) == (JOB_STATE_PREPARING, "", b"")
        clock.now += 60
        server.coordinator.wake()
        job = await server.until_state(JOB_STATE_DONE)
    senders, were_asked, record = stored(server)

    allowing = server.client_home("device-1").load_identity().device_id
    assert senders == were_asked == {allowing}
    assert job.head_init == "class-means"
    assert (job.rounds_committed, job.rounds_abandoned, job.scalars_late) == (1, 0, 0)
    assert RunHeader.from_bytes(record.header).initial_theta_digest != job.theta_digest
    # With zeros every text is of the first class, which a third of them are.
    assert job.initial_evaluation.accuracy > 0.8
    assert job.initial_evaluation.loss < 0.8
    assert job.latest_evaluation.accuracy == pytest.approx(job.initial_evaluation.accuracy, abs=0.05)


async def test_the_weights_for_the_features_come_as_a_file_and_only_so(server):
    device, work = await asked(server)
    (chunk,) = await everything(device.service.GetArtifact(GetArtifactRequest(sha256=work.theta_digest), timeout=10))
    request = GetWeightsRequest(job_id=work.job_id, version=0)
    status, reason, _ = await refusal(everything(device.service.GetWeights(request, timeout=10)))

    theta = np.frombuffer(chunk.data, dtype="<f4")
    assert len(theta) == (await server.job()).trainable_parameters
    assert not theta[-3 * (WIDTH + 1) :].any()
    assert (status, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "wrong-state")


async def test_once_the_head_is_set_the_headless_model_is_served_no_more(server, clock):
    device, work = await asked(server)
    await device.service.ReportFeatureSums(request_of(work, 0, 1, 2), timeout=10)
    clock.now += 60
    server.coordinator.wake()
    await server.until_state(JOB_STATE_RUNNING)
    call = device.service.GetArtifact(GetArtifactRequest(sha256=work.theta_digest), timeout=10)
    assert (await refusal(everything(call)))[:2] == (grpc.StatusCode.NOT_FOUND, "not-found")

    late = await device.service.ReportFeatureSums(request_of(work, 0, 1, 2), timeout=10)
    assert (late.late, late.accepted) == (3, 0)
    assert (await work_until_done(server, device)).state == JOB_STATE_DONE


async def begun_at(server, clock):
    """θ₀'s hash after both devices have sent."""
    clock.now += 60
    server.coordinator.wake()
    await server.until_state(JOB_STATE_RUNNING)
    return RunHeader.from_bytes(stored(server)[2].header).initial_theta_digest


@pytest.fixture
async def uninterrupted(headless, tmp_path, clock):
    shutil.copytree(headless, tmp_path / "uninterrupted")
    async with serving(ServerHome.open(tmp_path / "uninterrupted" / "server"), clock) as server:
        for number, name in enumerate(reversed(DEVICES)):
            device, work = await asked(server, name)
            await device.service.ReportFeatureSums(request_of(work, 0, 1, 2, seed=1 - number), timeout=10)
        return await begun_at(server, clock)


async def test_a_server_restarted_between_any_two_messages_begins_the_same_run(folder, clock, uninterrupted):
    home = ServerHome.open(folder / "server")
    for seed, name in enumerate(DEVICES):
        whole = None
        for label in range(3):
            async with serving(home, clock) as server:
                device, work = await asked(server, name)
                whole = request_of(work, 0, 1, 2, seed=seed)
                part = FeatureSumsRequest(assignment_id=work.assignment_id, sums=[whole.sums[label]], last=label == 2)
                answer = await device.service.ReportFeatureSums(part, timeout=10)
                assert answer.accepted == 1
    async with serving(home, clock) as server:
        # One look at the clock before the window ends, so that the next begins with what is stored.
        assert (await server.job()).state == JOB_STATE_PREPARING
        assert await begun_at(server, clock) == uninterrupted


async def test_a_headless_job_can_be_stopped_and_resumed(server, clock):
    device, work = await asked(server)
    await server.operator.StopJob(RUN)
    clock.now += 10_000
    status, reason, _ = await refusal(device.service.ReportFeatureSums(request_of(work, 0, 1, 2), timeout=10))
    assert (status, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "wrong-state")
    resumed = await server.operator.ResumeJob(RUN)
    assert (resumed.state, resumed.round.phase) == (JOB_STATE_PREPARING, "initialising")

    device, again = await asked(server)
    assert again.assignment_id == work.assignment_id
    answer = await device.service.ReportFeatureSums(request_of(again, 0, 1, 2), timeout=10)
    assert answer.accepted == 3
    assert await begun_at(server, clock)


async def test_an_owner_who_takes_the_permission_back_is_asked_no_more(server):
    device, _ = await asked(server)

    assert not (await device.check_in()).HasField("assignment")
    assert (await device.check_in(capabilities=[FEATURE_SUMS])).HasField("assignment")


async def test_nobody_reports_on_the_assignment_of_another(server):
    _, work = await asked(server)
    other = await server.device("device-2")

    status, reason, _ = await refusal(other.service.ReportFeatureSums(request_of(work, 0), timeout=10))
    assert (status, reason) == (grpc.StatusCode.PERMISSION_DENIED, "not-yours")
    unknown = FeatureSumsRequest(assignment_id="nobody's")
    assert (await refusal(other.service.ReportFeatureSums(unknown, timeout=10)))[1] == "not-found"
    assert stored(server)[0] == frozenset()


async def test_more_sums_than_there_can_be_classes_are_refused(server):
    device, work = await asked(server)
    request = FeatureSumsRequest(assignment_id=work.assignment_id, sums=[ClassSum()] * 1025)

    status, reason, words = await refusal(device.service.ReportFeatureSums(request, timeout=10))
    assert (status, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "bad-field")
    assert words == "number of sums is 1025; 0 to 1024 are allowed"


def test_simulated_devices_initialise_a_head_too(place, tmp_path):
    accuracies = {}
    for head in ("zeros", "class-means"):
        sections = {**SECTIONS, "model": {**SECTIONS["model"], "head": head}}
        source = DataSource(place / "device-1.csv")
        population = Population(devices=2, dropout_rate=0.0)
        with Simulation(job_toml(sections), place, source, population, tmp_path / head, threads=1) as simulation:
            first, *_ = simulation.run(lambda point: None)
            accuracies[head] = first.accuracy
            assert first.version == 0
            assert (first.example_passes > 0) is (head == "class-means")

    assert accuracies["class-means"] > accuracies["zeros"] + 0.3
