"""Dividing directions in proportion to speeds."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_server.rounds.distribution import divide

SPEEDS = st.floats(min_value=1e-3, max_value=1e6)
TURNS = st.floats(min_value=0, max_value=1, exclude_max=True)
DEVICES = st.lists(st.tuples(SPEEDS, st.integers(1, 400)), min_size=1, max_size=12)
ENOUGH = 10**6


def exact_shares(total, speeds, most):
    """By definition: everyone goes on at its speed until it is full, and stops when nothing is left."""
    shares, left = [Fraction(0)] * len(speeds), Fraction(total)
    going = set(range(len(speeds)))
    while left and going:
        together = sum(Fraction(speeds[i]) for i in going)
        time = min(left / together, *((most[i] - shares[i]) / Fraction(speeds[i]) for i in going))
        for i in list(going):
            shares[i] += time * Fraction(speeds[i])
            left -= time * Fraction(speeds[i])
            if shares[i] == most[i]:
                going.remove(i)
    return shares


@given(st.integers(0, 5000), DEVICES, TURNS)
def test_parts_are_the_exact_shares_rounded_up_or_down_and_add_up(total, devices, turn):
    speeds, most = zip(*devices, strict=True)
    parts = divide(total, speeds, most, turn)

    assert sum(parts) == min(total, sum(most))
    assert all(0 <= part <= bound for part, bound in zip(parts, most, strict=True))
    shares = exact_shares(total, speeds, most)
    assert all(abs(part - share) < 1 for part, share in zip(parts, shares, strict=True))


@given(st.integers(0, 300), st.integers(1, 12), SPEEDS, TURNS)
def test_equal_devices_differ_by_one_at_most(total, count, speed, turn):
    parts = divide(total, [speed] * count, [total] * count, turn)

    assert max(parts) - min(parts) <= 1


def test_over_many_turns_everyone_has_its_exact_share():
    """A direction of ten is half a direction for the slowest: it has one in every second round."""
    turns = [divide(10, [12, 7, 1], [ENOUGH] * 3, turn / 100) for turn in range(100)]

    assert [sum(parts) / 100 for parts in zip(*turns, strict=True)] == [6, 3.5, 0.5]


def test_what_one_cannot_hold_goes_to_the_others():
    assert divide(100, [8, 1, 1], [20, ENOUGH, ENOUGH], 0) == [20, 40, 40]


def test_what_nobody_can_hold_is_left():
    assert divide(100, [8, 1, 1], [20, 30, 10], 0.5) == [20, 30, 10]


def test_nobody_gets_nothing():
    assert divide(5, [], [], 0.5) == []


@pytest.mark.parametrize("speeds", [(1e300, 1e-300), (5e-324, 1.0)])
def test_speeds_may_be_as_far_apart_as_numbers_get(speeds):
    assert sum(divide(7, speeds, [7, 7], 0.25)) == 7
