"""Spans of scalars: what one scalar after the other would come to."""

import numpy as np
import pytest

from fwdllm_common import estimator
from fwdllm_common.estimator import Scalar
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_server.algorithm import complete, robust_aggregation
from fwdllm_server.algorithm.complete import Span

RANDOM = np.random.default_rng(0)
SIZE = 100
DIRECTIONS = OrthogonalDirections(5, 0, SIZE)
N = DIRECTIONS.order
LOUD = 30
SPANS = [
    Span(number * N + first, np.rint(loud * RANDOM.normal(size=count) * SCALE).astype(np.int64), device, examples)
    for number, first, count, device, loud, examples in (
        (2, 0, N, "b", 1, 40),
        (1, 0, 50, "a", 2, 90),
        (1, 50, 30, "a", 2, 90),
        (0, 0, N, "c", LOUD, 10),
    )
]
SCALARS = [
    Scalar(int(seed), int(value), span.device, span.examples)
    for span in SPANS
    for seed, value in zip(span.seeds, span.values, strict=True)
]


def test_the_scale_is_that_of_the_scalars():
    assert complete.scale_of(SPANS) == pytest.approx(robust_aggregation.scale_of(SCALARS), abs=1)


def test_loud_devices_and_large_scalars_are_held_back_alike():
    scale = complete.scale_of(SPANS)
    found = {
        int(seed): value
        for span in complete.restrained(SPANS, scale, 3.0)
        for seed, value in zip(span.seeds, span.values, strict=True)
    }
    expected = robust_aggregation.clipped(robust_aggregation.rescale_devices(SCALARS, scale), 3 * scale)
    assert found.keys() == {scalar.seed for scalar in expected}
    for scalar in expected:
        assert found[scalar.seed] == pytest.approx(scalar.value, abs=2)


def test_coefficients_are_those_of_the_scalars_but_for_the_packing():
    seeds, found = complete.coefficients(SPANS)
    ordered = sorted(SCALARS, key=lambda scalar: scalar.seed)
    expected = estimator.coefficients(ordered)
    assert seeds.tolist() == [scalar.seed for scalar in ordered]
    np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 2**14)


def test_devices_vote_by_the_sign_of_their_slopes_and_not_by_their_number():
    line = RANDOM.normal(size=SIZE).astype(np.float32)
    seeds = np.arange(3 * N, dtype=np.uint64)
    slopes = np.rint(DIRECTIONS.products(seeds, line) * SCALE).astype(np.int64)
    spans = [
        Span(0, slopes[:N], "a", 1),
        Span(N, 5 * slopes[N : N + 20], "b", 1),
        Span(2 * N, -slopes[2 * N :], "liar", 1),
    ]
    votes = complete.votes(DIRECTIONS, spans, line)
    assert votes["a"] == pytest.approx(1)
    assert votes["b"] == pytest.approx(1)
    assert votes["liar"] == pytest.approx(-1)
    assert not complete.votes(DIRECTIONS, spans, np.zeros(SIZE, dtype=np.float32))
    assert [span.device for span in robust_aggregation.without(spans, {"liar"})] == ["a", "b"]
