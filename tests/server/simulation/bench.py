"""A simulated fleet on the hand-written bundle of the engine's tests: milliseconds a round, no torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from client.engine.tiny_bundle import Bundle, make_theta
from helpers.tiny_job import job_toml
from sqlalchemy import select

from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.preparation.adoption import PreparedModel, save_prepared
from fwdllm_server.preparation.run_header import run_header
from fwdllm_server.rounds.fleet import drive
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.presence import Presence
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.simulation.compute import Compute
from fwdllm_server.simulation.cost import PassCounter
from fwdllm_server.simulation.fleet import SimulatedFleet
from fwdllm_server.simulation.population import Population, VirtualDevice
from fwdllm_server.simulation.store import SimulationStore
from fwdllm_server.store import assignments, jobs, ledger, schema
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.assignments import AssignmentRecord
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.store.ledger import EvaluationRecord

JOB = "job1"
ROWS = 10


def sections(**rounds: Any) -> dict[str, dict[str, Any]]:
    """The tiny job: three rounds of six and nine directions, with these keys of ``[rounds]``."""
    return {
        "model": {"source": "none", "labels": list("abc")},
        "rounds": {"count": 3, "evaluate_every": 0, **rounds},
        "blocks.peft": {"directions": 6, "learning_rate": 0.01, "batch_size": 4},
        "blocks.head": {"directions": 9, "learning_rate": 0.05, "batch_size": 8},
    }


def device(number: int, speed: float, rows: int = ROWS) -> VirtualDevice:
    """The device ``sim-number`` with rows of its own."""
    own = np.arange(number * rows, (number + 1) * rows)
    return VirtualDevice(f"sim-{number}", own, own[:2], speed, frozenset("abc"))


class Bench:
    """One job on some devices, run in steps or to its end."""

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        dataset: Dataset,
        toml: dict[str, Any],
        devices: Sequence[VirtualDevice],
        **population: Any,
    ) -> None:
        folder.mkdir()
        self.store = SimulationStore(folder / "store.sqlite")
        self.artifacts = ArtifactStore(folder / "artifacts")
        self._prepare(bundle, job_toml(toml))
        self.store.enrol(devices)
        self.devices = devices
        self.population = Population(devices=len(devices), latency_s=0.0, **population)
        self.engine = Engine(bundle.folder, bundle.manifest, dataset, folder / "cache", threads=1)
        self.dataset = dataset
        with self.store.transaction() as connection:
            self.job = TrainingJob.load(connection, self.artifacts, self.record)
        self.cost = PassCounter(self.job.manifest, dataset, self.job.header.directions.run_key)
        self.fleet = self.new_fleet()

    def new_fleet(self) -> SimulatedFleet:
        """Devices that know nothing yet; the round machine sees these."""
        self.presence = Presence(float("inf"))
        self.machine = RoundMachine(self.store, self.artifacts, self.presence, self.job)
        compute = Compute(self.job, self.population, self.devices, self.engine, self.cost)
        return SimulatedFleet(self.store, self.presence, compute)

    async def evaluate(self, state: ModelState) -> None:
        """What the evaluator adds for a version."""
        with self.store.transaction() as connection:
            ledger.add_evaluation(connection, JOB, EvaluationRecord(state.version, 0.5, 0.7, 10))

    def run(self) -> Bench:
        """Run to the end."""
        asyncio.run(drive(self.machine, self.fleet, self.evaluate))
        return self

    def close(self) -> None:
        self.engine.close()
        self.store.close()

    @property
    def record(self) -> JobRecord:
        with self.store.transaction() as connection:
            found = jobs.get(connection, JOB)
        assert found is not None
        return found

    @property
    def entries(self) -> list[bytes]:
        with self.store.transaction() as connection:
            return list(ledger.entries(connection, JOB, after=0))

    @property
    def seeds(self) -> list[set[int]]:
        """The seeds in each entry."""
        found = [LedgerEntry.from_bytes(entry) for entry in self.entries]
        return [{int(seed) for update in entry.updates for seed in update.seeds} for entry in found]

    def work(self, number: int) -> Sequence[AssignmentRecord]:
        """The assignments of a round."""
        with self.store.transaction() as connection:
            return assignments.of_round(connection, JOB, number)

    def phases(self) -> list[tuple[str, float]]:
        """The phase of each round, and since when."""
        with self.store.transaction() as connection:
            query = select(schema.rounds.c.phase, schema.rounds.c.phase_since).order_by(schema.rounds.c.number)
            return [(phase, since) for phase, since in connection.execute(query)]

    def job_devices(self) -> dict[str, Any]:
        """What each device has spent."""
        with self.store.transaction() as connection:
            return {row.device_id: row for row in connection.execute(select(schema.job_devices))}

    def _prepare(self, bundle: Bundle, toml: str) -> None:
        spec = parse_toml(toml, JobSpec, "job file")
        theta = make_theta(bundle.manifest)
        header = run_header(spec, bundle.manifest.layout, theta)
        state = ModelState.initial(header, bundle.manifest.layout, theta)
        prepared = PreparedModel(header, self.artifacts.put(bundle.manifest.to_bytes()), state, "zeros")
        with self.store.transaction() as connection:
            jobs.add(connection, JOB, spec, toml, "/", 0.0)
            save_prepared(connection, self.artifacts, JOB, prepared)
