"""Whole days: the device never works while it may not, gives back within a direction, comes back and loses nothing."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from client.agent.simulated_day import DAY_S, DIRECTIONS, Day, Timeline
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fwdllm_client.conditions import Conditions, Thermal
from fwdllm_client.conditions.rules import SESSION_S
from fwdllm_client.policy.permission import READ_EVERY_S

SOON_S = 1000.0
"""A device that may work does so by then: it settles, looks every other minute, and may have a direction to end."""

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A day's work is thousands of fsyncs."""

CONDITIONS = st.builds(
    Conditions,
    st.sampled_from([True, True, True, False, None]),
    st.none() | st.sampled_from([10.0, 24.0, 27.0, 30.0, 55.0, 100.0]),
    st.sampled_from([False, False, False, True, None]),
    st.none() | st.sampled_from([Thermal.NONE, Thermal.NONE, Thermal.LIGHT, Thermal.MODERATE, Thermal.SEVERE]),
)
STRETCHES = st.lists(st.tuples(st.floats(30, 6 * 3600), CONDITIONS), min_size=1, max_size=30)


@st.composite
def timelines(draw):
    moments, conditions, now = [], [], 0.0
    for seconds, found in draw(STRETCHES):
        moments.append(now)
        conditions.append(found)
        now += seconds
        if now >= DAY_S:
            break
    return Timeline(tuple(moments), tuple(conditions))


# Not shrunk, which would take hours: what fails is printed, and is a day in any case.
@settings(max_examples=12, deadline=None, phases=(Phase.generate,), suppress_health_check=[HealthCheck.too_slow])
@given(timelines(), st.floats(90, 300), st.lists(st.floats(1, DAY_S - 1), max_size=3))
def test_any_day(timeline, direction_s, restarts):
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        day = Day(Path(folder), timeline, direction_s, restarts=sorted(restarts)).run()

        never_works_while_it_may_not(day)
        gives_back_within_a_direction(day)
        comes_back(day)
        loses_nothing(day)
        rests(day, restarts)


def never_works_while_it_may_not(day):
    readings = iter([*day.readings, (float("inf"), None)])
    reading, following = None, next(readings)
    for moment, _ in day.compute.begun:
        while following[0] <= moment:
            reading, following = following, next(readings)
        assert reading is not None
        assert moment - reading[0] < READ_EVERY_S
        assert day.rules.holds(reading[1], working=True) == ()


def stretches(day, *, working):
    """(from, to, whether allowed), each as long as it lasts."""
    found = []
    for start, end, conditions in day.timeline.spans():
        allowed = day.rules.holds(conditions, working=working) == ()
        if found and found[-1][2] == allowed:
            found[-1] = (found[-1][0], end, allowed)
        else:
            found.append((start, end, allowed))
    return found


def gives_back_within_a_direction(day):
    for start, end, allowed in stretches(day, working=True):
        latest = start + day.direction_s + READ_EVERY_S
        if not allowed and end > latest and any(start - day.direction_s < at <= start for at, _ in day.compute.begun):
            assert any(start <= at <= latest and request.conditions.holds for at, request in day.office.check_ins)


def comes_back(day):
    for start, end, allowed in stretches(day, working=False):
        if allowed and end - start > SOON_S:
            assert any(start - day.direction_s < at < start + SOON_S for at, _ in day.compute.begun)


def loses_nothing(day):
    begun = [seed for _, seed in day.compute.begun]
    assert len(begun) == len(set(begun)), "computed twice"
    measured = {value for each in day.office.assigned.values() for value in each.values.values()}
    late = {value for _, entry in day.left() for value in entry.derivatives}
    assert measured | late == set(begun)
    for each in day.office.assigned.values():
        if each.returned:
            assert set(each.seeds) <= measured | set(day.office.by_others)


def rests(day, restarts):
    began = previous_end = float("-inf")
    for moment, _ in day.compute.begun:
        restarted = any(previous_end - day.direction_s < each <= moment for each in restarts)
        if restarted or moment - previous_end > day.rules.settle_s - 1e-3:
            began = moment
        assert moment - began < SESSION_S
        previous_end = moment + day.direction_s


def test_a_phone_that_lies_on_its_charger_all_day_works_most_of_it(tmp_path):
    day = Day(tmp_path, Timeline((0.0,), (Conditions(True, 90.0, False, Thermal.NONE),)), 60.0).run()

    assert len(day.compute.begun) * 60 > 0.6 * DAY_S
    assert not day.office.by_others or len(day.office.by_others) < DIRECTIONS * len(day.office.assigned)
    rests(day, ())


@pytest.mark.parametrize("conditions", [Conditions(), Conditions(False, 90.0, False), Conditions(True, 90.0, True)])
def test_a_phone_that_may_not_work_all_day_does_nothing_and_says_so_now_and_then(tmp_path, conditions):
    day = Day(tmp_path, Timeline((0.0,), (conditions,)), 60.0).run()

    assert day.compute.begun == []
    assert 48 <= len(day.office.check_ins) <= 97
    assert len(day.readings) <= DAY_S / 120 + 97
