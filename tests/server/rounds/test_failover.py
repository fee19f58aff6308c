"""A coordinator that takes a job over goes on at once, whatever its clock says, and the rounds end as ever."""

from __future__ import annotations

import pytest
from helpers.rig import Rig, ScriptedDevice, run_to_end
from helpers.tiny_job import job_toml

from fwdllm_server.rounds.failover import resume_after_failover
from fwdllm_server.store.assignments import AssignmentState

NAMES = ("a", "b")
TEN_MINUTES = 600.0


def started(folder, gather_s: float = 0) -> Rig:
    folder.mkdir()
    return Rig.create(folder, job_toml({"rounds": {"min_devices": 2, "gather_s": gather_s}}), NAMES)


def another(rig: Rig, later_s: float) -> Rig:
    """The coordinator after this one, which begins so many seconds later, or earlier, by its own clock."""
    new = Rig(rig.database, rig.artifacts, rig.now + later_s)
    with new.database.transaction() as connection:
        resume_after_failover(connection, new.job, new.now)
    return new


@pytest.mark.parametrize("later_s", [0.0, TEN_MINUTES, -TEN_MINUTES])
@pytest.mark.parametrize("seconds", range(0, 8, 2))
def test_not_a_bit_is_different_wherever_it_happens(seconds, later_s, tmp_path):
    found = []
    for taken_over in (False, True):
        rig, devices = started(tmp_path / f"taken-over-{taken_over}", 4), [ScriptedDevice(name) for name in NAMES]
        for _ in range(seconds):
            for device in devices:
                device.work(rig)
            rig.settle()
            rig.now += 1
        if taken_over:
            rig = another(rig, later_s)
        began = rig.now
        rig = run_to_end(rig, devices)
        found.append((rig.ledger_bytes(), rig.now - began))
        rig.database.close()

    (calm, needed), (taken_over, needed_then) = found
    assert taken_over == calm
    assert needed_then <= needed + 10  # no ten minutes


@pytest.mark.parametrize("later_s", [TEN_MINUTES, -TEN_MINUTES])
def test_who_is_silent_has_its_time_from_then_on(later_s, tmp_path):
    rig = started(tmp_path / "one")
    first, _ = rig.begin_round(*NAMES)
    rig.finish(first)
    rig = another(rig, later_s)
    rig.settle()

    assert rig.round.phase_since == rig.now
    assert AssignmentState.EXPIRED not in {work.state for work in rig.work_of_round()}
    rig.later(rig.job.spec.rounds.assignment_s + 1)
    assert AssignmentState.EXPIRED in {work.state for work in rig.work_of_round()}


def test_a_job_without_a_round_has_nothing_to_go_on_with(tmp_path):
    rig = another(started(tmp_path / "one"), TEN_MINUTES)
    rig.settle()
    assert rig.round.number == 1
