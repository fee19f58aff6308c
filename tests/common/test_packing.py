"""Block floating point: what it rounds, what it keeps, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from fwdllm_common.fixed_point import MAX_MAGNITUDE, SCALE, to_fixed_point
from fwdllm_common.packing import MOST, UNUSABLE, Packed, packed, packed_scalars


@pytest.mark.parametrize("largest", [0, 1, MOST, MOST + 1, 65_534, 65_535, (1 << 40) - 1, 1 << 40, (1 << 61) + 12_345])
def test_each_integer_is_rounded_to_the_shared_unit(largest):
    integers = np.array([largest, -largest, largest // 3, 1, 0, -1, -(largest // 7)], dtype=np.int64)
    found = packed(integers)
    assert found.mantissas.min() > UNUSABLE
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


def test_scalars_travel_as_fixed_point_and_what_is_unusable_is_marked():
    values = [0.5, -0.25, 1e-3, float("nan"), float("inf"), 2.0 * MAX_MAGNITUDE]
    message = packed_scalars(values)
    found = Packed.from_bytes(message.shift, message.mantissas)
    assert found.mantissas[3:].tolist() == [UNUSABLE] * 3
    expected = [to_fixed_point(value) for value in values[:3]]
    assert np.abs(found.integers()[:3] - expected).max() <= 1 << message.shift >> 1
    assert packed_scalars([MAX_MAGNITUDE]).mantissas != b""
    assert Packed.from_bytes(*_fields(packed_scalars([float(MAX_MAGNITUDE)]))).integers().tolist() == [
        MAX_MAGNITUDE * SCALE
    ]


def _fields(message):
    return message.shift, message.mantissas


RANDOM = np.random.default_rng(0)
