"""A job small enough to be trained by hand: two blocks of a few weights, no model behind them."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np
from sqlalchemy import Connection

from fwdllm_common.directions import Directions
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.ledger import RunHeader
from fwdllm_common.manifest import BundleFile, Manifest, Stage
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.replay import ModelState, theta_digest
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.run_header import run_key
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import jobs, ledger
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database

LABELS = ("no", "yes")
LAYOUT = Layout((TensorSpec("lora_B", (4, 2), "peft"), TensorSpec("classifier", (2, 3), "head")))
THETA = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)

_SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "job": {"name": "tiny", "seed": 7},
    "model": {"source": "none", "labels": list(LABELS)},
    "held_out": {"file": "none.csv"},
    "optimizer": {"kind": "adam", "schedule": "constant"},
    "rounds": {
        "count": 2,
        "min_devices": 3,
        "gather_s": 0,
        "accept_s": 10.0,
        "deadline_s": 100.0,
        "assignment_s": 30.0,
    },
    "blocks.peft": {"directions": 6, "learning_rate": 0.1},
    "blocks.head": {"directions": 9, "learning_rate": 0.2},
}


def job_toml(changes: Mapping[str, Mapping[str, Any] | None] = {}) -> str:
    """The tiny job's file; ``changes`` are keys by section, None leaves a section or a key out."""
    lines = []
    for section in {**_SECTIONS, **changes}:
        change = changes.get(section, {})
        if change is not None:
            lines.append(f"[{section}]")
            values = {**_SECTIONS.get(section, {}), **change}
            lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines)


def job_spec(changes: Mapping[str, Mapping[str, Any] | None] = {}) -> JobSpec:
    return JobSpec.model_validate(tomllib.loads(job_toml(changes)))


def run_header(spec: JobSpec, layout: Layout = LAYOUT, theta: np.ndarray = THETA) -> RunHeader:
    settings = OptimizerSettings(spec.optimizer.kind, spec.optimizer.beta1, spec.optimizer.beta2, 1e-8)
    directions = Directions(run_key(spec.job.seed), spec.perturbation.distribution)
    orthogonal = tuple(name for name in layout.blocks if name in spec.blocks and spec.blocks[name].directions == "auto")
    return RunHeader(directions, layout.digest, theta_digest(theta), settings, orthogonal)


def tiny_manifest() -> Manifest:
    file = BundleFile("file", hashlib.sha256(b"file").hexdigest(), 4)
    stages = [Stage(block, file, None, ("input_ids",), True, 4, 16) for block in (None, *LAYOUT.blocks)]
    return Manifest(LABELS, 16, 0, file, LAYOUT, tuple(stages))


def add_unprepared_job(connection: Connection, job_id: str, name: str = "tiny", now: float = 0.0) -> None:
    """What submitting leaves behind."""
    changes = {"job": {"name": name}}
    jobs.add(connection, job_id, job_spec(changes), job_toml(changes), "/", now)


def add_tiny_job(database: Database, artifacts: ArtifactStore, toml: str, job_id: str = "job1") -> None:
    """What submitting and preparing leave behind: a running job at version 0."""
    spec = JobSpec.model_validate(tomllib.loads(toml))
    header = run_header(spec)
    snapshot = artifacts.put(ModelState.initial(header, LAYOUT, THETA).to_bytes())
    manifest = artifacts.put(tiny_manifest().to_bytes())
    artifacts.put(b"file")
    with database.transaction() as connection:
        jobs.add(connection, job_id, spec, toml, "/", 0.0)
        ledger.add_snapshot(connection, job_id, 0, snapshot)
        jobs.prepared(connection, job_id, header.to_bytes(), manifest, "zeros", LAYOUT.size)


def load_job(database: Database, artifacts: ArtifactStore, job_id: str = "job1") -> TrainingJob:
    with database.transaction() as connection:
        record = jobs.get(connection, job_id)
        assert record is not None
        return TrainingJob.load(connection, artifacts, record)


def _toml(value: object) -> str:
    return "inf" if value == inf else json.dumps(value)
