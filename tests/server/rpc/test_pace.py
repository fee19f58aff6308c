"""The windows in which devices come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pacing import QUICK, figures, simulate
from fwdllm_server.rpc.pace import LONGEST_S, Pace


def test_a_small_fleet_gets_the_configured_window():
    pace = Pace(rate=100)
    now = 1000.0
    for _ in range(300):
        least, most = pace.window(now, 60, 180)
        assert least == pytest.approx(60, abs=0.02)
        assert most == pytest.approx(180, abs=0.02)
        now += 0.02  # half of the rate


def test_a_crowd_at_one_moment_is_spread_at_the_rate():
    pace = Pace(rate=100)
    begins = np.array([pace.window(1000.0, 60, 180)[0] for _ in range(5000)])

    assert begins[0] == pytest.approx(60)
    assert np.diff(begins) == pytest.approx(0.01)


@given(
    st.floats(0.1, 1e4),
    st.lists(st.floats(0, 100), max_size=200),
    st.floats(0.001, 600),
    st.floats(0, 600),
)
def test_a_window_is_in_order_no_earlier_than_asked_and_within_a_day(rate, gaps, least, length):
    pace, now = Pace(rate), 1e9
    for gap in gaps:
        now += gap
        begin, end = pace.window(now, least, least + length)
        assert least <= begin + 1e-6
        assert begin <= end <= LONGEST_S


@given(st.floats(1, 1000), st.lists(st.floats(0, 0.1), min_size=50, max_size=300))
def test_no_second_is_booked_for_more_than_the_rate(rate, gaps):
    pace, now, booked = Pace(rate), 0.0, []
    for gap in gaps:
        now += gap
        booked.append(now + pace.window(now, 5, 10)[0])
    booked.sort()
    most = int(rate) + 2
    late = [later - sooner for sooner, later in zip(booked, booked[most:], strict=False)]

    assert all(apart >= 1 - 1e-6 for apart in late)


def test_a_fleet_that_grows_holds_the_rate_also_after_an_outage():
    traffic = simulate(QUICK)
    found = {figure["name"]: figure["value"] for figure in figures(QUICK, traffic)}

    assert traffic.fleet[-1] == QUICK.devices
    # It would be 3.3 times the target with windows that stay as they are.
    assert found["highest_rate_growing"] < 1.6
    assert 0.8 < found["mean_rate_grown"] <= 1.05
    assert found["highest_rate_after_outage"] < 1.2
    assert traffic.tried[QUICK.outage[1]] > 4 * QUICK.rate  # the herd
    assert found["refused_until_after_outage"] < 300
