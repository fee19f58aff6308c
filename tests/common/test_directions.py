import common.reference as reference
import numpy as np
import pytest
from common.runs import seeds, uint64
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.directions import direction, direction_bits, perturb, weighted_sum

starts = st.integers(0, 1500)
lengths = st.integers(0, 600)


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


@given(run_key=uint64, seed=seeds, start=starts, length=lengths)
def test_bits_are_those_of_the_specification(run_key, seed, start, length):
    expected = reference.direction_bits(run_key, seed, start, start + length)
    assert direction_bits(run_key, seed, start, start + length).tolist() == expected


def test_a_slice_far_into_theta_is_that_of_the_specification():
    start = 2**40 + 37
    assert direction_bits(3, 4, start, start + 300).tolist() == reference.direction_bits(3, 4, start, start + 300)


@given(seed=seeds, start=starts, lengths=st.tuples(lengths, lengths))
def test_slices_concatenate(seed, start, lengths):
    middle, stop = start + lengths[0], start + sum(lengths)
    parts = [direction_bits(1, seed, start, middle), direction_bits(1, seed, middle, stop)]
    np.testing.assert_array_equal(np.concatenate(parts), direction_bits(1, seed, start, stop))


@given(run_key=uint64, seed=seeds, length=lengths)
def test_squared_norm_is_the_number_of_coordinates(run_key, seed, length):
    v = direction(run_key, seed, 0, length)
    assert v.dtype == np.float32
    assert v @ v == length


@given(key=uint64, seeds=st.lists(seeds, min_size=2, max_size=2, unique=True))
def test_each_seed_has_its_own_direction(key, seeds):
    first, second = (direction_bits(key, seed, 0, 128).tolist() for seed in seeds)
    assert first != second


@given(keys=st.lists(seeds, min_size=2, max_size=2, unique=True), seed=seeds)
def test_each_run_has_its_own_directions(keys, seed):
    first, second = (direction_bits(key, seed, 0, 128).tolist() for key in keys)
    assert first != second


def test_run_key_and_seed_do_not_stand_for_each_other():
    assert direction_bits(1, 2, 0, 128).tolist() != direction_bits(2, 1, 0, 128).tolist()


def test_signs_are_balanced_and_neighbouring_seeds_uncorrelated():
    d, count = 4096, 64
    v = np.stack([direction(9, seed, 0, d) for seed in range(count)]).astype(np.float64)
    gram = v @ v.T / np.sqrt(d)  # standard normal off the diagonal
    off = gram[~np.eye(count, dtype=bool)]
    assert abs(v.sum()) < 4 * np.sqrt(v.size)
    assert np.abs(off).max() < 5
    assert off.std() == pytest.approx(1, abs=0.1)


def test_perturb_is_one_rounded_product_and_one_rounded_sum():
    theta = np.linspace(-3, 3, 77, dtype=np.float32)
    copies = perturb(theta, 5, np.array([8, 2**64 - 1], dtype=np.uint64), start=130, epsilon=1e-3)
    assert copies.dtype == np.float32
    for copy, seed in zip(copies, (8, 2**64 - 1), strict=True):
        bits = reference.direction_bits(5, seed, 130, 130 + 77)
        epsilon = reference.float32(1e-3)
        expected = [reference.float32(x + (epsilon if bit else -epsilon)) for x, bit in zip(theta, bits, strict=True)]
        assert copy.tolist() == expected


def test_perturb_leaves_theta_alone():
    theta = np.ones(10, dtype=np.float32)
    perturb(theta, 1, np.arange(3, dtype=np.uint64), start=0, epsilon=0.5)
    assert (theta == 1).all()


@given(
    terms=st.lists(st.tuples(seeds, st.integers(-(2**62) // 12, 2**62 // 12)), max_size=12),
    start=starts,
    length=st.integers(0, 80),
)
def test_weighted_sum_is_exact(terms, start, length):
    expected = [0] * length
    for seed, coefficient in terms:
        bits = reference.direction_bits(1, seed, start, start + length)
        expected = [x + (2 * bit - 1) * coefficient for x, bit in zip(expected, bits, strict=True)]
    total = weighted_sum(
        1,
        np.array([seed for seed, _ in terms], dtype=np.uint64),
        np.array([coefficient for _, coefficient in terms], dtype=np.int64),
        start,
        start + length,
    )
    assert total.tolist() == expected


def test_weighted_sum_refuses_a_seed_without_coefficient():
    with pytest.raises(ValueError, match="shorter"):
        weighted_sum(1, np.arange(3, dtype=np.uint64), np.ones(2, dtype=np.int64), 0, 4)
