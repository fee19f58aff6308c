"""A round waits a little for more devices than it needs."""

import pytest

from fwdllm_server.store.rounds import Phase


def cohort(rig):
    return [work.device_id for work in rig.work_of_round()]


@pytest.fixture
def rig(make_rig):
    return make_rig(min_devices=1, gather_s=5, max_devices=3)


def test_with_devices_enough_a_round_waits_for_more(rig):
    rig.later(100)  # nobody here
    rig.check_in("a")
    step = rig.settle()

    assert (rig.round.phase, step.look_again_s) == (Phase.SELECTING, 5)
    assert rig.round.reason == "waiting for more devices: 1 are here"


def test_who_comes_meanwhile_is_taken_too(rig):
    rig.check_in("a")
    rig.settle()
    rig.now += 3
    rig.check_in("b")
    assert rig.settle().look_again_s == 2
    rig.later(2)

    assert (rig.round.phase, cohort(rig)) == (Phase.ASSIGNED, ["a", "b"])


def test_a_round_that_is_full_waits_no_longer(rig):
    rig.check_in("a", "b", "c")
    rig.settle()

    assert cohort(rig) == ["a", "b", "c"]


def test_a_round_in_which_all_of_the_last_are_back_waits_no_longer(rig):
    rig.check_in("a", "b")
    rig.settle()
    rig.later(5)
    for work in rig.check_in("a", "b"):
        rig.finish(work)
    rig.settle()
    rig.check_in("a")
    rig.settle()
    assert (rig.round.number, rig.round.phase) == (2, Phase.SELECTING)
    rig.check_in("b")
    rig.settle()

    assert (rig.round.number, cohort(rig)) == (2, ["a", "b"])


def test_with_too_few_again_the_wait_begins_anew(make_rig):
    rig = make_rig(min_devices=2, gather_s=5)
    rig.check_in("a", "b")
    rig.settle()
    rig.presence.leave("b")
    rig.later(4)
    rig.check_in("b")

    assert rig.settle().look_again_s == 5


def test_a_coordinator_that_died_meanwhile_does_not_begin_the_wait_anew(rig):
    rig.check_in("a")
    rig.settle()
    again = type(rig)(rig.database, rig.artifacts, rig.now + 3)
    again.check_in("a")

    assert again.settle().look_again_s == 2


def test_without_gathering_a_round_begins_at_once(make_rig):
    rig = make_rig(min_devices=1, gather_s=0)
    rig.check_in("a")
    rig.settle()

    assert rig.round.phase == Phase.ASSIGNED
