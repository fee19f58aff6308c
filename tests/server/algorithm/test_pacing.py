"""What the pacing statistics are for given scalars; what they are on average is in test_formulas.py."""

from math import inf

import numpy as np
import pytest
from helpers.tiny_job import job_spec, run_header

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.layout import Block, Layout, TensorSpec
from fwdllm_server.algorithm import BlockPlan, Run, forward_gradient
from fwdllm_server.algorithm.pacing import relative_variance, split_half_variance

BLOCK = Block("peft", 5, 37)
GRADIENT = np.linspace(-1, 1.5, BLOCK.size)
both = pytest.mark.parametrize("statistic", [relative_variance, split_half_variance])


def measured(directions: Directions, count: int, noise: float = 0.0):
    """Seeds and the fixed-point derivatives g·v along them, each with its own data noise."""
    seeds = np.arange(count, dtype=np.uint64) + np.uint64(1 << 32)
    slopes = np.array([GRADIENT @ directions.vector(int(seed), BLOCK.start, BLOCK.stop) for seed in seeds])
    slopes += noise * np.random.default_rng(directions.run_key).standard_normal(count)
    return seeds, np.rint(slopes * SCALE).astype(np.int64)


def test_relative_variance_of_rademacher_directions_is_the_textbook_variance_of_a_mean():
    directions = Directions(3)
    seeds, values = measured(directions, 40, noise=1.0)
    terms = [
        value / SCALE * directions.vector(int(seed), BLOCK.start, BLOCK.stop)
        for seed, value in zip(seeds, values, strict=True)
    ]
    variance = np.var(terms, axis=0, ddof=1).sum() / 40
    mean = np.mean(terms, axis=0)

    assert relative_variance(directions, seeds, values, BLOCK) == pytest.approx(
        variance / (mean @ mean - variance), rel=1e-4
    )


def test_the_papers_statistic_is_the_sample_variance_of_the_means_of_two_halves():
    directions = Directions(3, "gaussian")
    seeds, values = measured(directions, 41, noise=1.0)
    terms = np.stack(
        [
            value / SCALE * directions.vector(int(seed), BLOCK.start, BLOCK.stop)
            for seed, value in zip(seeds, values, strict=True)
        ]
    )
    halves = [terms[:20].mean(axis=0), terms[20:].mean(axis=0)]

    assert split_half_variance(directions, seeds, values, BLOCK) == pytest.approx(
        np.var(halves, axis=0, ddof=1).mean(), rel=1e-5
    )


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize(("statistic", "factor"), [(relative_variance, 1), (split_half_variance, 64)])
def test_relative_has_no_unit_and_absolute_that_of_the_squared_gradient(statistic, factor, distribution):
    directions = Directions(1, distribution)
    seeds, values = measured(directions, 64)

    assert statistic(directions, seeds, 8 * values, BLOCK) == pytest.approx(
        factor * statistic(directions, seeds, values, BLOCK), rel=1e-5
    )


def test_noise_alone_is_never_good_enough():
    """Without a gradient the estimated signal is as often negative, and the variance then infinite, as not."""
    seeds = np.arange(64, dtype=np.uint64)
    found = []
    for key in range(40):
        noise = np.rint(np.random.default_rng(key).standard_normal(64) * SCALE).astype(np.int64)
        found.append(relative_variance(Directions(key), seeds, noise, BLOCK))

    assert min(found) > 1
    assert 10 < found.count(inf) < 30


@both
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_scalars_say_nothing(statistic, count):
    directions = Directions(1)
    seeds, values = measured(directions, 2)

    assert statistic(directions, seeds[:count], values[:count], BLOCK) == inf


def test_zeros_say_nothing_either():
    zeros = np.zeros(8, dtype=np.int64)

    assert relative_variance(Directions(1), np.arange(8, dtype=np.uint64), zeros, BLOCK) == inf


# of one tensor

LAYOUT = Layout((TensorSpec("first", (13,), "peft"), TensorSpec("second", (4, 6), "peft")))


@both
@pytest.mark.parametrize("tensor", ["first", "second", ""])
def test_a_pacing_tensor_restricts_the_statistic_to_its_coordinates(statistic, tensor):
    pacing = {relative_variance: "relative", split_half_variance: "absolute"}[statistic]
    keys = {"directions": 200, "learning_rate": 0.1, "pacing": pacing, "pacing_tensor": tensor}
    spec = job_spec({"blocks.peft": keys, "blocks.head": None, "robust": {"clip": 0}})
    header = run_header(spec, LAYOUT)
    seeds, values = measured(header.directions, 200)
    scalars = [Scalar(int(seed), int(value), str(seed), 1) for seed, value in zip(seeds, values, strict=True)]
    plan = BlockPlan("peft", (range(1 << 32, (1 << 32) + 200),), 200, 1e-3, 16, 0.1)
    verdict = forward_gradient.judge(Run(spec, header, LAYOUT), plan, scalars, {})
    part = {"first": Block("peft", 0, 13), "second": Block("peft", 13, 37), "": Block("peft", 0, 37)}[tensor]

    assert verdict.variance == statistic(header.directions, seeds, values, part) < inf
