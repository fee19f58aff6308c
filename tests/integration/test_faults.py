"""Bytes and messages are lost, repeated, swapped, late and cut off, thousands of times in one run.

No scalar is lost after its acknowledgement and none is counted twice (DESIGN §2, invariant 4).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from helpers.faulty_proxy import FaultyProxy
from helpers.faulty_wire import FaultyWire
from helpers.journaled_device import JournaledDevice
from helpers.modelless import home_with_job
from helpers.serving import Serving, serving

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, Job
from fwdllm_client.connection import transport
from fwdllm_common.ledger import LedgerEntry
from fwdllm_server.store import job_devices, jobs

NAMES = ("device-1", "device-2")
HEAD, PEFT = 12, 8  # directions of a round
MESSAGE_KINDS = ("lost answer", "lost request", "duplicate", "delay", "reorder", "half-close")
MESSAGE_RATE, WIRE_RATE = 0.2, 0.05


@pytest.fixture(autouse=True)
def _reconnect_at_once(monkeypatch):
    backoff = (("grpc.initial_reconnect_backoff_ms", 5), ("grpc.max_reconnect_backoff_ms", 20))
    kept = [option for option in transport.AGENT_OPTIONS if "reconnect" not in option[0]]
    monkeypatch.setattr(transport, "AGENT_OPTIONS", (*kept, *backoff))
    monkeypatch.setenv("FWDLLM_LIMITS__CALLS_PER_S", "1000000")
    monkeypatch.setenv("FWDLLM_LIMITS__IDLE_S", "5")  # a lost message leaves a call that nobody goes on with


@asynccontextmanager
async def at_work(server: Serving, per_message: int):
    """Two devices that go on until the block ends."""
    devices = [JournaledDevice(server.client_home(name), per_message) for name in NAMES]
    async with asyncio.TaskGroup() as both:
        for device in devices:
            both.create_task(asyncio.to_thread(device.run))
        try:
            yield
        finally:
            for device in devices:
                device.stop()


async def until_done(server: Serving) -> Job:
    while (job := await server.job()).state != JOB_STATE_DONE:
        await server.runtime.change(1.0)
    return job


async def calm_ledger(folder: Path, rounds: int) -> list[bytes]:
    """The ledger of a run that nothing disturbs."""
    async with serving(home_with_job(folder / "server", count=rounds)) as server:
        await server.join(*NAMES)
        async with at_work(server, per_message=64):
            await until_done(server)
        return server.ledger()


def move(server: Serving, addresses: dict[str, str]) -> None:
    """Tell devices where to connect to."""
    for name, address in addresses.items():
        file = server.client_home(name).folder / "identity.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"device_address": address}))


async def troubled(server: Serving) -> Counter[str]:
    """A run in which both the bytes and the messages of each device meet faults; how many there were."""
    faults: Counter[str] = Counter()
    with ExitStack() as stack:
        async with AsyncExitStack() as wires:
            proxies, lines = [], []
            for seed, name in enumerate(NAMES):
                home = server.client_home(name)
                proxy = FaultyProxy(home.folder, server.home.folder, MESSAGE_RATE, seed)
                proxies.append(await asyncio.to_thread(stack.enter_context, proxy))
                port = int(home.load_identity().device_address.rpartition(":")[2])
                wire = await wires.enter_async_context(FaultyWire(port, WIRE_RATE, seed))
                lines.append(wire)
                move(server, {name: f"localhost:{wire.port}"})
            async with at_work(server, per_message=1):
                await until_done(server)
            for each in (*proxies, *lines):
                faults += each.faults
        await asyncio.to_thread(stack.close)
    return faults


def accepted(server: Serving) -> int:
    """Scalars that were counted, by all devices."""
    with server.runtime.database.transaction() as connection:
        record = jobs.find(connection, "tiny")
        assert record is not None
        return sum(row.scalars for row in job_devices.of_job(connection, record.id))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("rounds", "least"),
    [
        pytest.param(6, 300, id="hundreds"),
        pytest.param(160, 10_000, id="ten thousand", marks=pytest.mark.timeout(3600)),
    ],
)
async def test_faults_change_no_bit(tmp_path, rounds, least):
    undisturbed = await calm_ledger(tmp_path / "calm", rounds)
    async with serving(home_with_job(tmp_path / "troubled" / "server", count=rounds)) as server:
        await server.join(*NAMES)
        faults = await troubled(server)
        job = await server.job()
        found, counted = server.ledger(), accepted(server)

    print(f"{sum(faults.values())} faults:", dict(sorted(faults.items())))
    assert found == undisturbed
    assert counted == job.directions == rounds * (HEAD + PEFT)
    assert job.scalars_unusable == 0  # a copy that arrives after its round has closed counts as late, and for nothing
    assert sum(faults.values()) >= least
    assert min(faults[kind] for kind in (*MESSAGE_KINDS, *FaultyWire.KINDS)) > 0
    for data in found:
        for update in LedgerEntry.from_bytes(data).updates:
            first = int(update.seeds[0])
            assert update.seeds.tolist() == list(range(first, first + (HEAD if update.block == "head" else PEFT)))
