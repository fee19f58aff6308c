"""Noise is of the distribution that the accountant has in its formulas."""

from collections import Counter
from math import exp, sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from fwdllm_common.discrete_gaussian import discrete_gaussian


@pytest.mark.parametrize("variance", [1, 2, 9, 50])
def test_small_variances_have_the_probabilities_of_the_definition(variance):
    count, reach = 20_000, 3 * int(sqrt(variance)) + 1
    weights = {x: exp(-x * x / (2 * variance)) for x in range(-40 * reach, 40 * reach + 1)}
    together = sum(weights.values())
    found = Counter(discrete_gaussian(variance, count, Random(variance).randrange).tolist())
    within = [x for x in range(-reach, reach + 1) if count * weights[x] / together >= 10]
    observed = [found[x] for x in within]
    expected = [count * weights[x] / together for x in within]
    observed.append(count - sum(observed))
    expected.append(count - sum(expected))

    assert chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("bits", [20, 48, 70])
def test_large_variances_are_normal(bits):
    noise = discrete_gaussian(1 << bits, 4000, Random(bits).randrange)
    assert kstest(noise / sqrt(1 << bits), "norm").pvalue > 1e-4


def test_samples_are_independent_of_each_other():
    noise = discrete_gaussian(1 << 40, 4000, Random(3).randrange).astype(np.float64)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.08


def test_shares_of_devices_add_up_to_the_noise_of_one():
    together = sum(discrete_gaussian((1 << 40) // 16, 3000, Random(7 + n).randrange) for n in range(16))
    assert kstest(together / sqrt(1 << 40), "norm").pvalue > 1e-4


@given(st.integers(1, 1 << 90), st.integers(0, 3))
def test_any_variance_gives_integers(variance, count):
    noise = discrete_gaussian(variance, count)
    assert noise.dtype == np.int64
    assert len(noise) == count


def test_two_draws_differ():
    assert not np.array_equal(discrete_gaussian(1 << 60, 8), discrete_gaussian(1 << 60, 8))
