"""What takes long is computed between the transactions of a step, and comes out the same."""

from collections.abc import Callable
from pathlib import Path

from helpers.rig import Rig, ScriptedDevice
from helpers.tiny_job import job_toml

from fwdllm_server.rounds.context import Computation
from fwdllm_server.store import rounds
from fwdllm_server.store.jobs import JobState


def test_no_transaction_is_open_while_a_round_is_computed(tmp_path: Path) -> None:
    plain, _ = _trained(tmp_path / "plain", lambda _: None)
    apart, computed = _trained(tmp_path / "apart", _write)
    assert plain.ledger_bytes() == apart.ledger_bytes()
    assert len(plain.ledger()) == 2
    assert computed == 6  # a plan, a verdict and a commit in each of two rounds


def test_what_was_computed_for_a_round_that_has_changed_meanwhile_is_not_applied(tmp_path: Path) -> None:
    plain, _ = _trained(tmp_path / "plain", lambda _: None)
    changed, computed = _trained(tmp_path / "changed", _change_once())
    assert changed.ledger_bytes() == plain.ledger_bytes()
    assert computed == 7


def _trained(folder: Path, meanwhile: Callable[[Rig], None]) -> tuple[Rig, int]:
    """Run a job; do something between reading and applying. Return how often something was computed."""
    folder.mkdir()
    rig = Rig.create(folder, job_toml())
    devices, computed = [ScriptedDevice(name) for name in ("a", "b", "c")], 0
    while rig.record.state == JobState.RUNNING:
        step = rig.machine.read(rig.now)
        if isinstance(step, Computation):
            meanwhile(rig)
            step = rig.machine.apply(step, step.compute(), rig.now)
            computed += 1
        if not step.moved:
            rig.evaluate()
            for device in devices:
                device.work(rig)
            rig.now += 1
            assert rig.now < 2000, "the job does not come to its end"
    return rig, computed


def _write(rig: Rig) -> None:
    with rig.database.transaction() as connection:  # would wait, and then fail, for another that is open
        connection.exec_driver_sql("UPDATE devices SET last_seen_at = 1")


def _change_once() -> Callable[[Rig], None]:
    reasons = ["changed"]

    def change(rig: Rig) -> None:
        if reasons:
            current = rig.round
            with rig.database.transaction() as connection:
                rounds.set_reason(connection, current, reasons.pop())

    return change
