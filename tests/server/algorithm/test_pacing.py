"""The pacing statistics against simulation, where the true gradient is known."""

from math import inf

import numpy as np
import pytest

from fwdllm_common.directions import direction
from fwdllm_common.estimator import forward_gradient
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.layout import Block
from fwdllm_server.algorithm.pacing import relative_variance, split_half_variance

BLOCK = Block("peft", 5, 37)
D = BLOCK.size
GRADIENT = np.linspace(-1, 1.5, D)
SQUARED_NORM = float(GRADIENT @ GRADIENT)


def measured(run_key: int, count: int, noise: float = 0.0):
    """Seeds and the fixed-point derivatives g·v along them, each with its own data noise."""
    seeds = np.arange(count, dtype=np.uint64) + np.uint64(1 << 32)
    slopes = [GRADIENT @ direction(run_key, int(seed), BLOCK.start, BLOCK.stop) for seed in seeds]
    slopes += noise * np.random.default_rng(run_key).standard_normal(count)
    return seeds, np.rint(np.array(slopes) * SCALE).astype(np.int64)


def mean_over_runs(statistic, runs: int, count: int, noise: float = 0.0) -> float:
    return float(np.mean([statistic(key, *measured(key, count, noise), BLOCK) for key in range(runs)]))


def squared_error(run_key, seeds, coefficients, block) -> float:
    error = forward_gradient(run_key, seeds, coefficients, block) - GRADIENT
    return float(error @ error)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_relative_variance_is_the_error_of_the_estimate_over_the_squared_gradient(noise):
    """Within 10 %: 60 runs leave about 3 % of noise in the simulated error."""
    count, runs = 256, 60
    simulated = mean_over_runs(squared_error, runs, count, noise) / SQUARED_NORM

    assert mean_over_runs(relative_variance, runs, count, noise) == pytest.approx(simulated, rel=0.1)


def test_relative_variance_without_data_noise_is_d_minus_1_over_k():
    assert mean_over_runs(relative_variance, 60, 256) == pytest.approx((D - 1) / 256, rel=0.05)


def test_data_noise_adds_its_own_variance():
    noise = 3.0
    expected = ((D - 1) * SQUARED_NORM + D * noise**2) / 256 / SQUARED_NORM

    assert mean_over_runs(relative_variance, 60, 256, noise) == pytest.approx(expected, rel=0.05)


def test_relative_variance_is_the_textbook_variance_of_a_mean():
    seeds, coefficients = measured(3, 40, noise=1.0)
    terms = [c / SCALE * direction(3, int(s), BLOCK.start, BLOCK.stop) for s, c in zip(seeds, coefficients)]  # noqa: B905
    variance = np.var(terms, axis=0, ddof=1).sum() / 40
    mean = np.mean(terms, axis=0)

    assert relative_variance(3, seeds, coefficients, BLOCK) == pytest.approx(
        variance / (mean @ mean - variance), rel=1e-4
    )


def test_relative_variance_does_not_know_the_unit_of_the_loss():
    seeds, coefficients = measured(1, 64)

    assert relative_variance(1, seeds, 8 * coefficients, BLOCK) == pytest.approx(
        relative_variance(1, seeds, coefficients, BLOCK), rel=1e-5
    )


def test_noise_alone_is_never_good_enough():
    """Without a gradient the estimated signal is as often negative, and the variance then infinite, as not."""
    seeds = np.arange(64, dtype=np.uint64)
    found = []
    for key in range(40):
        noise = np.rint(np.random.default_rng(key).standard_normal(64) * SCALE).astype(np.int64)
        found.append(relative_variance(key, seeds, noise, BLOCK))

    assert min(found) > 1
    assert 10 < found.count(inf) < 30


@pytest.mark.parametrize("statistic", [relative_variance, split_half_variance])
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_scalars_say_nothing(statistic, count):
    seeds, coefficients = measured(1, 2)

    assert statistic(1, seeds[:count], coefficients[:count], BLOCK) == inf


def test_zeros_say_nothing_either():
    assert relative_variance(1, np.arange(8, dtype=np.uint64), np.zeros(8, dtype=np.int64), BLOCK) == inf


@pytest.mark.parametrize("count", [8, 32])
def test_the_papers_statistic_is_two_squared_gradients_over_k(count):
    """Exactly 2‖g‖²/K (1 − 1/d); within 5 %, where 600 runs leave about 1.5 %."""
    expected = 2 * SQUARED_NORM / count * (1 - 1 / D)

    assert mean_over_runs(split_half_variance, 600, count) == pytest.approx(expected, rel=0.05)


def test_the_papers_statistic_has_the_unit_of_the_squared_gradient():
    seeds, coefficients = measured(1, 64)

    assert split_half_variance(1, seeds, 8 * coefficients, BLOCK) == pytest.approx(
        64 * split_half_variance(1, seeds, coefficients, BLOCK), rel=1e-5
    )
