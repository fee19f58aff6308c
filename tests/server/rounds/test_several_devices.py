"""Each direction measured by three devices: distinct ones, the middle counts, and a lost device is replaced."""

from collections import Counter

import numpy as np
import pytest
from helpers.rig import Rig, derivative
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.fixed_point import to_fixed_point
from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.rounds.distribution import Share
from fwdllm_server.store.rounds import Phase

THREE = {
    "blocks.peft": None,
    "blocks.head": {"directions": 12, "devices_per_direction": 3},
    "robust": {"clip": 0},
}
BOUNDS = {"count": 1, "min_devices": 3, "gather_s": 0, "assignment_s": 40, "deadline_s": 1000}
ABCD = ("a", "b", "c", "d")


@pytest.fixture
def rig(make_rig) -> Rig:
    return make_rig(THREE, **BOUNDS)


def expected(rig: Rig, seeds) -> list[int]:
    return [to_fixed_point(np.float32(derivative(int(seed)))) for seed in seeds]


def test_every_direction_goes_to_three_devices(rig):
    work = rig.begin_round(*ABCD)
    given_out = Counter(seed for each in work for seed in each.seeds)

    assert sorted(given_out) == rig.round.plan[0].seeds
    assert set(given_out.values()) == {3}
    assert all(len(set(each.seeds)) == len(each.seeds) == 9 for each in work)


def test_a_round_is_done_when_three_have_measured_each_and_the_middle_counts(rig):
    honest = rig.begin_round(*ABCD)
    rig.report(honest[0].id, [65536.0] * 9)
    for work in honest[1:3]:
        assert rig.finish(work).accepted == 9
    rig.settle()
    assert rig.round.phase == Phase.COLLECTING
    rig.finish(honest[3])
    rig.settle()
    (update,) = rig.ledger()[0].updates

    assert rig.round.phase == Phase.COMMITTED
    assert update.coefficients.tolist() == expected(rig, update.seeds)


def test_a_device_counts_once_for_a_direction(rig):
    a, *_ = rig.begin_round(*ABCD)
    rig.finish(a)
    response = rig.report(a.id, [5.0] * 9)

    assert (response.accepted, response.repeated) == (0, 9)


def test_what_a_lost_device_owes_goes_to_one_that_has_not_measured_it(rig):
    a, b, c, lost = rig.begin_round(*ABCD)
    for work in (a, b, c):
        rig.finish(work)
    rig.check_in("a", "b", "c", "e")
    rig.later(41)
    again = rig.check_in("a", "b", "c", "e")
    measured = {work.device_id: set(work.seeds) for work in (a, b, c)}

    assert again
    assert all(not measured.get(work.device_id, set()) & set(work.seeds) for work in again)
    assert sorted(seed for work in again for seed in work.seeds) == lost.seeds
    for work in again:
        rig.finish(work)
    rig.settle()
    assert rig.phases() == [Phase.COMMITTED]


def test_a_direction_that_two_have_measured_does_not_count_at_the_deadline(rig):
    a, b, c, _lost = rig.begin_round(*ABCD)
    for work in (a, b, c):
        rig.finish(work)
    rig.later(1001)
    complete = Counter(seed for work in (a, b, c) for seed in work.seeds)

    # Three of the twelve are complete: too few.
    assert sum(count == 3 for count in complete.values()) == 3
    assert rig.phases() == [Phase.ABANDONED, Phase.SELECTING]


def test_a_whole_round_of_three_devices(rig):
    for work in rig.begin_round("a", "b", "c"):
        assert rig.finish(work).stop is False
    rig.settle()

    assert rig.phases() == [Phase.COMMITTED]
    assert len(rig.ledger()[0].updates[0].seeds) == 12


@given(st.data())
def test_shares_have_no_direction_twice_and_none_that_is_had(data):
    count, copies = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    devices = [f"d{number}" for number in range(data.draw(st.integers(1, 6)))]
    plan = BlockPlan("head", (range(count),), count, 1e-3, 4, 0.1)
    had = {device: frozenset(data.draw(st.sets(st.integers(0, count)))) for device in devices[::2]}
    share = Share(plan, plan.seeds * copies, had)
    counts = [data.draw(st.integers(0, share.possible(device))) for device in devices]
    parts = share.parts(devices, counts)
    handed = Counter(seed for part in parts for seed in part)

    assert all(copies >= handed[seed] for seed in handed)
    for device, wanted, part in zip(devices, counts, parts, strict=True):
        assert len(set(part)) == len(part) <= wanted
        assert not had.get(device, frozenset()) & set(part)
