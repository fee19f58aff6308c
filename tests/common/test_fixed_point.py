import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.fixed_point import MAX_MAGNITUDE, SCALE, UnusableScalarError, to_fixed_point

LARGEST = MAX_MAGNITUDE * SCALE


@given(st.integers(-LARGEST, LARGEST))
def test_every_fixed_point_number_makes_the_round_trip(value):
    assert to_fixed_point(value / SCALE) == value


@given(st.floats(-MAX_MAGNITUDE, MAX_MAGNITUDE))
def test_rounding_moves_a_scalar_by_half_a_unit_at_most(value):
    assert abs(to_fixed_point(value) / SCALE - value) <= 0.5 / SCALE


@pytest.mark.parametrize(
    ("units", "rounded"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (2.500001, 3), (-2.499999, -2)]
)
def test_ties_go_to_the_even_number(units, rounded):
    assert to_fixed_point(units / SCALE) == rounded


def test_a_float32_is_taken_at_its_exact_value():
    value = np.float32(1234.5678)
    assert to_fixed_point(value) == to_fixed_point(float(value))


@pytest.mark.parametrize("value", [MAX_MAGNITUDE, -MAX_MAGNITUDE])
def test_the_largest_magnitude_is_accepted(value):
    assert to_fixed_point(value) == value * SCALE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(UnusableScalarError, match="not finite"):
        to_fixed_point(value)


@pytest.mark.parametrize("value", [math.nextafter(MAX_MAGNITUDE, math.inf), -1e5, 1e300])
def test_what_is_too_large_is_refused(value):
    with pytest.raises(UnusableScalarError, match="larger than 65536"):
        to_fixed_point(value)
