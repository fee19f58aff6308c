"""A coordinator that starts with an earlier clock than it had goes on at once, and its rounds end as ever."""

from __future__ import annotations

import pytest
from helpers.rig import Rig, ScriptedDevice, run_to_end
from helpers.tiny_job import job_toml
from structlog.testing import capture_logs

from fwdllm_server.store.assignments import AssignmentState

NAMES = ("a", "b")
TEN_MINUTES = 600.0


def started(folder, gather_s: float = 0) -> Rig:
    folder.mkdir()
    return Rig.create(folder, job_toml({"rounds": {"min_devices": 2, "gather_s": gather_s}}), NAMES)


@pytest.mark.parametrize("seconds", range(0, 8, 2))
def test_not_a_bit_is_different_wherever_it_happens(seconds, tmp_path):
    found = []
    for back in (0.0, TEN_MINUTES):
        rig, devices = started(tmp_path / f"back-{back}", gather_s=4), [ScriptedDevice(name) for name in NAMES]
        for _ in range(seconds):
            for device in devices:
                device.work(rig)
            rig.settle()
            rig.now += 1
        began, rig.now = rig.now, rig.now - back
        rig = run_to_end(rig, devices)
        found.append((rig.ledger_bytes(), rig.now - began + back))
        rig.database.close()

    (calm, needed), (turned_back, needed_then) = found
    assert turned_back == calm
    assert needed_then <= needed + 10  # no ten minutes


def test_who_is_silent_has_its_time_from_then_on(tmp_path):
    rig = started(tmp_path / "one")
    first, _ = rig.begin_round(*NAMES)
    rig.finish(first)
    rig.now -= TEN_MINUTES
    with capture_logs() as lines:
        rig.settle()

    assert rig.round.phase_since == rig.now
    assert [line["seconds"] for line in lines if "set back" in line["event"]] == [600]
    rig.later(rig.job.spec.rounds.assignment_s + 1)
    assert AssignmentState.EXPIRED in {work.state for work in rig.work_of_round()}


def test_clocks_of_two_coordinators_may_differ_a_little(tmp_path):
    rig = started(tmp_path / "one")
    rig.settle()
    since = rig.round.phase_since
    rig.now -= 30
    rig.settle()
    assert rig.round.phase_since == since
