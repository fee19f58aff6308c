"""Servers that are ready to run a job on a tiny model, made once and copied for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.federation import Federation, copy_federation
from helpers.scripted_device import ledger_of_finished_run, scripted_devices
from helpers.tiny_text import LABELS, save_tiny_model, write_rows

from fwdllm.v1.operator_pb2 import JOB_STATE_RUNNING

JOB = f"""
[job]
name = "tiny"
seed = 3
[model]
source = "model"
labels = {list(LABELS)}
max_tokens = 16
pooling = "mean"
[peft]
rank = 2
layers = [-1]
[held_out]
file = "held_out.csv"
[rounds]
count = 6
min_devices = 2
evaluate_every = 3
federated_evaluate_every = 3
[blocks.head]
directions = 160
batch_size = 64
learning_rate = 0.1
[blocks.peft]
directions = 24
batch_size = 8
learning_rate = 0.005
first_round = 4
"""


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, the data of two devices and the coordinator, and a job file."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model(folder / "model")
    write_rows(folder / "held_out.csv", 150, seed=0)
    write_rows(folder / "device-1.csv", 120, seed=1)
    write_rows(folder / "device-2.csv", 90, seed=2)
    (folder / "job.toml").write_text(JOB)
    return folder


@pytest.fixture(scope="session")
def prepared(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation whose job is prepared and waits for its two devices, which have joined."""
    folder = tmp_path_factory.mktemp("prepared")
    with Federation(folder) as federation:
        federation.command("fwdllm-server", "init", str(federation.server_folder), "--host", "localhost")
        federation.start_server()
        federation.server("job", "submit", str(workplace / "job.toml"))
        for name in ("device-1", "device-2"):
            federation.join(name)
        federation.until("tiny", lambda job: job.state == JOB_STATE_RUNNING and job.HasField("latest_evaluation"))
    return folder


@pytest.fixture
def federation(prepared: Path, tmp_path: Path) -> Iterator[Federation]:
    """A fresh copy of the prepared federation; nothing runs yet."""
    folder = tmp_path / "federation"
    copy_federation(prepared, folder)
    with Federation(folder) as copy:
        copy.move_devices(("device-1", "device-2"))
        yield copy


@pytest.fixture(scope="session")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The ledger of a run with scripted devices that nothing disturbs."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "federation"
    copy_federation(prepared, folder)
    with Federation(folder) as federation:
        federation.move_devices(("device-1", "device-2"))
        federation.start_server()
        with scripted_devices(federation):
            return ledger_of_finished_run(federation)
