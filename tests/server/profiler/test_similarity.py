import numpy as np
import pytest
from server.profiler.quadratic import BLOCK, DIRECTIONS, GRADIENT, SIZE, exact_scalars

from fwdllm_server.profiler.similarity import forward_gradients, law, similarities


@pytest.fixture(scope="module")
def scalars():
    return exact_scalars(1024)


def test_exact_scalars_follow_the_law(scalars):
    found = similarities(DIRECTIONS, scalars, BLOCK, GRADIENT)
    assert [each.directions for each in found] == [1, 4, 16, 64, 256, 1024]
    assert [each.groups for each in found] == [16, 16, 16, 16, 4, 1]
    for each in found[2:-1]:
        assert (
            each.law == law(each.directions, SIZE) == pytest.approx((each.directions / (each.directions + SIZE)) ** 0.5)
        )
        assert abs(each.cosine - each.law) < 4 * each.std / each.groups**0.5
    assert found[-1].std is None
    assert found[-1].cosine == pytest.approx(found[-1].law, rel=0.05)


def test_all_directions_and_a_quarter_of_them_are_always_there():
    assert [each.directions for each in similarities(DIRECTIONS, exact_scalars(40), BLOCK, GRADIENT)] == [
        1,
        4,
        10,
        16,
        40,
    ]


def test_groups_are_disjoint(scalars):
    quarters = list(forward_gradients(DIRECTIONS, scalars, BLOCK, 256))
    (whole,) = forward_gradients(DIRECTIONS, scalars, BLOCK, 1024)
    np.testing.assert_allclose(np.mean(quarters, axis=0), whole, atol=1e-6)
