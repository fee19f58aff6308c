"""The gate shuts at once, opens slowly, and reads the sensors only so often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_client.conditions import Conditions, Gate, Hold, Rules, Thermal

WELL = Conditions(True, 80.0, False, Thermal.NONE)
UNPLUGGED = Conditions(False, 80.0, False, Thermal.NONE)


class Script:
    """Sensors and clock of a device whose battery and power are set by hand."""

    def __init__(self, **rules):
        self.now = 0.0
        self.conditions = WELL
        self.readings = 0
        self.gate = Gate(self, Rules(**rules), lambda: self.now)

    def read(self):
        self.readings += 1
        return self.conditions

    def at(self, now, conditions=None):
        self.now = now
        self.conditions = self.conditions if conditions is None else conditions
        return self.gate.holds(max_age_s=10)


@pytest.fixture
def script():
    return Script()


def test_a_device_on_which_all_is_well_begins_at_once(script):
    assert script.at(0) == ()


def test_readings_are_used_until_they_are_too_old(script):
    script.at(0)
    assert (script.at(9.9, UNPLUGGED), script.readings) == ((), 1)
    assert (script.at(10), script.readings) == ((Hold.UNPLUGGED,), 2)


def test_it_opens_when_all_has_been_well_for_long_enough(script):
    script.at(0, UNPLUGGED)
    assert script.at(100, WELL) == (Hold.SETTLING,)
    assert script.at(219) == (Hold.SETTLING,)
    assert script.at(229) == ()


def test_a_bad_reading_in_between_begins_the_time_anew(script):
    script.at(0, UNPLUGGED)
    script.at(100, WELL)
    assert script.at(150, UNPLUGGED) == (Hold.UNPLUGGED,)
    assert script.at(200, WELL) == (Hold.SETTLING,)
    assert script.at(319) == (Hold.SETTLING,)
    assert script.at(329) == ()


def test_the_battery_needs_more_to_begin_than_to_go_on(script):
    script.at(0)
    assert script.at(20, Conditions(True, 25.0, False)) == ()
    assert script.at(40, Conditions(True, 24.0, False)) == (Hold.LOW_BATTERY,)
    assert script.at(500, Conditions(True, 29.0, False)) == (Hold.LOW_BATTERY,)
    assert script.at(600, Conditions(True, 30.0, False)) == (Hold.SETTLING,)
    assert script.at(720) == ()


def test_it_begins_only_with_a_battery_that_is_full_enough(script):
    assert script.at(0, Conditions(True, 27.0, False)) == (Hold.LOW_BATTERY,)


def test_without_a_time_to_settle_it_opens_at_once():
    script = Script(settle_s=0.0)
    script.at(0, UNPLUGGED)
    assert script.at(10, WELL) == ()


@given(st.lists(st.tuples(st.floats(0, 300), st.booleans(), st.floats(0, 100)), max_size=40))
def test_it_is_never_open_on_a_bad_reading_nor_sooner_than_it_may(steps):
    script = Script()
    now, well_since, was_shut = 0.0, None, False
    for seconds, charging, percent in steps:
        now += seconds
        before = script.readings
        found = script.at(now, Conditions(charging, percent, False))
        if script.readings == before:
            continue
        if not charging or percent < 25:
            assert found
        if found:
            was_shut = True
        if not charging or percent < 30:
            well_since = None if found else well_since
        elif well_since is None:
            well_since = now
        if was_shut and not found:
            assert well_since is not None
            assert now - well_since >= 120 or percent < 30
            was_shut = False
