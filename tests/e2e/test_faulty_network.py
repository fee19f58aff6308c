"""Messages are lost, repeated and late, agents are killed; every scalar counts once (DESIGN §2, invariant 4)."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from helpers.faulty_proxy import FaultyProxy
from helpers.federation import Federation
from helpers.scripted_device import ScriptedDevice

from fwdllm.v1.device_pb2 import ReportRequest
from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, Job
from fwdllm_common.ledger import LedgerEntry

DEVICES = ("device-1", "device-2")


def is_done(job: Job) -> bool:
    return job.state == JOB_STATE_DONE


def assert_each_direction_counted_once(federation: Federation) -> None:
    for data in federation.ledger():
        for update in LedgerEntry.from_bytes(data).updates:
            wanted = 160 if update.block == "head" else 24
            assert sorted(update.seeds.tolist()) == list(range(int(update.seeds[0]), int(update.seeds[0]) + wanted))


def test_a_faulty_network_changes_no_bit(federation: Federation, uninterrupted: list[bytes]) -> None:
    federation.start_server()
    with ExitStack() as stack:
        proxies = [
            stack.enter_context(FaultyProxy(federation.folder / name, federation.server_folder, rate=0.1, seed=seed))
            for seed, name in enumerate(DEVICES)
        ]
        devices = [ScriptedDevice(federation.folder / name, lambda: None) for name in DEVICES]
        for device in devices:
            stack.callback(device.stop)
            device.start()
        job = federation.until("tiny", is_done)
    federation.kill("server")
    assert federation.ledger() == uninterrupted
    assert job.scalars_repeated > 0
    injected = sum((proxy.faults for proxy in proxies), start=proxies[0].faults.__class__())
    assert min(injected[kind] for kind in ("lost answer", "lost request", "duplicate", "delay")) > 0, injected


def test_real_agents_finish_over_a_faulty_network(federation: Federation, workplace: Path) -> None:
    federation.start_server()
    with ExitStack() as stack:
        for seed, name in enumerate(DEVICES):
            stack.enter_context(FaultyProxy(federation.folder / name, federation.server_folder, rate=0.05, seed=seed))
            federation.start_agent(name, workplace / f"{name}.csv")
        federation.until("tiny", is_done)
        for name in DEVICES:
            federation.kill(name)
    assert_each_direction_counted_once(federation)


def test_an_agent_killed_before_the_acknowledgement_sends_again_and_measures_nothing_twice(
    federation: Federation, workplace: Path
) -> None:
    federation.start_server()
    with FaultyProxy(federation.folder / "device-1", federation.server_folder, rate=0.0) as proxy:
        proxy.lose_reports = True
        for name in DEVICES:
            federation.start_agent(name, workplace / f"{name}.csv")
        assert proxy.report_lost.wait(60), federation.logs()
        federation.kill("device-1")
        home = federation.folder / "device-1"
        status = json.loads(federation.command("fwdllm-client", "status", "--home", str(home), "--json"))
        assert status["unacknowledged_scalars"] > 0
        proxy.lose_reports = False
        federation.start_agent("device-1", workplace / "device-1.csv")
        job = federation.until("tiny", is_done)
        for name in DEVICES:
            federation.kill(name)
    lost, passed = (ReportRequest.FromString(messages[0]) for messages in (proxy.lost, proxy.passed))
    assert passed.derivatives == lost.derivatives
    # Nobody measures the same seconds of computing twice.
    assert passed.usage.seconds == lost.usage.seconds > 0
    assert job.directions == 6 * 160 + 3 * 24
    assert_each_direction_counted_once(federation)
