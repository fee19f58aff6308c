"""A device that has worked on jobs, and what its commands print."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from fwdllm.v1 import device_pb2
from fwdllm_client.cache.artifacts import ArtifactCache
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.cache.weights import Weights
from fwdllm_client.cli.main import run_command
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.connection.retry import Retry
from fwdllm_client.engine.tiny_bundle import BUNDLE_FOLDER
from fwdllm_common.directions import Directions
from fwdllm_common.ledger import RunHeader
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.replay import ModelState, theta_digest

DATA = (BUNDLE_FOLDER / MANIFEST_FILE).read_bytes()
MANIFEST = Manifest.from_bytes(DATA)


def theta_of(seed):
    return np.random.default_rng(seed).normal(0, 1, MANIFEST.layout.size).astype(np.float32)


@pytest.fixture
def home(tmp_path):
    return ClientHome(tmp_path / "home")


@pytest.fixture
def work_on(home, coordinator, link, new_stop):
    """Has the device fetch what it needs for a job of this name, as its agent does."""
    for path in BUNDLE_FOLDER.iterdir():
        coordinator.add_file(path.read_bytes())
    coordinator.on_artifact = lambda request: coordinator.artifact(request, piece=1 << 20)
    retry = Retry(link.address, new_stop())
    room = CacheQuota(home.cache, 1 << 30)

    def work(name, seed, moment):
        theta = theta_of(seed)
        header = RunHeader(Directions(1), MANIFEST.layout.digest, theta_digest(theta), OptimizerSettings("sgd"))
        state = ModelState.initial(header, MANIFEST.layout, theta)
        chunk = device_pb2.WeightsChunk(kind=device_pb2.WeightsChunk.KIND_SNAPSHOT, data=state.to_bytes())
        coordinator.on_weights = lambda request: iter([chunk])
        assignment = device_pb2.Assignment(
            job_id=f"id-of-{name}",
            job_name=name,
            version=0,
            theta_digest=theta_digest(theta),
            manifest_sha256=hashlib.sha256(DATA).digest(),
        )
        ArtifactCache(room, link, retry).bundle(assignment.manifest_sha256)
        Weights(room.weights, link, retry).at(assignment, header, MANIFEST.layout)
        for path in room.weights.glob(f"{hashlib.sha256(assignment.job_id.encode()).hexdigest()}.*"):
            os.utime(path, (moment, moment))

    return work


@pytest.fixture
def predict(home, capsys):
    def run(*arguments):
        capsys.readouterr()  # what was logged before
        code = run_command(["predict", "--home", str(home.folder), "--threads", "1", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
