"""No device holds a round: what is late is measured by others too, and the first scalar counts."""

import pytest
from helpers.rig import derivative
from helpers.timed_device import PASSES, TimedDevice, directions_by_device, seconds_of_rounds

from fwdllm.v1.device_pb2 import ResourceUsage
from fwdllm_server.rounds.load import Load
from fwdllm_server.rounds.reassignment import Held, straggler_tails
from fwdllm_server.store.rounds import Phase

HEAD_ONLY = {"blocks.peft": None, "blocks.head": {"directions": 60}}
ABC = ("a", "b", "c")

# whose directions are taken over: 1 pass a direction, speeds in directions a second


def ends_of(helpers, **waiting):
    """``waiting`` are speed, directions owed and seconds without news of each device."""
    held, seed = [], 0
    for device, (_, owed, silent_s) in waiting.items():
        held.append(Held(device, [(seed + i, "head") for i in range(owed)], silent_s, 1e9))
        seed += 1000
    load = Load({device: speed for device, (speed, _, _) in waiting.items()}, {"head": 1.0}, measured=True)
    return sorted(seed for seed, _ in straggler_tails(held, load, helpers))


def test_who_is_nearly_done_is_left_alone():
    """It will be done before an idle device is at work."""
    assert ends_of([10.0], a=(2, 10, 0)) == []


def test_equal_devices_share_what_is_left_after_the_time_to_come():
    """100 directions: 50 s for one device. With a helper from the 5th second on, 55 and 45 take 27.5 s each."""
    assert ends_of([2.0], a=(2, 100, 0)) == list(range(55, 100))


def test_a_fast_helper_takes_nearly_all_from_a_slow_device():
    assert ends_of([10.0], a=(0.3, 50, 0)) == list(range(2, 50))


def test_the_one_direction_of_a_slow_device_is_taken_over():
    assert ends_of([2.0], a=(0.04, 1, 13)) == [0]


def test_the_one_direction_of_a_device_that_is_soon_done_is_not():
    assert ends_of([2.0], a=(0.04, 1, 20)) == []


def test_a_helper_that_is_slower_than_the_wait_is_of_no_use():
    assert ends_of([0.05], a=(0.1, 1, 0)) == []


def test_help_goes_where_it_takes_longest():
    taken = ends_of([2.0, 2.0], a=(2, 20, 0), b=(0.5, 30, 0))

    assert taken
    assert all(seed >= 1000 for seed in taken)


def test_time_without_news_is_time_at_work():
    assert ends_of([2.0], a=(2, 100, 30)) == list(range(85, 100))
    assert ends_of([2.0], a=(2, 100, 45)) == []


def test_what_two_have_at_hand_is_not_given_to_a_third():
    directions = [(seed, "head") for seed in range(50)]
    held = [Held("a", directions, 0, 1e9), Held("b", directions[1:], 0, 1e9)]

    assert list(straggler_tails(held, Load({"a": 0.1, "b": 0.1}, {"head": 1.0}, True), [10.0])) == [directions[0]]


# in a round


def report(rig, work, count, seconds, first=0):
    """So many scalars, each after so many seconds."""
    usage = ResourceUsage(seconds=seconds * count, example_passes=PASSES * count)
    return rig.report(work.id, [derivative(seed) for seed in work.seeds[first : first + count]], first, usage)


@pytest.fixture
def slow_c(make_rig):
    """a and b are done after 10 seconds, c has sent 2 of its 20 directions."""
    rig = make_rig(HEAD_ONLY, count=1, assignment_s=100, deadline_s=1000)
    a, b, c = rig.begin_round(*ABC)
    rig.now += 10
    for work, count in ((a, 20), (b, 20), (c, 2)):
        report(rig, work, count, 10 / count)
    rig.check_in("a", "b")
    return rig, c


def test_who_is_done_measures_the_end_of_what_others_are_slow_with(slow_c):
    rig, c = slow_c
    rig.settle()
    helping = rig.check_in("a", "b")

    taken = [seed for work in helping for seed in work.seeds]
    assert {work.device_id for work in helping} == {"a", "b"}
    assert taken == c.seeds[-len(taken) :]
    assert len(taken) == 17  # one is left to c for the nine seconds that this takes


def test_the_slow_device_goes_on_and_what_it_sends_counts(slow_c):
    rig, c = slow_c
    rig.settle()

    assert report(rig, c, 9, 5, first=2).accepted == 9


def test_the_first_scalar_counts_and_the_second_is_a_repeated_one(slow_c):
    rig, c = slow_c
    rig.settle()
    for work in rig.check_in("a", "b"):
        rig.finish(work)
    response = report(rig, c, 10, 5, first=2)

    assert (response.accepted, response.repeated) == (1, 9)


def test_who_has_nothing_left_to_measure_is_told_to_stop(slow_c):
    rig, c = slow_c
    rig.settle()
    for work in rig.check_in("a", "b"):
        rig.finish(work)
    response = report(rig, c, 1, 5, first=2)
    assert (response.accepted, response.stop) == (1, True)
    rig.settle()

    assert rig.phases() == [Phase.COMMITTED]
    assert len(rig.ledger()[0].updates[0].seeds) == 60


def test_nobody_is_helped_twice_with_the_same(slow_c):
    rig, _c = slow_c
    rig.settle()
    before = len(rig.work_of_round())
    rig.later(1)

    assert len(rig.work_of_round()) == before


def test_only_devices_of_the_round_help(slow_c):
    """A new one would have to fetch the model first."""
    rig, _c = slow_c
    for device in ("a", "b"):
        rig.presence.leave(device)
    rig.check_in("d")
    rig.settle()

    assert {work.device_id for work in rig.work_of_round()} == set(ABC)


def test_a_helper_that_falls_silent_is_not_counted_on(slow_c):
    rig, c = slow_c
    rig.settle()
    (helping,) = rig.check_in("a")
    b = rig.check_in("b")[0]
    report(rig, b, b.directions, 0.5)
    rig.now += 20
    report(rig, c, 1, 20, first=2)
    rig.now += 10
    rig.check_in("b")
    rig.settle()
    (again,) = rig.check_in("b")

    assert again.seeds[-len(helping.seeds) + 1 :] == helping.seeds[1:]  # with one more left to c in 10 s and 5


def test_an_assignment_without_news_for_a_quarter_of_its_time_is_measured_by_others_too(make_rig):
    rig = make_rig(HEAD_ONLY, count=1, assignment_s=40, deadline_s=1000)
    a, b, silent = rig.begin_round(*ABC)
    rig.finish(a)
    rig.finish(b)
    rig.check_in("a", "b")
    assert rig.settle().look_again_s == 10
    rig.later(10)
    again = rig.check_in("a", "b")
    assert sorted(seed for work in again for seed in work.seeds) == silent.seeds

    assert rig.finish(silent).accepted == 20  # it was only slow, and the first
    rig.settle()
    assert rig.phases() == [Phase.COMMITTED]


def test_who_needs_long_may_be_silent_for_long(make_rig):
    """Its 20 directions take 20 seconds at the measured speed; after 40 something is wrong."""
    rig = make_rig(HEAD_ONLY, count=1, assignment_s=100, deadline_s=1000)
    a, b, c = rig.begin_round(*ABC)
    for work, count in ((a, 20), (b, 20), (c, 1)):
        report(rig, work, count, 1)
    rig.presence.leave("a")
    rig.check_in("d")

    assert rig.settle().look_again_s == pytest.approx(2 * 19)


def test_a_device_that_does_not_fetch_its_assignment_does_not_hold_a_round_that_is_done(make_rig):
    rig = make_rig(HEAD_ONLY, count=1, min_devices=1, accept_s=1000, assignment_s=40, deadline_s=1000)
    rig.check_in(*ABC)
    rig.settle()
    for work in rig.check_in("a", "b"):
        rig.finish(work)
    rig.check_in("a", "b")
    rig.settle()
    assert (rig.round.phase, [work.state for work in rig.work_of_round()]) == (
        Phase.COLLECTING,
        ["done", "done", "offered"],
    )
    rig.later(10)
    for work in rig.check_in("a", "b"):
        rig.finish(work)
    rig.settle()

    assert rig.phases() == [Phase.COMMITTED]


# rounds of devices that take their time; all equal, 100 directions take 10 seconds

TIMES = {"blocks.peft": None, "blocks.head": {"directions": 100}}
BOUNDS = {"count": 99, "min_devices": 1, "max_devices": 5, "gather_s": 2, "assignment_s": 60.0, "deadline_s": 3000.0}
QUICK_S = 100 / 8
"""What four of the five devices need."""


def fleet(*directions_per_s):
    return [TimedDevice(name, speed) for name, speed in zip("abcde", directions_per_s, strict=True)]


def test_a_straggler_costs_the_first_round_less_than_an_expiry(make_rig):
    """Left to itself it would take 500 seconds for its 20 directions."""
    (first,) = seconds_of_rounds(make_rig(TIMES, **BOUNDS), fleet(2, 2, 2, 2, 0.04), 1)

    assert first < 10 + BOUNDS["assignment_s"] / 2


def test_a_straggler_does_not_lengthen_rounds_once_its_speed_is_known(make_rig):
    rig = make_rig(TIMES, **BOUNDS)
    later = seconds_of_rounds(rig, fleet(2, 2, 2, 2, 0.04), 9)[1:]

    assert max(later) <= QUICK_S + 4  # a second each to fetch, to report, and for what the straggler began
    assert rig.record.scalars_repeated == 0


def test_rounds_of_unlike_devices_take_as_long_as_their_speeds_together_allow(make_rig):
    later = seconds_of_rounds(make_rig(TIMES, **BOUNDS), fleet(4, 2, 1, 0.5, 0.25), 8)[2:]

    assert max(later) <= 100 / 7.75 + 5


def test_a_device_that_becomes_slow_is_found_out_within_a_few_rounds(make_rig):
    rig = make_rig(TIMES, **BOUNDS)
    devices = fleet(2, 2, 2, 2, 2)
    seconds_of_rounds(rig, devices, 5)
    devices[4].directions_per_s = 0.2
    hot = seconds_of_rounds(rig, devices, 4)

    assert hot[0] <= 40  # 100 by itself
    assert hot[-1] <= QUICK_S + 4
    assert directions_by_device(rig, 9).get("e", 0) <= 5


def test_a_device_that_becomes_fast_again_gets_its_part_again(make_rig):
    rig = make_rig({**TIMES, "blocks.head": {"directions": 400}}, **BOUNDS)
    devices = fleet(2, 2, 2, 2, 0.2)
    seconds_of_rounds(rig, devices, 2)
    devices[4].directions_per_s = 2
    seconds_of_rounds(rig, devices, 3)

    assert directions_by_device(rig, 5)["e"] > 60
