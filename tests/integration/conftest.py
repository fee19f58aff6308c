"""One tiny job, submitted and prepared once over the wire; every test runs a copy of that server."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import JOB, Clock, ScriptedDevice, Serving, change_job, serving
from helpers.tiny_job import job_toml
from helpers.tiny_text import LABELS, save_tiny_model, write_rows
from server.rpc.loopback import make_home

from fwdllm.v1.operator_pb2 import SubmitJobRequest
from fwdllm_server.config.home import ServerHome

DEVICES = ("device-1", "device-2", "device-3", "device-4")

SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "job": {"name": JOB, "seed": 3},
    "robust": {"clip": 0},  # scripted devices say what no gradient would
    "model": {"source": "model", "labels": list(LABELS), "max_tokens": 16, "pooling": "mean"},
    "peft": {"rank": 2, "layers": [-1]},
    "held_out": {"file": "held_out.csv"},
    "optimizer": {"kind": "sgd"},
    "rounds": {"count": 2, "min_devices": 1, "evaluate_every": 1, "accept_s": 50.0, "deadline_s": 100.0},
    "blocks.head": {"directions": 12, "batch_size": 8, "learning_rate": 0.1},
    "blocks.peft": {"directions": 8, "batch_size": 8, "learning_rate": 0.01},
}


@pytest.fixture(scope="session")
def quick() -> Iterator[None]:
    """Come back at once, and ask no model hub."""
    changes = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "FWDLLM_LIMITS__CALLS_PER_S": "1000000"}
    for key in ("BUSY_MIN_MS", "IDLE_MIN_MS"):
        changes[f"FWDLLM_CHECK_IN__{key}"] = "5"
    for key in ("BUSY_MAX_MS", "IDLE_MAX_MS"):
        changes[f"FWDLLM_CHECK_IN__{key}"] = "20"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setitem(os.environ, name, value)
        yield


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that job files start from, with the tiny model and the data of coordinator and devices."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model(folder / "model")
    write_rows(folder / "held_out.csv", 30, seed=0)
    for number, name in enumerate(DEVICES, start=1):
        write_rows(folder / f"{name}.csv", 20 + number, seed=number)
    return folder


@pytest.fixture(scope="session")
def prepared(quick: None, workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a server whose job waits for devices, and the homes of four devices that have joined it."""
    folder = tmp_path_factory.mktemp("prepared")

    async def prepare() -> None:
        async with serving(make_home(folder / "server")) as server:
            await server.operator.SubmitJob(SubmitJobRequest(spec_toml=job_toml(SECTIONS), base_folder=str(workplace)))
            await server.join(*DEVICES)
            await server.until_evaluated(timeout_s=900)

    asyncio.run(prepare())
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder."""
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def start(folder: Path, clock: Clock) -> AsyncIterator[Callable[..., Awaitable[Serving]]]:
    """Starts the copy, with these keys of the job's ``[rounds]`` and other ``sections``."""
    async with AsyncExitStack() as stack:

        async def start(sections: Mapping[str, Mapping[str, Any]] = {}, **rounds: Any) -> Serving:
            home = ServerHome.open(folder / "server")
            change_job(home, {"rounds": rounds, **sections})
            return await stack.enter_async_context(serving(home, clock))

        yield start


@pytest.fixture
async def server(start: Callable[..., Awaitable[Serving]]) -> Serving:
    """The copy, running."""
    return await start()


@pytest.fixture
async def device(server: Serving) -> ScriptedDevice:
    return await server.device("device-1")


@pytest.fixture
async def other(server: Serving) -> ScriptedDevice:
    return await server.device("device-2")
