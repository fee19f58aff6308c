import pytest
from helpers.rig import JOB, Rig, ScriptedDevice

from fwdllm_server.coordinator.coordinator import set_extended
from fwdllm_server.store import ledger
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.ledger import EvaluationRecord

WATCHED = {"held_out": {"validation": 0.2}}


def run(rig: Rig, losses: list[float]) -> int:
    """Run until the job ends or no loss is left, and return the version.

    Each version has its validation loss before the next round begins, as in a simulation.
    """
    devices = [ScriptedDevice(name) for name in ("a", "b", "c")]
    while rig.record.state == JobState.RUNNING and rig.job.state.version < len(losses):
        for device in devices:
            device.work(rig)
        step = rig.machine.advance(rig.now)
        while step.moved and not step.job_ended:
            if step.state is not None and step.state.version <= len(losses):
                evaluate(rig, step.state.version, losses[step.state.version - 1])
            step = rig.machine.advance(rig.now)
        rig.now += 1
    return rig.job.state.version


def evaluate(rig: Rig, version: int, loss: float) -> None:
    record = EvaluationRecord(version, 0.5, 0.7, 10, validation_accuracy=0.5, validation_loss=loss)
    with rig.database.transaction() as connection:
        ledger.add_evaluation(connection, JOB, record)


@pytest.fixture
def make(make_rig):
    return lambda **rounds: make_rig(WATCHED, count=10, **rounds)


def test_a_job_ends_when_its_validation_loss_falls_no_more(make):
    rig = make(patience=2)

    assert run(rig, [0.9, 0.5, 0.6, 0.7, 0.4]) == 4
    assert rig.record.state == JobState.DONE
    assert rig.record.message == (
        "stopped early: none of the 2 rounds after version 2 has a lower validation loss than its 0.5000"
    )


def test_it_goes_on_while_the_loss_falls_now_and_then(make):
    rig = make(patience=3)

    assert run(rig, [0.9, 0.95, 0.99, 0.8, 0.85, 0.7]) >= 6
    assert rig.record.state == JobState.RUNNING


def test_a_loss_that_is_not_finite_is_no_best_one(make):
    rig = make(patience=2)

    assert run(rig, [float("nan"), 0.5, float("inf"), 0.6]) == 4
    assert "after version 2" in rig.record.message


def test_without_patience_no_job_ends_early(make):
    rig = make()

    assert run(rig, [0.1, 0.2, 0.3, 0.4, 0.5]) >= 5
    assert rig.record.state == JobState.RUNNING


def test_a_job_that_is_extended_has_its_patience_anew(make):
    rig = make(patience=2)
    losses = [0.9, 0.5, 0.6, 0.7, 0.8, 0.9, 0.4]
    assert run(rig, losses) == 4
    with rig.database.transaction() as connection:
        set_extended(connection, JOB, 5, rig.now)

    again = Rig(rig.database, rig.artifacts, rig.now)
    assert run(again, losses) == 6
    assert again.record.message == (
        "stopped early: none of the 2 rounds after version 4 has a lower validation loss than version 2's 0.5000"
    )
