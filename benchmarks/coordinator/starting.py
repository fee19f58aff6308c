"""How soon a coordinator serves that has a long run behind it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.coordinator.population import JOB, add_devices, add_job, device_id, job_toml, make_home
from benchmarks.coordinator.processes import coordinator, free_port
from fwdllm_common.ledger import BlockUpdate, LedgerEntry
from fwdllm_server.config.home import ServerHome
from fwdllm_server.rounds.committing import SNAPSHOT_EVERY
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import jobs, ledger, schema
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.database import Database
from fwdllm_server.store.rounds import Phase

_DEVICES, _DIRECTIONS = 10, 8
_SERVING = b'"event": "serving"'
_PATIENCE_S = 120.0


def make_long_run(folder: Path, rounds: int, weights: int) -> ServerHome:
    """Make a server's directory with a job of so many committed rounds, as their commits leave them.

    The newest snapshot is as old as it gets.
    """
    home = make_home(folder / "server")
    database, artifacts = Database(home.database_url(home.config())), ArtifactStore(home.artifacts)
    add_devices(database, _DEVICES)
    add_job(database, artifacts, job_toml(_DIRECTIONS), weights)
    with database.transaction() as connection:
        record = jobs.get(connection, JOB)
        assert record is not None
        job = TrainingJob.load(connection, artifacts, record)
        state = job.state
        for version in range(1, rounds + 1):
            seeds = (np.uint64(version) << np.uint64(32)) + np.arange(_DIRECTIONS, dtype=np.uint64)
            coefficients = np.arange(1, _DIRECTIONS + 1, dtype=np.int64) << 16
            update = BlockUpdate("peft", seeds, coefficients, np.float32(0.01))
            entry = state.advance(LedgerEntry(version, (update,), b""))
            ledger.append(connection, JOB, entry, {"peft": [1 << 16]}, float(version))
            if version == rounds - SNAPSHOT_EVERY + 1:
                ledger.add_snapshot(connection, JOB, version, artifacts.put(state.to_bytes()))
        rows = [
            {"job_id": JOB, "number": n, "phase": Phase.COMMITTED, "phase_since": n, "version": n - 1}
            for n in range(1, rounds + 1)
        ]
        connection.execute(schema.rounds.insert(), rows)
        work = [
            {
                "id": f"{JOB}-{number}-{device}",
                "job_id": JOB,
                "round": number,
                "device_id": device_id(device),
                "state": AssignmentState.DONE,
                "tasks": b"",
                "directions": 1,
                "expires_at": float(number),
            }
            for number in range(1, rounds + 1)
            for device in range(_DEVICES)
        ]
        connection.execute(schema.assignments.insert(), work)
    database.close()
    return home


def start_seconds(home: ServerHome, log: Path) -> float:
    """From the start of the process to when it serves, imports and all."""
    began = time.perf_counter()
    with coordinator(home.folder, free_port(), log):
        while _SERVING not in log.read_bytes():
            if time.perf_counter() > began + _PATIENCE_S:
                raise SystemExit(f"error: the coordinator does not serve\n{log.read_text()[-4000:]}")
            time.sleep(0.005)
        return time.perf_counter() - began
