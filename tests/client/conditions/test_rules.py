"""What forbids work, by the owner's settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_client.conditions import Conditions, Hold, Rules, Thermal
from fwdllm_client.policy.settings import Settings
from fwdllm_common.errors import BadInputError

WELL = Conditions(True, 80.0, False, Thermal.NONE)
CONDITIONS = st.builds(
    Conditions,
    st.none() | st.booleans(),
    st.none() | st.floats(0, 100),
    st.none() | st.booleans(),
    st.none() | st.sampled_from(Thermal),
)


def holds(conditions, *, working=False, **settings):
    return Rules(**settings).holds(conditions, working=working)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (WELL, ()),
        (Conditions(False, 80.0, False, Thermal.NONE), (Hold.UNPLUGGED,)),
        (Conditions(True, 29.9, False, Thermal.NONE), (Hold.LOW_BATTERY,)),
        (Conditions(True, 30.0, False, Thermal.LIGHT), ()),
        (Conditions(True, 80.0, True, Thermal.NONE), (Hold.METERED,)),
        (Conditions(True, 80.0, False, Thermal.MODERATE), (Hold.HOT,)),
        (Conditions(False, 3.0, True, Thermal.CRITICAL), (Hold.UNPLUGGED, Hold.LOW_BATTERY, Hold.METERED, Hold.HOT)),
    ],
)
def test_the_defaults_are_androids(conditions, expected):
    assert holds(conditions) == expected


def test_what_is_not_known_forbids_by_charging_and_network_alone():
    assert holds(Conditions()) == (Hold.UNPLUGGED, Hold.METERED)


def test_a_machine_on_mains_of_unknown_heat_may_work():
    assert holds(Conditions(charging=True, metered=False)) == ()


def test_a_device_at_work_goes_on_a_little_longer():
    low = Conditions(True, 27.0, False, Thermal.NONE)

    assert (holds(low), holds(low, working=True)) == ((Hold.LOW_BATTERY,), ())
    assert holds(Conditions(True, 24.9, False), working=True) == (Hold.LOW_BATTERY,)


@given(CONDITIONS)
def test_what_forbids_to_go_on_also_forbids_to_begin(conditions):
    assert set(holds(conditions, working=True)) <= set(holds(conditions))


@given(CONDITIONS)
def test_an_owner_who_asks_for_nothing_is_never_refused(conditions):
    assert holds(conditions, charging=False, unmetered=False, battery_percent=0.0, thermal_below=None) == ()


@given(CONDITIONS)
def test_every_hold_has_words(conditions):
    assert all(hold.explained(conditions) for hold in holds(conditions))


# the file


def load(tmp_path, text):
    (tmp_path / "client.toml").write_text(text)
    return Settings.load(tmp_path / "client.toml").rules


def test_no_file_and_an_empty_one_are_the_defaults(tmp_path):
    assert Settings.load(tmp_path / "client.toml") == Settings()
    assert load(tmp_path, "") == load(tmp_path, "[conditions]") == Rules()


def test_the_cache_can_be_limited_and_kept_to_the_coordinator(tmp_path):
    load(tmp_path, "[cache]\nlimit_gb = 0.5\nmirrors = false")
    assert Settings.load(tmp_path / "client.toml") == Settings(cache_limit_bytes=500_000_000, mirrors=False)


def test_every_setting_can_be_set(tmp_path):
    text = """
        [conditions]
        charging = false
        battery_percent = 50
        unmetered = false
        thermal_below = "severe"
        session_s = 3600
        settle_s = 0
    """
    assert load(tmp_path, text) == Rules(False, 50.0, False, Thermal.SEVERE, 3600.0, 0.0)
    assert load(tmp_path, '[conditions]\nthermal_below = "off"\nsession_s = inf') == Rules(
        thermal_below=None, session_s=float("inf")
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[conditions", "not TOML"),
        ("\x00", "not TOML"),
        ("[condition]", 'condition is not known; did you mean "conditions"?'),
        ("conditions = 3", "conditions is not a section"),
        ("[conditions]\nbattery = 3", r'\[conditions\] battery is not known; did you mean "battery_percent"'),
        ("[cache]\nlimit = 3", r'\[cache\] limit is not known; did you mean "limit_gb"'),
        ("[cache]\nlimit_gb = 0", r"\[cache\] limit_gb is 0; use a number above 0"),
        ("[cache]\nlimit_gb = true", "limit_gb is True"),
        ("[cache]\nlimit_gb = nan", "limit_gb is nan"),
        ("[cache]\nmirrors = 1", r"\[cache\] mirrors is 1; use true or false"),
        ("[conditions]\nfoo = 3", "foo is not known; the keys are charging, battery_percent, unmetered"),
        ("[conditions]\ncharging = 1", "charging is 1; use true or false"),
        ("[conditions]\nbattery_percent = 101", "battery_percent is 101; use a number from 0 to 100"),
        ("[conditions]\nbattery_percent = nan", "battery_percent is nan"),
        ("[conditions]\nbattery_percent = true", "battery_percent is True"),
        ("[conditions]\nsession_s = 0", "session_s is 0; use a number above it"),
        ("[conditions]\nsettle_s = -1", "settle_s is -1; use a number from 0 to inf"),
        ('[conditions]\nthermal_below = "none"', "use one of light, moderate, severe, critical, off"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, words):
    with pytest.raises(BadInputError, match=words):
        load(tmp_path, text)
