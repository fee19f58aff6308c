from collections import Counter
from statistics import median_high

import common.reference as reference
import numpy as np
import pytest
from common.runs import DISTRIBUTIONS
from common.runs import directions as drawn_directions
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar, coefficients, forward_gradient
from fwdllm_common.fixed_point import (
    MAX_DIRECTIONS,
    MAX_GAUSSIAN_DIRECTIONS,
    MAX_MAGNITUDE,
    MAX_WEIGHT,
    SCALE,
    to_fixed_point,
)
from fwdllm_common.layout import Block

devices = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 50)), min_size=1, max_size=6)  # directions, examples


def scalars_of(devices, value=SCALE):
    owners = [(name, examples) for name, (count, examples) in enumerate(devices) for _ in range(count)]
    return [Scalar(seed, value, str(name), examples) for seed, (name, examples) in enumerate(owners)]


@given(devices)
def test_a_device_counts_by_its_examples_however_many_directions_it_measured(devices):
    """Up to twice the median of examples, and the bound of a scalar's weight."""
    scalars = scalars_of(devices)
    measured = Counter(int(scalar.device) for scalar in scalars)
    share = Counter()
    for scalar, coefficient in zip(scalars, coefficients(scalars), strict=True):
        share[int(scalar.device)] += int(coefficient) / (SCALE * len(scalars))
    counted = [min(examples, 2 * median_high(said for _, said in devices)) for _, examples in devices]
    everything = sum(counted)
    for name, examples in enumerate(counted):
        most = MAX_WEIGHT * measured[name] / len(scalars)
        assert share[name] == pytest.approx(min(most, examples / everything), abs=1e-6)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=9), st.integers(1, 10**9))
def test_scalars_of_like_devices_are_taken_as_they_are(values, examples):
    scalars = [Scalar(seed, value, str(seed), examples) for seed, value in enumerate(values)]
    assert coefficients(scalars).tolist() == values


@given(devices, st.randoms(use_true_random=False))
def test_coefficient_of_a_seed_does_not_depend_on_the_order_of_arrival(devices, random):
    scalars = scalars_of(devices, value=12345678901)
    shuffled = random.sample(scalars, len(scalars))

    def by_seed(scalars):
        return dict(zip([scalar.seed for scalar in scalars], coefficients(scalars).tolist(), strict=True))

    assert by_seed(shuffled) == by_seed(scalars)


def test_a_device_that_reports_no_examples_counts_as_one():
    scalars = [Scalar(1, SCALE, "a", 0), Scalar(2, SCALE, "b", 1)]
    assert coefficients(scalars).tolist() == [SCALE, SCALE]


def test_weight_is_bounded():
    others = [Scalar(seed, SCALE, str(seed % 9), 1) for seed in range(1, 1000)]
    assert coefficients([Scalar(0, -SCALE, "few", 10**9), *others])[0] == -SCALE * MAX_WEIGHT


def test_largest_coefficients_of_a_round_stay_within_2_to_the_62():
    largest = to_fixed_point(MAX_MAGNITUDE) * MAX_WEIGHT
    assert largest * MAX_DIRECTIONS <= 2**62
    assert largest * MAX_GAUSSIAN_DIRECTIONS * 32 <= 2**62


@pytest.mark.parametrize(
    ("distribution", "most"), [("rademacher", MAX_DIRECTIONS), ("gaussian", MAX_GAUSSIAN_DIRECTIONS)]
)
def test_sum_is_exact_where_all_directions_agree_and_are_the_largest(distribution, most):
    count = 64  # as many as it takes to add up, each standing for most / count of the largest
    each = MAX_MAGNITUDE * SCALE * MAX_WEIGHT * most // count
    seeds, coefficients = np.full(count, 7, dtype=np.uint64), np.full(count, each, dtype=np.int64)
    total = Directions(1, distribution).weighted_sum(seeds, coefficients, 0, 20)
    assert total.tolist() == [each * count * value for value in reference.integers(distribution, 1, 7, 0, 20)]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@given(drawn=drawn_directions)
def test_forward_gradient_is_that_of_the_specification(distribution, drawn):
    seeds, values = zip(*drawn, strict=True)
    gradient = forward_gradient(
        Directions(3, distribution),
        np.array(seeds, dtype=np.uint64),
        np.array(values, dtype=np.int64),
        Block("b", 250, 290),
    )
    assert gradient.dtype == np.float32
    assert gradient.tolist() == reference.forward_gradient(distribution, 3, seeds, values, 250, 290)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_forward_gradient_is_unbiased_on_a_quadratic(distribution):
    """E ĝ = g, and coordinate i has variance (‖g‖² + (κ − 2)gᵢ²)/K: central differences without bias."""
    d, count, epsilon = 48, 4096, 1e-2
    rng = np.random.default_rng(20)
    root = rng.normal(size=(d, d)) / np.sqrt(d)
    theta, offset = rng.normal(size=d), rng.normal(size=d)

    def loss(x):
        return 0.5 * np.sum((x @ root) ** 2, axis=-1) - x @ offset

    expected = root @ (root.T @ theta) - offset
    seeds = np.arange(1, count + 1, dtype=np.uint64)
    unit, kurtosis = {"rademacher": (1, 1), "gaussian": (4, 3 - 1 / 32)}[distribution]
    v = np.stack([np.array(reference.integers(distribution, 11, int(seed), 0, d)) / unit for seed in seeds])
    slopes = (loss(theta + epsilon * v) - loss(theta - epsilon * v)) / (2 * epsilon)
    scalars = [Scalar(int(k), to_fixed_point(slope), "d", 1) for k, slope in zip(seeds, slopes, strict=True)]

    gradient = forward_gradient(Directions(11, distribution), seeds, coefficients(scalars), Block("b", 0, d))

    errors = (gradient - expected) / np.sqrt((expected @ expected + (kurtosis - 2) * expected**2) / count)
    assert np.abs(errors).max() < 4  # standard errors, over 48 coordinates
    assert np.mean(errors**2) == pytest.approx(1, abs=0.5)  # and no noise beyond that of the directions
