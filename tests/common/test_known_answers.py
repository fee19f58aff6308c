from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.errors import BadInputError
from fwdllm_common.known_answers import MAX_SIGNAL_TO_NOISE, KnownAnswerTest, signal_to_noise

TEST = KnownAnswerTest(
    rows=[[5, 6, 7], [8]],
    labels=[0, 1],
    theta=np.linspace(-1, 1, 7, dtype=np.float32),
    epsilons={"peft": 1e-3, "head": 0.01},
    central=True,
    expected={"peft": [0.5, -0.25], "head": [3.0, 4.0]},
    float32={"peft": [0.5, -0.2], "head": [3.0, 4.5]},
)


def test_the_file_holds_everything():
    again = KnownAnswerTest.from_bytes(TEST.to_bytes())
    assert again.to_bytes() == TEST.to_bytes()
    assert (again.rows, again.labels, again.central) == (TEST.rows, TEST.labels, True)
    assert (again.epsilons, again.expected, again.float32) == (TEST.epsilons, TEST.expected, TEST.float32)
    np.testing.assert_array_equal(again.theta, TEST.theta)


@given(st.binary(max_size=60) | st.sampled_from([*range(180), 188, 190]).map(lambda cut: TEST.to_bytes()[:cut]))
def test_anything_else_is_refused(data: bytes):
    with pytest.raises(BadInputError, match="known-answer test is unreadable"):
        KnownAnswerTest.from_bytes(data)


@given(st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_noise_of_a_known_size_is_found(ratio: float, seed: int):
    random = np.random.default_rng(seed)
    expected, noise = random.normal(size=8), random.normal(size=8)
    noise *= np.linalg.norm(expected) / np.linalg.norm(noise) / ratio
    assert signal_to_noise({"b": expected + noise}, {"b": expected}) == pytest.approx(ratio, rel=1e-6)


def test_the_worst_block_counts():
    found = {"peft": [0.5, -0.25], "head": [3.0, 9.0]}
    assert signal_to_noise(found, TEST.expected) == pytest.approx(1.0)
    assert signal_to_noise(TEST.expected, TEST.expected) == MAX_SIGNAL_TO_NOISE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_scalar_that_is_not_finite_is_all_noise(bad: float):
    assert signal_to_noise({"peft": [0.5, bad], "head": [3.0, 4.0]}, TEST.expected) == 0.0
