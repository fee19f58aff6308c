"""A server's directory with devices that have joined and a job that runs, made without their help."""

from __future__ import annotations

import time
import tomllib
from math import inf
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.coordinator.fleets import LABELS
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.manifest import BundleFile, Manifest, Stage
from fwdllm_common.replay import ModelState
from fwdllm_server.cli import run
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.adoption import PreparedModel, save_prepared
from fwdllm_server.preparation.run_header import run_header
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.store import jobs, ledger, schema
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database
from fwdllm_server.store.ledger import EvaluationRecord

JOB = "bench"
_DAYS = 30


def make_home(folder: Path) -> ServerHome:
    """Make a new server's directory on free loopback ports."""
    if run(["init", str(folder), "--host", "localhost", "--json"]) != 0:
        raise SystemExit(f"error: no server's directory could be made in {folder}")
    home = ServerHome.open(folder)
    text = home.config_file.read_text(encoding="utf-8")
    for default in ("0.0.0.0:7443", "0.0.0.0:7444"):
        text = text.replace(default, "127.0.0.1:0")
    # Ten thousand devices call from one address, and are connected for a while before their first call.
    text = text.replace("connections_per_network = 32", "connections_per_network = 100000")
    home.config_file.write_text(text, encoding="utf-8")
    return home


def join_devices(home: ServerHome, database: Database, folder: Path, count: int) -> None:
    """Devices in the store, and their certificates in ``folder`` as ``NUMBER.pem``, all for the same key."""
    authority = CertificateAuthority.load(home.ca_certificate, home.ca_key)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    now = time.time()
    for number in range(count):
        certificate = authority.sign_device(key.public_key(), device_id(number), now, _DAYS)
        (folder / f"{number}.pem").write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    add_devices(database, count)


def add_devices(database: Database, count: int) -> None:
    """Devices in the store."""
    rows = [
        {
            "id": device_id(number),
            "name": f"phone-{number}",
            "key_sha256": f"{number:064x}",
            "enrolled_at": time.time(),
        }
        for number in range(count)
    ]
    with database.transaction() as connection:
        connection.execute(schema.devices.insert(), rows)


def device_id(number: int) -> str:
    """As enrolment makes them: 20 characters."""
    return f"dev-{number:016x}"


def add_job(database: Database, artifacts: ArtifactStore, toml: str, weights: int) -> None:
    """Add a running job at version 0 whose trainable vector has so many weights; it has no model."""
    spec = JobSpec.model_validate(tomllib.loads(toml))
    file = BundleFile("file", artifacts.put(b"file"), 4)
    layout = Layout((TensorSpec("lora", (weights,), "peft"),))
    stages = tuple(Stage(block, file, None, ("input_ids",), True, 4, 16) for block in (None, "peft"))
    manifest = artifacts.put(Manifest(LABELS, 16, 0, file, layout, stages).to_bytes())
    theta = np.linspace(-1, 1, weights, dtype=np.float32)
    header = run_header(spec, layout, theta)
    state = ModelState.initial(header, layout, theta)
    with database.transaction() as connection:
        jobs.add(connection, JOB, spec, toml, "/", time.time())
        save_prepared(connection, artifacts, JOB, PreparedModel(header, manifest, state, "zeros"))
        ledger.add_evaluation(connection, JOB, EvaluationRecord(0, 0.0, inf, 1))  # there is nothing to evaluate


def job_toml(directions: int, rounds: str = "") -> str:
    """Return a job file of one block; ``rounds`` are further keys of its ``[rounds]``."""
    return f"""
[job]
name = "{JOB}"
seed = 7
[model]
source = "none"
labels = ["no", "yes"]
[held_out]
file = "none.csv"
[rounds]
count = 1_000_000
evaluate_every = 0
{rounds}
[blocks.peft]
directions = {directions}
learning_rate = 0.01
"""
