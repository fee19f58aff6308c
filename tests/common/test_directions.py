import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from math import comb

import common.reference as reference
import numpy as np
import pytest
from common.runs import DISTRIBUTIONS, seeds, uint64
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.directions import Directions, direction_bits

starts = st.integers(0, 1500)
lengths = st.integers(0, 600)
distributions = st.sampled_from(DISTRIBUTIONS)
UNITS = {"rademacher": 1, "gaussian": 4}


def test_the_reference_is_philox4x64_10():
    """The known answers that Random123 publishes (kat_vectors: philox4x64 10)."""
    ones, pi = [2**64 - 1], ["243f6a8885a308d3", "13198a2e03707344", "a4093822299f31d0", "082efa98ec4e6c89"]
    key = [0x452821E638D01377, 0xBE5466CF34E90C6C]
    answers = {
        "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b": ([0] * 4, [0] * 2),
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0": (ones * 4, ones * 2),
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6": ([int(word, 16) for word in pi], key),
    }
    for words, (counter, key_words) in answers.items():
        assert reference.philox4x64(counter, key_words) == [int(word, 16) for word in words.split()]


# what a seed means


@given(run_key=uint64, seed=seeds, start=starts, length=lengths)
def test_bits_are_those_of_the_specification(run_key, seed, start, length):
    expected = reference.direction_bits(run_key, seed, start, start + length)
    assert direction_bits(run_key, seed, start, start + length).tolist() == expected


@given(distribution=distributions, run_key=uint64, seed=seeds, start=starts, length=lengths)
def test_coordinates_are_those_of_the_specification(distribution, run_key, seed, start, length):
    expected = reference.integers(distribution, run_key, seed, start, start + length)
    subject = Directions(run_key, distribution)
    assert subject.integers(seed, start, start + length).tolist() == expected
    assert (subject.vector(seed, start, start + length) * UNITS[distribution]).tolist() == expected


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_slice_far_into_theta_is_that_of_the_specification(distribution):
    start = 2**40 + 37
    found = Directions(3, distribution).integers(4, start, start + 300)
    assert found.tolist() == reference.integers(distribution, 3, 4, start, start + 300)


@given(distribution=distributions, seed=seeds, start=starts, lengths=st.tuples(lengths, lengths))
def test_slices_concatenate(distribution, seed, start, lengths):
    subject, middle, stop = Directions(1, distribution), start + lengths[0], start + sum(lengths)
    parts = [subject.vector(seed, start, middle), subject.vector(seed, middle, stop)]
    np.testing.assert_array_equal(np.concatenate(parts), subject.vector(seed, start, stop))


@given(distribution=distributions, key=uint64, seeds=st.lists(seeds, min_size=2, max_size=2, unique=True))
def test_each_seed_has_its_own_direction(distribution, key, seeds):
    first, second = (Directions(key, distribution).integers(seed, 0, 128).tolist() for seed in seeds)
    assert first != second


@given(distribution=distributions, keys=st.lists(seeds, min_size=2, max_size=2, unique=True), seed=seeds)
def test_each_run_has_its_own_directions(distribution, keys, seed):
    first, second = (Directions(key, distribution).integers(seed, 0, 128).tolist() for key in keys)
    assert first != second


def test_run_key_and_seed_do_not_stand_for_each_other():
    assert Directions(1).integers(2, 0, 128).tolist() != Directions(2).integers(1, 0, 128).tolist()


# moments


@given(run_key=uint64, seed=seeds, length=lengths)
def test_squared_norm_of_a_rademacher_direction_is_the_number_of_coordinates(run_key, seed, length):
    v = Directions(run_key).vector(seed, 0, length)
    assert v.dtype == np.float32
    assert v @ v == length


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_moments_are_those_of_the_distribution(distribution):
    """Mean 0, variance 1, skewness 0 and the kurtosis, each within 4 of its standard errors."""
    subject = Directions(9, distribution)
    v = np.concatenate([subject.vector(seed, 0, 4096) for seed in range(256)]).astype(np.float64)
    if distribution == "gaussian":
        assert subject.kurtosis == 3 - 2 / 64  # of a binomial of 64 fair bits: 3 − 2/n
        # moments of order 6 and 8 of a normal, 15 and 105, give the errors of those of order 3 and 4
        errors = np.sqrt(np.array([1, 2, 15, 96]) / v.size)
    else:
        assert subject.kurtosis == 1
        errors = np.array([1, 0, 1, 0]) / np.sqrt(v.size)
    found = np.array([np.mean(v**power) for power in (1, 2, 3, 4)])
    assert (np.abs(found - [0, 1, 0, subject.kurtosis]) <= 4 * errors).all()


def test_gaussian_coordinates_are_distributed_as_64_coins():
    """χ² over the values expected at least 5 times: its mean is the number of bins n, its deviation √(2n)."""
    quarters = np.concatenate([Directions(5, "gaussian").integers(seed, 0, 4096) for seed in range(64)])
    expected = np.array([comb(64, 32 + value) / 2**64 for value in range(-32, 33)]) * quarters.size
    counts = np.bincount(quarters.astype(np.int64) + 32, minlength=65)
    often = expected >= 5
    bins = int(often.sum())
    chi_squared = float(np.sum((counts[often] - expected[often]) ** 2 / expected[often]))
    assert bins > 30
    assert abs(chi_squared - bins) < 4 * np.sqrt(2 * bins)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_signs_are_balanced_and_neighbouring_seeds_uncorrelated(distribution):
    d, count = 4096, 64
    v = np.stack([Directions(9, distribution).vector(seed, 0, d) for seed in range(count)]).astype(np.float64)
    gram = v @ v.T / np.sqrt(d)  # standard normal off the diagonal
    off = gram[~np.eye(count, dtype=bool)]
    assert abs(v.sum()) < 4 * np.sqrt(v.size)
    assert np.abs(off).max() < 5
    assert off.std() == pytest.approx(1, abs=0.1)


# perturbed copies


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("epsilon", [1e-3, -1e-3])
def test_perturb_is_one_rounded_product_and_one_rounded_sum(distribution, epsilon):
    theta, seeds = np.linspace(-3, 3, 77, dtype=np.float32), (8, 2**64 - 1)
    copies = Directions(5, distribution).perturb(theta, np.array(seeds, dtype=np.uint64), start=130, epsilon=epsilon)
    assert copies.dtype == np.float32
    for copy, seed in zip(copies, seeds, strict=True):
        v = [value / UNITS[distribution] for value in reference.integers(distribution, 5, seed, 130, 130 + 77)]
        steps = [reference.float32(reference.float32(epsilon) * each) for each in v]
        assert copy.tolist() == [reference.float32(x + step) for x, step in zip(theta, steps, strict=True)]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_perturb_is_the_same_whole_or_in_slices_and_takes_little_more_than_its_result(distribution):
    theta = np.random.default_rng(0).normal(size=1_000_001).astype(np.float32)
    subject = Directions(5, distribution)
    whole = theta + np.float32(1e-3) * subject.vector(7, 11, 11 + len(theta))
    tracemalloc.start()
    found = subject.perturb(theta, np.array([7], dtype=np.uint64), 11, 1e-3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found[0], whole)
    assert peak < found.nbytes + (3 << 20)


def test_perturb_leaves_theta_alone():
    theta = np.ones(10, dtype=np.float32)
    Directions(1).perturb(theta, np.arange(3, dtype=np.uint64), start=0, epsilon=0.5)
    assert (theta == 1).all()


# sums


@given(
    distribution=distributions,
    terms=st.lists(st.tuples(seeds, st.integers(-(2**62) // 12, 2**62 // 12)), max_size=12),
    start=starts,
    length=st.integers(0, 80),
)
def test_weighted_sum_is_exact(distribution, terms, start, length):
    """The naive sum in Python's unbounded integers; a Gaussian coordinate is up to 32 units."""
    drawn = [seed for seed, _ in terms]
    coefficients = [value if distribution == "rademacher" else value // 32 for _, value in terms]
    total = Directions(1, distribution).weighted_sum(
        np.array(drawn, dtype=np.uint64), np.array(coefficients, dtype=np.int64), start, start + length
    )
    assert total.dtype == np.int64
    assert total.tolist() == reference.weighted_sum(distribution, 1, drawn, coefficients, start, start + length)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("coefficient", [5, -100, 2**14, -(2**30), 2**52])
def test_small_and_large_coefficients_are_summed_in_64_bits(distribution, coefficient):
    """numpy 1.26 would multiply an int8 vector by 100 in int8."""
    total = Directions(3, distribution).weighted_sum(
        np.zeros(1, dtype=np.uint64), np.array([coefficient], dtype=np.int64), 0, 200
    )
    assert total.tolist() == reference.weighted_sum(distribution, 3, [0], [coefficient], 0, 200)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_weighted_sum_refuses_a_seed_without_coefficient(distribution):
    with pytest.raises(ValueError, match="3 seeds and 2 coefficients"):
        Directions(1, distribution).weighted_sum(np.arange(3, dtype=np.uint64), np.ones(2, dtype=np.int64), 0, 4)


def test_weighted_sum_is_the_sum_of_vectors_whatever_slices_it_is_made_in(monkeypatch):
    monkeypatch.setattr("fwdllm_common.directions._SUM_SLICE", 1000)
    directions, seeds = Directions(5), np.arange(9, 30, dtype=np.uint64)
    coefficients = np.random.default_rng(0).integers(-(1 << 45), 1 << 45, len(seeds))
    expected = sum(
        c * directions.integers(int(s), 70, 3333).astype(np.int64) for s, c in zip(seeds, coefficients, strict=True)
    )
    assert np.array_equal(directions.weighted_sum(seeds, coefficients, 70, 3333), expected)


def test_threads_do_not_disturb_each_other():
    def made(seed):
        return [Directions(3).integers(seed, 0, 5000).tobytes() for _ in range(20)]

    with ThreadPoolExecutor(8) as threads:
        for seed, found in zip(range(64), threads.map(made, range(64)), strict=True):
            assert set(found) == {Directions(3).integers(seed, 0, 5000).tobytes()}
