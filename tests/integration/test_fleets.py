"""The rounds do not know where devices are: the same scalars give the same ledger on simulated and on real ones."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.serving import ScriptedDevice, Serving, change_job, seeds_of, serving
from helpers.tiny_job import job_toml
from integration.conftest import DEVICES, SECTIONS

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, JOB_STATE_RUNNING, Job
from fwdllm_client.data import Dataset
from fwdllm_client.data.split import split
from fwdllm_client.engine import Engine, tuning
from fwdllm_client.engine.runs import TOKENS_PER_RUN
from fwdllm_client.policy.policy import Policy
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.counts import Counts
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.config.home import ServerHome
from fwdllm_server.coordinator.grpc_fleet import GrpcFleet
from fwdllm_server.rounds.context import Step
from fwdllm_server.rounds.fleet import drive
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.presence import Presence
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.simulation.compute import Compute
from fwdllm_server.simulation.cost import PassCounter
from fwdllm_server.simulation.fleet import SimulatedFleet
from fwdllm_server.simulation.population import Population, VirtualDevice
from fwdllm_server.simulation.simulation import Simulation
from fwdllm_server.store import assignments, devices, job_devices, jobs, ledger
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database
from fwdllm_server.store.devices import Sighting
from fwdllm_server.store.ledger import EvaluationRecord

VALIDATION = 0.2
TOGETHER = {"min_devices": 4, "max_devices": 4}


@pytest.fixture(autouse=True)
def no_speed_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither who measures what nor how many rows go through the model together depends on this machine's clock."""
    monkeypatch.setattr(job_devices, "SHORTEST_MEASURED_S", float("inf"))
    monkeypatch.setattr(tuning, "TOKENS_TRIED", (TOKENS_PER_RUN,))


class SimulatedTwin:
    """A copy of a server's folder whose devices, by their own names and rows, are simulated in this process."""

    def __init__(self, folder: Path, workplace: Path, now: float) -> None:
        home = ServerHome.open(folder / "server")
        self.database = Database(home.database_url(home.config()))
        artifacts = ArtifactStore(home.artifacts)
        with self.database.transaction() as connection:
            (record,) = jobs.in_state(connection)
            self.job = TrainingJob.load(connection, artifacts, record)
        bundle = home.jobs / record.id / "bundle"
        everything = DataSource(_joined(folder / "all.csv", [workplace / f"{name}.csv" for name in DEVICES]))
        dataset = Dataset.load(everything, bundle / self.job.manifest.tokenizer.name, self.job.manifest)
        self.engine = Engine(bundle, self.job.manifest, dataset, folder / "cache", threads=1)
        presence = Presence(float("inf"))
        self._machine = RoundMachine(self.database, artifacts, presence, self.job)
        cost = PassCounter(self.job.manifest, dataset, self.job.header.directions.run_key)
        devices = self._devices(folder, workplace)
        compute = Compute(self.job, Population(devices=len(DEVICES)), devices, self.engine, cost)
        self._fleet = SimulatedFleet(self.database, presence, compute, start=now)

    def _devices(self, folder: Path, workplace: Path) -> Sequence[VirtualDevice]:
        found, first = [], 0
        for name in DEVICES:
            identity = json.loads((folder / name / "identity.json").read_text())["device_id"]
            rows = np.arange(first, first + len((workplace / f"{name}.csv").read_text().splitlines()) - 1)
            training, validation = (rows[part] for part in split(len(rows), VALIDATION))
            found.append(VirtualDevice(identity, training, validation, 100.0, frozenset(self.job.manifest.labels)))
            with self.database.transaction() as connection:
                devices.seen(connection, [Sighting(identity, len(training), "simulated")], 0.0)
            first += len(rows)
        return found

    async def run(self) -> None:
        await drive(self._machine, self._fleet, self._committed)

    async def _committed(self, state: ModelState) -> None:
        with self.database.transaction() as connection:
            ledger.add_evaluation(connection, self.job.id, EvaluationRecord(state.version, 0.5, 0.5, 1))

    def ledger(self) -> list[bytes]:
        with self.database.transaction() as connection:
            return list(ledger.entries(connection, self.job.id, after=0))

    def facts(self) -> Mapping[str, tuple[int, float]]:
        """Scalars and example-passes of each device."""
        with self.database.transaction() as connection:
            return {
                row.device_id: (row.scalars, row.example_passes) for row in job_devices.of_job(connection, self.job.id)
            }

    def federated(self) -> Counts:
        with self.database.transaction() as connection:
            return assignments.federated_counts(connection, self.job.id)


def _joined(path: Path, parts: Sequence[Path]) -> Path:
    """The rows of some files in one."""
    header, *_ = parts[0].read_text().splitlines()
    path.write_text("\n".join([header, *(row for part in parts for row in part.read_text().splitlines()[1:])]))
    return path


COMPLETE = {"blocks.head": {"directions": "auto", "batch_size": "auto"}}


@pytest.mark.parametrize(
    ("rounds", "sections"),
    [({}, {}), ({"federated_evaluate_every": 1}, {}), ({}, COMPLETE)],
    ids=["plain", "evaluated", "complete"],
)
async def test_agents_and_their_simulated_twins_write_the_same_ledger(
    start, prepared, workplace, tmp_path, rounds, sections
):
    """Four agents, each with rows of its own, over TLS; and the same four, simulated: bit for bit the same model."""
    server = await start(sections, **TOGETHER, **rounds)
    async with server.agents(workplace, dict.fromkeys(DEVICES, Policy()), VALIDATION):
        job = await server.until_state(JOB_STATE_DONE)
    shutil.copytree(prepared, tmp_path / "twin")
    change_job(ServerHome.open(tmp_path / "twin" / "server"), {"rounds": {**TOGETHER, **rounds}, **sections})
    twin = SimulatedTwin(tmp_path / "twin", workplace, server.clock())
    await twin.run()

    assert len(server.ledger()) == 2
    assert twin.ledger() == server.ledger()
    assert twin.job.state.digest == job.theta_digest
    assert twin.facts() == {
        device.device_id: (device.scalars, pytest.approx(device.example_passes)) for device in job.devices
    }
    correct, total, _ = twin.federated()
    assert total == job.latest_evaluation.federated_rows
    assert (correct / total if total else 0) == job.latest_evaluation.federated_accuracy
    twin.engine.close()
    twin.database.close()


PACED: Mapping[str, Any] = {
    **SECTIONS,
    "rounds": {**SECTIONS["rounds"], **TOGETHER, "count": 3},
    # Three steps in each round: twelve, and twice as many again.
    "blocks.head": {**SECTIONS["blocks.head"], "max_directions": 36, "variance_threshold": 1e-9},
}


@pytest.fixture
def simulated(quick, workplace, tmp_path, monkeypatch):
    """A simulation from its job file to its end, and what its devices measured, by seed."""
    measured: dict[int, float] = {}
    scalars = Compute.scalars

    def heard(self, record, work):
        values = scalars(self, record, work)
        assert all(measured.setdefault(seed, value) == value for seed, value in zip(record.seeds, values, strict=True))
        return values

    monkeypatch.setattr(Compute, "scalars", heard)
    data = DataSource(_joined(tmp_path / "all.csv", [workplace / f"{name}.csv" for name in DEVICES]))
    population = Population(devices=len(DEVICES), partition="dirichlet", alpha=0.5)
    with Simulation(job_toml(PACED), workplace, data, population, tmp_path / "simulated", threads=1) as simulation:
        simulation.run(lambda point: None)
        yield simulation, measured


class TurnByTurn:
    """Devices and rounds take turns: neither moves while the other does, as in a simulation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._devices_turn, self._rounds_turn = asyncio.Event(), asyncio.Event()
        self._advance_fleet = GrpcFleet.advance
        monkeypatch.setattr(GrpcFleet, "advance", lambda fleet, machine: self._advance(fleet, machine))
        monkeypatch.setattr(GrpcFleet, "news", lambda _fleet, _within_s: self._news())

    async def _advance(self, fleet: GrpcFleet, machine: RoundMachine) -> Step:
        step = await self._advance_fleet(fleet, machine)
        if step.job_ended:
            self._devices_turn.set()
        return step

    async def _news(self) -> None:
        self._devices_turn.set()
        await self._rounds_turn.wait()
        self._rounds_turn.clear()

    async def rounds_wait(self) -> None:
        """Return when no round can go on without the devices, or the job has ended."""
        await self._devices_turn.wait()

    def check_cancelled(self) -> None:
        """Let the rounds go on."""
        self._devices_turn.clear()
        self._rounds_turn.set()


async def test_devices_that_replay_a_simulations_scalars_write_its_ledger(simulated, folder, clock, monkeypatch):
    """From the job file to the last round, with pacing: the model is exported twice, the scalars go over the wire."""
    simulation, measured = simulated
    home = ServerHome.open(folder / "server")
    change_job(home, {name: PACED[name] for name in ("rounds", "blocks.head")})
    turns = TurnByTurn(monkeypatch)
    async with serving(home, clock) as server:
        # Shares go by the order of ids, weights by the number of rows.
        found = sorted([await server.device(name) for name in DEVICES], key=lambda device: device.id)
        rows = [len(device.training) for device in simulation.devices]
        job = await _replay(server, turns, found, rows, measured)

        assert job.state == JOB_STATE_DONE
        assert server.ledger() == simulation.ledger()
        assert job.theta_digest.hex() == simulation.outcome.theta_digest
    directions = [
        len(update.seeds) for entry in simulation.ledger() for update in LedgerEntry.from_bytes(entry).updates
    ]
    assert directions == [8, 36] * 3
    assert len(set(rows)) == 2


async def _replay(
    server: Serving,
    turns: TurnByTurn,
    found: Sequence[ScriptedDevice],
    rows: Sequence[int],
    measured: Mapping[int, float],
) -> Job:
    while (job := await server.job()).state == JOB_STATE_RUNNING:
        await turns.rounds_wait()
        for device, examples in zip(found, rows, strict=True):
            answer = await device.check_in(training_examples=examples)
            if answer.HasField("assignment"):
                work = answer.assignment
                await device.report(work.assignment_id, [measured[seed] for seed in seeds_of(work)])
                await device.check_in(training_examples=examples)
        turns.check_cancelled()
    return job
