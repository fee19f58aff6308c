"""Numbers in sixteen bits: what is rounded, what is kept, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fwdllm_common.fixed_point import MAX_MAGNITUDE, SCALE, UnusableScalarError, to_fixed_point
from fwdllm_common.packing import MOST, Packed, halves, integers_of, packed


@pytest.mark.parametrize("largest", [0, 1, MOST, MOST + 1, 65_534, 65_535, (1 << 40) - 1, 1 << 40, (1 << 61) + 12_345])
def test_each_integer_is_rounded_to_the_shared_unit(largest):
    integers = np.array([largest, -largest, largest // 3, 1, 0, -1, -(largest // 7)], dtype=np.int64)
    found = packed(integers)
    assert found.mantissas.min() >= -MOST
    unit = 1 << found.shift
    assert (np.abs(found.integers() - integers) <= unit // 2).all()
    assert found.shift == 0 or 2 * largest > MOST * unit // 2
    assert (packed(found.integers()).integers() == found.integers()).all()


def test_halves_go_to_the_even_mantissa():
    found = packed(np.array([2 * MOST, 1, 3, 5, -1, -3, -5], dtype=np.int64))
    assert (found.shift, found.mantissas[1:].tolist()) == (1, [0, 2, 2, 0, -2, -2])


def test_mantissas_survive_their_bytes():
    found = packed(RANDOM.integers(-(1 << 50), 1 << 50, 1000))
    again = Packed.from_bytes(found.shift, found.to_bytes())
    assert again.shift == found.shift
    assert (again.mantissas == found.mantissas).all()


@pytest.mark.parametrize(("shift", "data"), [(49, b"\0\0"), (0, b"\0")])
def test_what_no_device_packs_is_refused(shift, data):
    with pytest.raises(ValueError, match="a shift of"):
        Packed.from_bytes(shift, data)


def test_scalars_travel_in_half_precision_and_arrive_as_integers():
    values = [0.5, -0.25, 1e-3, 3e-8, 2.0**-24, 0.1234567, 65_504.0]
    found = integers_of(halves(values))
    assert found[[0, 1, 4, 6]].tolist() == [to_fixed_point(values[index]) for index in (0, 1, 4, 6)]
    for integer, value in zip(found.tolist(), values, strict=True):
        assert abs(integer - value * SCALE) <= max(0.5, abs(value) * SCALE / 2**11)


def test_every_half_is_a_whole_number_of_units():
    every = np.arange(1 << 16, dtype="<u2").view("<f2")
    finite = every[np.isfinite(every)]
    found = integers_of(finite.tobytes())
    assert (found / SCALE == finite.astype(np.float64)).all()
    assert np.abs(found).max() <= MAX_MAGNITUDE * SCALE


@pytest.mark.parametrize("data", [halves([0.5, float("nan")]), halves([1e6]), halves([float("-inf")]), b"\0"])
def test_what_is_not_finite_is_refused(data):
    with pytest.raises(UnusableScalarError):
        integers_of(data)


RANDOM = np.random.default_rng(0)
