import numpy as np
import pytest
from server.profiler.quadratic import GRADIENT, HESSIAN, START, loss

from fwdllm_server.profiler.curvature import Descent, descend


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_quadratic_loss_is_seen_as_it_is(scale):
    estimate = (scale * (GRADIENT + np.random.default_rng(2).normal(0, 0.5, len(GRADIENT)))).astype(np.float32)
    found = descend(loss, START, estimate, GRADIENT)

    curvature = float((HESSIAN * estimate) @ estimate)
    assert found.curvature == pytest.approx(curvature, rel=1e-3)
    assert found.slope == pytest.approx(float(estimate @ GRADIENT), rel=1e-4)
    assert found.best_drop == pytest.approx(found.slope**2 / (2 * curvature), rel=1e-3)
    assert found.drop == pytest.approx(found.expected_drop, rel=1e-3)
    assert found.drop >= 0.9 * found.best_drop
    again = descend(loss, START, estimate, GRADIENT, found)
    assert again.length == found.length


def test_a_loss_that_levels_off_promises_no_more_than_it_gave():
    """Its curvature vanishes far out, and (gᵀĝ)² / 2 ĝᵀHĝ with it grows beyond all bounds."""
    found = descend(
        lambda weights: 1 - 0.1 * float(np.tanh(-weights[0])), START[:1], np.ones(1, "f4"), np.ones(1, "f4") * 0.1
    )
    assert 0.05 < found.best_drop < 0.1


def test_a_loss_that_bends_down_promises_what_was_measured():
    def bent(weights):
        return 1 + float(np.sin(weights[0]))

    found = descend(bent, np.full(1, -0.3, "f4"), np.ones(1, "f4"), np.full(1, np.cos(0.3), "f4"))
    assert 0.3 < found.best_drop <= 1 - np.sin(0.3)


def test_where_no_slope_is_found_there_is_no_descent():
    assert descend(loss, START, -GRADIENT, GRADIENT) is None
    assert descend(loss, START, np.zeros_like(GRADIENT), GRADIENT) is None
    assert descend(lambda _: 1.0, START, GRADIENT, GRADIENT) is None
    assert descend(lambda weights: np.nan if weights.any() else 1.0, START, GRADIENT, GRADIENT) is None


def test_a_step_that_is_too_short_still_tells_the_best_drop():
    assert Descent(slope=2.0, curvature=1.0, length=1.9, drop=1.99).best_drop == 2.0
    assert Descent(slope=2.0, curvature=1.0, length=0.5, drop=0.87).best_drop == 0.87
    assert Descent(slope=2.0, curvature=-1.0, length=0.5, drop=1.1).best_drop == 1.1
