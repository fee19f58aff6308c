from statistics import fmean

import numpy as np
import pytest
from server.profiler.quadratic import BLOCK, DIRECTIONS, GRADIENT, HESSIAN, START, exact_scalars, loss

from fwdllm_server.profiler.curvature import Descent, descend
from fwdllm_server.profiler.progress import ExpectedProgress, expected_progress
from fwdllm_server.profiler.similarity import forward_gradients


def along(scalars, count, most):
    return [
        descend(loss, START, estimate, GRADIENT)
        for estimate in forward_gradients(DIRECTIONS, scalars, BLOCK, count, most)
    ]


@pytest.fixture(scope="module")
def progress():
    return expected_progress(descend(loss, START, GRADIENT, GRADIENT), along(exact_scalars(1024), 256, 4), 256)


def test_curvatures_are_those_of_the_derivation(progress):
    """ĝᵀHĝ / ‖g‖² = h + tr H / K, but for terms of order h / K."""
    own = float((HESSIAN * GRADIENT) @ GRADIENT / (GRADIENT @ GRADIENT))
    assert progress.own_curvature == pytest.approx(own, rel=1e-3)
    assert abs(progress.noise_curvature / HESSIAN.sum() - 1) < 4 * progress.error + 0.02


@pytest.mark.parametrize("count", [16, 64, 256])
def test_the_drop_with_other_numbers_of_directions_is_foretold(progress, count):
    scalars = exact_scalars(4096)
    drops = [descent.best_drop for descent in along(scalars, count, 16)]
    uncertain = 3 * progress.error + 3 * np.std(drops) / fmean(drops) / 4
    assert abs(progress.drop(count) / fmean(drops) - 1) < uncertain
    assert uncertain < 0.6


def test_half_of_the_true_gradients_drop(progress):
    assert progress.drop(progress.enough) == pytest.approx(progress.drop(1e12) / 2, rel=1e-6)


def test_another_scale_of_the_weights_changes_nothing(progress):
    """θ → 10 θ divides g by 10 and curvatures by 100."""
    scaled = ExpectedProgress(
        progress.gradient_sq / 100, progress.own_curvature / 100, progress.noise_curvature / 100, progress.error
    )
    assert scaled.drop(64) == pytest.approx(progress.drop(64))


def test_no_progress_where_a_group_leads_nowhere():
    down, level = Descent(1.0, 1.0, 1.0, 0.5), Descent(1.0, -1.0, 1.0, -0.5)
    assert expected_progress(down, [down, down], 4) is not None
    assert expected_progress(down, [down, None], 4) is None
    assert expected_progress(down, [down, level], 4) is None
    assert expected_progress(None, [down, down], 4) is None
