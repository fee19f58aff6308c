"""kill -9 of the coordinator while devices initialise the head: the run begins at the same θ₀."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e.conftest import JOB
from helpers.federation import PROGRAMS, Federation, copy_federation

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, JOB_STATE_RUNNING

NAMES = ("device-1", "device-2")


@pytest.fixture(scope="module")
def headless(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation whose job waits for the sums of two devices, which have joined."""
    folder = tmp_path_factory.mktemp("headless")
    job = JOB.replace('pooling = "mean"', 'pooling = "mean"\nhead = "class-means"')
    job = job.replace("count = 6\nmin_devices = 2", "count = 2\nmin_devices = 1\nmax_devices = 2")
    (workplace / "class-means.toml").write_text(job)
    with Federation(folder) as federation:
        federation.command("fwdllm-server", "init", str(federation.server_folder), "--host", "localhost")
        federation.start_server()
        federation.server("job", "submit", str(workplace / "class-means.toml"))
        for name in NAMES:
            federation.join(name)
        federation.until("tiny", lambda job: job.round.phase == "initialising")
    return folder


@contextmanager
def copied(headless: Path, folder: Path) -> Iterator[Federation]:
    copy_federation(headless, folder)
    with Federation(folder) as federation:
        federation.move_devices(NAMES)
        federation.start_server()
        yield federation


def start_allowing(federation: Federation, name: str, workplace: Path) -> None:
    data, home = workplace / f"{name}.csv", federation.folder / name
    arguments = ("--data", data, "--home", home, "--threads", "1", "--allow-feature-sums")
    federation.start(name, PROGRAMS / "fwdllm-client", "run", *arguments)


def test_the_run_begins_at_the_same_weights(headless: Path, workplace: Path, tmp_path: Path) -> None:
    with copied(headless, tmp_path / "uninterrupted") as federation:
        for name in NAMES:
            start_allowing(federation, name, workplace)
        federation.until("tiny", lambda job: job.state == JOB_STATE_RUNNING)
        uninterrupted = federation.run_header()
    with copied(headless, tmp_path / "killed") as federation:
        start_allowing(federation, NAMES[0], workplace)
        federation.until("tiny", lambda job: "1 have sent" in job.round.reason)
        federation.kill("server")
        start_allowing(federation, NAMES[1], workplace)
        federation.start_server()
        federation.until("tiny", lambda job: job.state == JOB_STATE_RUNNING)
        assert federation.run_header() == uninterrupted

        federation.kill("server")
        federation.start_server()
        done = federation.until("tiny", lambda job: job.state == JOB_STATE_DONE)
        assert done.head_init == "class-means"
        assert done.initial_evaluation.accuracy > 0.8
        out = tmp_path / "adapter"
        federation.server("export", "tiny", "--out", str(out))
        assert (out / "adapter_model.safetensors").exists()
