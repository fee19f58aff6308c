"""A device whose scalars are noise: its assignment goes to others, and it is not asked again for a day."""

from __future__ import annotations

from math import inf, nan

import pytest
from helpers.rig import JOB

from fwdllm_server.rounds import known_answers
from fwdllm_server.rounds.known_answers import MIN_SIGNAL_TO_NOISE, RETEST_S
from fwdllm_server.store import assignments, jobs, rounds
from fwdllm_server.store.rounds import Phase
from fwdllm_server.views.job_status import job_message


def tell(rig, work, signal_to_noise):
    with rig.database.transaction() as connection:
        expires_at = rig.job.expiry(rounds.latest(connection, JOB).phase_since, rig.now)
        record = assignments.get(connection, work.id)
        return known_answers.record(connection, record, signal_to_noise, expires_at, rig.now)


def status(rig):
    with rig.database.transaction() as connection:
        return job_message(connection, jobs.get(connection, JOB), rig.now)


@pytest.mark.parametrize("good", [MIN_SIGNAL_TO_NOISE, 1e6])
def test_a_good_device_goes_on(make_rig, good):
    rig = make_rig(min_devices=1)
    (work,) = rig.begin_round("a")
    assert tell(rig, work, good)
    assert rig.finish(work).accepted == len(work.seeds)
    assert [(device.device_id, device.signal_to_noise, device.noisy) for device in status(rig).devices] == [
        ("a", good, False)
    ]


def test_a_known_answer_test_is_news_that_prolongs_the_assignment(make_rig):
    rig = make_rig(min_devices=1)
    (work,) = rig.begin_round("a")
    almost_s = rig.job.spec.rounds.assignment_s - 1
    rig.later(almost_s)
    assert tell(rig, work, 100.0)
    rig.later(almost_s)
    assert rig.finish(work).accepted == len(work.seeds)


def test_only_the_first_known_answer_test_of_an_assignment_prolongs_it(make_rig):
    """Else a device could hold its part of the round for as long as it likes."""
    rig = make_rig(min_devices=1)
    (work,) = rig.begin_round("a")
    rig.later(1)
    tell(rig, work, 100.0)
    expires_at = rig.work_of_round()[0].expires_at
    rig.later(1)
    tell(rig, work, 100.0)

    assert rig.work_of_round()[0].expires_at == expires_at


@pytest.mark.parametrize("bad", [0.0, MIN_SIGNAL_TO_NOISE * 0.999, -1.0, nan, inf])
def test_a_noisy_device_loses_its_assignment(make_rig, bad):
    rig = make_rig(min_devices=1)
    (work,) = rig.begin_round("a")
    assert not tell(rig, work, bad)
    assert (rig.finish(work).late, rig.check_in("a")) == (len(work.seeds), [])
    (device,) = status(rig).devices
    assert (device.noisy, device.scalars) == (True, 0)
    assert device.signal_to_noise < MIN_SIGNAL_TO_NOISE


def test_others_do_its_work_and_later_rounds_leave_it_out(make_rig):
    rig = make_rig(count=3, min_devices=2)
    noisy, good = rig.begin_round("a", "b")
    tell(rig, noisy, 0.5)
    rig.finish(good)
    for _ in range(6):
        rig.later(1)
        for work in rig.check_in("a", "b", "c"):
            rig.finish(work)
    assert rig.job.state.version > 0
    assert {work.device_id for work in rig.work_of_round()} <= {"b", "c"}


def test_the_operator_reads_why_a_round_waits_and_a_day_later_it_is_asked_again(make_rig):
    rig = make_rig(min_devices=1, deadline_s=1.0)
    (work,) = rig.begin_round("a")
    tell(rig, work, 0.5)
    while rig.round.phase != Phase.SELECTING:
        rig.later(1)
    rig.check_in("a")
    rig.settle()
    assert rig.round.reason == (
        "waiting for devices: 0 of 1 are here; 1 failed the known-answer test and are not used, 'job show' names them"
    )
    rig.now += RETEST_S
    rig.check_in("a")
    rig.settle()
    assert [work.device_id for work in rig.work_of_round()] == ["a"]
