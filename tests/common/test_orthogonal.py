"""Orthogonal directions: exact, complete, and the same in whatever pieces they are made."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.estimator import forward_gradient
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.layout import Block
from fwdllm_common.orthogonal import MAX_ORDER, OrthogonalDirections, order_for

RUN_KEY = 0x1234_5678_9ABC_DEF0
START = 7
RANDOM = np.random.default_rng(3)


def frame(size: int, number: int = 5) -> tuple[OrthogonalDirections, np.ndarray, np.ndarray]:
    """The directions of a block, the seeds of one frame and its vectors, int64 ``[n, size]``."""
    directions = OrthogonalDirections(RUN_KEY, START, size)
    seeds = np.arange(directions.order, dtype=np.uint64) + np.uint64(number * directions.order)
    vectors = np.array([directions.integers(int(seed), START, START + size) for seed in seeds], dtype=np.int64)
    return directions, seeds, vectors


@pytest.mark.parametrize("size", [1, 2, 5, 127, 128, 300])
def test_a_frame_is_orthogonal_and_what_all_scalars_share_cancels(size):
    directions, _, vectors = frame(size)
    assert directions.order == order_for(size) > size
    assert (np.abs(vectors) == 1).all()
    assert (vectors.T @ vectors == directions.order * np.eye(size, dtype=np.int64)).all()
    assert not vectors.sum(axis=0).any()


def test_all_scalars_of_a_frame_give_the_gradient_itself():
    directions, seeds, vectors = frame(300)
    gradient = RANDOM.integers(-1000, 1000, 300)
    scalars = (vectors @ gradient + 12_345) * SCALE  # with an error that all share
    found = forward_gradient(directions, seeds, scalars, Block("head", START, START + 300))
    assert (found == gradient).all()


def test_sums_are_those_of_the_vectors_in_any_pieces():
    directions, seeds, vectors = frame(300)
    more = np.concatenate([seeds[40:60], seeds[7:9], seeds[:3] + np.uint64(directions.order)])
    coefficients = RANDOM.integers(-(1 << 40), 1 << 40, len(more))
    rows = np.concatenate([vectors[40:60], vectors[7:9], frame(300, 6)[2][:3]])
    expected = coefficients @ rows
    assert (directions.weighted_sum(more, coefficients, START, START + 300) == expected).all()
    assert (directions.weighted_sum(more, coefficients, START + 11, START + 290) == expected[11:290]).all()
    order = RANDOM.permutation(len(more))
    assert (directions.weighted_sum(more[order], coefficients[order], START, START + 300) == expected).all()


def test_perturbed_copies_and_products_are_those_of_the_vectors():
    directions, seeds, vectors = frame(300)
    theta = RANDOM.normal(size=300).astype(np.float32)
    some = np.concatenate([seeds[[5, 1, 200]], seeds[:2] + np.uint64(directions.order)])
    rows = np.concatenate([vectors[[5, 1, 200]], frame(300, 6)[2][:2]]).astype(np.float32)
    assert (directions.perturb(theta, some, START, 0.01) == theta + np.float32(0.01) * rows).all()
    assert (
        directions.perturb(theta, seeds, START, -0.01) == theta - np.float32(0.01) * vectors.astype(np.float32)
    ).all()
    np.testing.assert_allclose(directions.products(some, theta), rows @ theta, atol=1e-4)


def test_frames_differ_in_signs_and_in_the_order_of_rows():
    signs = [frame(127, number)[2] for number in (5, 6)]
    # The product of two directions of a frame has no signs: it tells rows apart.
    rows = [(vectors[1:] * vectors[0]).tolist() for vectors in signs]
    assert rows[0] != rows[1]
    assert sorted(map(tuple, np.abs(signs[0]).tolist())) == sorted(map(tuple, np.abs(signs[1]).tolist()))
    assert 40 < (signs[0][0] != signs[1][0]).sum() < 90


def test_signs_are_those_of_the_rademacher_direction_of_the_first_seed():
    _, seeds, vectors = frame(300)
    first = Directions(RUN_KEY).integers(int(seeds[0]), 0, 300)
    constant = vectors * first  # rows of the Hadamard matrix itself
    spectrum = {tuple(row) for row in constant[:, :3].tolist()}
    assert spectrum == {(a, b, a * b) for a in (-1, 1) for b in (-1, 1)}  # columns 1, 2 and 3


def test_the_bits_are_fixed():
    vectors = b"".join(frame(size)[2].astype(np.int8).tobytes() for size in (1, 5, 127, 300))
    assert hashlib.sha256(vectors).hexdigest() == "ab4e9eb9ad6f8d1cbe4529370db64e8d691e19808e291e9e3cda67c9620c64fe"


def test_blocks_that_are_too_large_are_refused():
    assert order_for(MAX_ORDER - 1) == MAX_ORDER
    with pytest.raises(BadInputError, match="at most"):
        OrthogonalDirections(RUN_KEY, 0, MAX_ORDER)
