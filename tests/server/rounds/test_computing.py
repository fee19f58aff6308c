"""What takes long is computed between the transactions of a step, and comes out the same."""

from pathlib import Path

import pytest
from helpers.rig import Rig, ScriptedDevice
from helpers.tiny_job import job_toml

from fwdllm_server.rounds.computing import ComputationDue, Desk
from fwdllm_server.store.database import Database
from fwdllm_server.store.jobs import JobState


def test_a_result_is_computed_at_once_or_when_it_is_due() -> None:
    desk = Desk()
    assert desk.result("sum", lambda: 1 + 1, defer=False) == 2
    with pytest.raises(ComputationDue) as caught:
        desk.result("product", lambda: 2 * 3, defer=True)
    caught.value.compute()
    assert desk.result("product", lambda: pytest.fail("computed again"), defer=True) == 6
    with pytest.raises(ComputationDue):
        desk.result("another", lambda: 0, defer=True)


def test_no_transaction_is_open_while_a_round_is_computed(tmp_path: Path) -> None:
    plain, deferred = (_trained(tmp_path / name, defer) for name, defer in (("plain", False), ("deferred", True)))
    assert plain.ledger_bytes() == deferred.ledger_bytes()
    assert len(plain.ledger()) == 2


def _trained(folder: Path, defer: bool) -> Rig:
    folder.mkdir()
    rig = Rig.create(folder, job_toml())
    devices, computed = [ScriptedDevice(name) for name in ("a", "b", "c")], 0
    while rig.record.state == JobState.RUNNING:
        step = rig.machine.advance(rig.now, defer)
        if step.due is not None:
            _write_meanwhile(rig.database)
            step.due()
            computed += 1
        elif not step.moved:
            rig.evaluate()
            for device in devices:
                device.work(rig)
            rig.now += 1
            assert rig.now < 2000, "the job does not come to its end"
    assert computed == (6 if defer else 0)  # a plan, a verdict and a commit in each of two rounds
    return rig


def _write_meanwhile(database: Database) -> None:
    with database.transaction() as connection:  # would wait, and then fail, for another that is open
        connection.exec_driver_sql("UPDATE devices SET last_seen_at = 1")
