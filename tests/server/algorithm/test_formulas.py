"""The numbered formulas of docs/algorithm.md against simulation.

Directions are those of the code, so that every test sees the same numbers each time. A mean has to lie within four of
its standard errors, and these have to be small enough for a wrong term to be seen.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar, coefficients, forward_gradient
from fwdllm_common.fixed_point import SCALE, to_fixed_point
from fwdllm_common.layout import Block
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_server.algorithm.pacing import relative_variance, split_half_variance
from fwdllm_server.algorithm.sampling import nearest

DOCUMENT = Path(__file__).parents[3] / "docs" / "algorithm.md"
CHECKED: set[int] = set()
both = pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
D = 24
GRADIENT = np.linspace(-1, 1.5, D)
SQUARED = float(GRADIENT @ GRADIENT)
KURTOSIS = {"rademacher": 1.0, "gaussian": 3 - 1 / 32}


def formula(*numbers):
    """The test checks these formulas of the document."""
    CHECKED.update(numbers)
    return lambda test: test


def assert_mean(samples, expected, precision):
    """The mean over the first axis is ``expected``, and is known to the given share of the largest expected value."""
    samples = np.asarray(samples, dtype=np.float64)
    errors = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert np.max(errors) <= precision * np.max(np.abs(expected))
    assert (np.abs(samples.mean(axis=0) - expected) <= 4 * errors).all()


@dataclass
class Rounds:
    """Directions ``[rounds, K, d]`` and scalars g·v + n ``[rounds, K]`` of many independent rounds."""

    distribution: str
    v: np.ndarray
    c: np.ndarray

    @classmethod
    def draw(cls, distribution, rounds, count, gradient=GRADIENT, noise=0.0, key=0):
        """Each round has its own slice of the same few long directions."""
        d, directions = len(gradient), Directions(key, distribution)
        v = np.stack([directions.vector(seed, 0, rounds * d).reshape(rounds, d) for seed in range(count)], axis=1)
        c = v @ gradient + noise * np.random.default_rng(key).standard_normal((rounds, count))
        return cls(distribution, v.astype(np.float64), c)

    @property
    def estimates(self):
        """ĝ of each round."""
        return np.einsum("rk,rkd->rd", self.c, self.v) / self.c.shape[1]

    def signal_and_variance(self, part=slice(None)):
        """G and ‖ĝ‖² − G, by the document's words."""
        estimates, count = self.estimates[:, part], self.c.shape[1]
        squared, size = np.sum(estimates**2, axis=1), estimates.shape[1]
        kurtosis = KURTOSIS[self.distribution]
        signal = (count * squared - size * np.mean(self.c**2, axis=1)) / (count + kurtosis - 2)
        return np.stack([signal, squared - signal], axis=1)

    def absolute(self, part=slice(None)):
        """The mean over coordinates of the sample variance of the two halves' means, by the document's words."""
        terms = self.c[:, :, None] * self.v[:, :, part]
        half = terms.shape[1] // 2
        means = terms[:, :half].mean(axis=1), terms[:, half:].mean(axis=1)
        return np.var(means, axis=0, ddof=1).mean(axis=1)


def of_the_code(statistic, rounds, index, part=slice(0, D)):
    """A statistic of the code for one of the rounds, whose directions are a slice of those of key 0."""
    seeds, values = np.arange(rounds.c.shape[1], dtype=np.uint64), np.rint(rounds.c[index] * SCALE).astype(np.int64)
    block = Block("b", index * D + part.start, index * D + part.stop)
    return statistic(Directions(0, rounds.distribution), seeds, values, block)


@both
@pytest.mark.parametrize("part", [slice(0, D), slice(5, 11)], ids=["whole", "part"])
@pytest.mark.parametrize("count", [40, 41])
def test_what_is_simulated_is_what_the_code_computes(distribution, part, count):
    rounds = Rounds.draw(distribution, 10, count, noise=0.1)
    signals = rounds.signal_and_variance(part)
    relative = [variance / signal if signal > 0 else np.inf for signal, variance in signals]

    found = np.stack([of_the_code(forward_gradient, rounds, index, part) for index in range(10)])
    np.testing.assert_allclose(found, rounds.estimates[:, part], atol=1e-6)
    found = [of_the_code(relative_variance, rounds, index, part) for index in range(10)]
    np.testing.assert_allclose(found, relative, rtol=1e-4)
    found = [of_the_code(split_half_variance, rounds, index, part) for index in range(10)]
    np.testing.assert_allclose(found, rounds.absolute(part), rtol=1e-5)


# the scalar


@both
@formula(1)
def test_second_order_term_of_a_one_sided_difference(distribution):
    root = np.random.default_rng(1).normal(size=(D, D))
    hessian, epsilon = root @ root.T / D, 0.1
    v = Rounds.draw(distribution, 40000, 1).v[:, 0]

    def loss(x):
        return x @ GRADIENT + np.einsum("ki,ij,kj->k", x, hessian, x) / 2

    one_sided, central = loss(epsilon * v) / epsilon, (loss(epsilon * v) - loss(-epsilon * v)) / (2 * epsilon)
    expected = np.trace(hessian) ** 2 + 2 * np.sum(hessian**2)
    expected += (KURTOSIS[distribution] - 3) * np.sum(np.diag(hessian) ** 2)

    np.testing.assert_allclose(central, v @ GRADIENT, atol=1e-9)
    assert_mean((one_sided - v @ GRADIENT) ** 2 * 4 / epsilon**2, expected, 0.01)


@both
@formula(2)
def test_third_order_bias_of_both_differences(distribution):
    """L = Σ aᵢxᵢ³/6 + Σ bᵢxᵢxᵢ₊₁²/2 has no gradient and no Hessian at 0: the scalar is the third-order term alone."""
    epsilon, a, b = 0.1, np.array([1.0, -2.0, 0.5, 3.0]), np.array([2.0, 1.0, -1.0, 0.5])
    v = Rounds.draw(distribution, 200000, 1, np.zeros(4)).v[:, 0]

    def loss(x):
        return x**3 @ a / 6 + (x * np.roll(x, -1, axis=1) ** 2) @ b / 2

    by_formula = epsilon**2 / 6 * (3 * (a + b) + (KURTOSIS[distribution] - 3) * a)
    for slopes in (loss(epsilon * v) / epsilon, (loss(epsilon * v) - loss(-epsilon * v)) / (2 * epsilon)):
        assert_mean(slopes[:, None] * v, by_formula, 0.02)


# the estimate


@both
@formula(3, 4)
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_mean_and_variance_of_a_coordinate(distribution, noise):
    count = 8
    found = Rounds.draw(distribution, 20000, count, noise=noise).estimates
    by_formula = (SQUARED + noise**2 + (KURTOSIS[distribution] - 2) * GRADIENT**2) / count

    assert_mean(found, GRADIENT, 0.01)
    assert_mean((found - GRADIENT) ** 2, by_formula, 0.02)


@both
@formula(5)
@pytest.mark.parametrize(("count", "noise"), [(1, 0.0), (8, 0.0), (64, 0.0), (8, 3.0)])
def test_error_and_length_of_the_estimate(distribution, count, noise):
    found = Rounds.draw(distribution, 10000, count, noise=noise).estimates
    variance = ((D + KURTOSIS[distribution] - 2) * SQUARED + D * noise**2) / count

    assert_mean(np.sum((found - GRADIENT) ** 2, axis=1), variance, 0.02)
    assert_mean(np.sum(found**2, axis=1), SQUARED + variance, 0.02)
    if noise == 0:  # as the document puts it, with 3 for the kurtosis of the gaussian
        factor = (D + count - 1) / count if distribution == "rademacher" else (D + count + 1) / count
        assert SQUARED + variance == pytest.approx(factor * SQUARED, rel=0.002)


# weights

DEVICES = ((1, 40), (2, 10), (5, 50))  # directions, examples
OWNERS = [device for device, (count, _) in enumerate(DEVICES) for _ in range(count)]


def federated(rounds, gradients):
    """ĝ of three devices, each with its own gradient."""
    drawn = Rounds.draw("rademacher", rounds, len(OWNERS))
    drawn.c = np.sum(drawn.v * gradients[OWNERS], axis=2)
    for scalars in drawn.c:
        given = [
            Scalar(seed, to_fixed_point(value), str(owner), DEVICES[owner][1])
            for seed, (value, owner) in enumerate(zip(scalars, OWNERS, strict=True))
        ]
        scalars[:] = coefficients(given) / SCALE
    return drawn.estimates


@formula(6)
def test_devices_count_by_their_examples():
    gradients = np.stack([GRADIENT, -2 * GRADIENT[::-1], np.cos(np.arange(D))])

    assert_mean(federated(8000, gradients), np.array([0.4, 0.1, 0.5]) @ gradients, 0.05)


@formula(7)
def test_unequal_weights_are_as_good_as_fewer_directions():
    weights = np.concatenate([np.full(count, n * len(OWNERS) / (count * 100)) for count, n in DEVICES])
    assert weights.mean() == pytest.approx(1)
    errors = np.sum((federated(8000, np.stack([GRADIENT] * 3)) - GRADIENT) ** 2, axis=1)

    assert_mean(errors, (D - 1) * SQUARED * np.mean(weights**2) / len(OWNERS), 0.02)


# pacing


@both
@formula(8, 9)
@pytest.mark.parametrize(("count", "noise"), [(2, 0.0), (16, 0.0), (64, 0.0), (64, 3.0)])
def test_signal_and_variance_are_estimated_without_bias(distribution, count, noise):
    variance = ((D + KURTOSIS[distribution] - 2) * SQUARED + D * noise**2) / count
    found = Rounds.draw(distribution, 10000, count, noise=noise).signal_and_variance()

    assert_mean(found[:, 0], SQUARED, 0.06)
    assert_mean(found[:, 1], variance, 0.02)


def test_the_signal_is_the_mean_agreement_of_pairs():
    rounds = Rounds.draw("rademacher", 1, 30, noise=1.0)
    terms = rounds.c[0][:, None] * rounds.v[0]
    pairs = terms @ terms.T

    assert rounds.signal_and_variance()[0, 0] == pytest.approx((pairs.sum() - np.trace(pairs)) / (30 * 29))


@both
@formula(10)
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_expectation_of_relative(distribution, noise):
    """K is so large that the bias of the ratio is below the standard error."""
    count = 2048
    signal, variance = Rounds.draw(distribution, 200, count, noise=noise).signal_and_variance().T
    by_formula = (D + KURTOSIS[distribution] - 2) / count + D / count * noise**2 / SQUARED

    assert_mean(variance / signal, by_formula, 0.01)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@formula(11)
def test_no_signal_is_seen_below_the_root_of_2d(noise):
    d = 2000
    gradient = np.resize(GRADIENT, d) / np.linalg.norm(np.resize(GRADIENT, d))
    count = round(np.sqrt(2 * d))
    drawn = [Rounds.draw("gaussian", 50, count, gradient, noise, key) for key in range(12)]
    signals = np.concatenate([rounds.signal_and_variance()[:, 0] for rounds in drawn])
    by_formula = 2 * d * (1 + noise**2) ** 2 / count**2 + 4 * (2 + noise**2) / count

    assert_mean(signals, 1.0, 0.1)
    assert_mean((signals - 1) ** 2, by_formula, 0.1)
    assert 2 * d / count**2 == pytest.approx(
        1, rel=0.01
    )  # so that the deviation is ‖g‖² itself where there is no noise


@both
@formula(12)
@pytest.mark.parametrize(("count", "noise"), [(2, 0.0), (8, 0.0), (9, 0.0), (32, 3.0)])
def test_expectation_of_absolute(distribution, count, noise):
    half = count // 2
    factor = (1 / half + 1 / (count - half)) / 2
    assert count % 2 == 1 or factor == 2 / count
    statistics = Rounds.draw(distribution, 10000, count, noise=noise).absolute()

    assert_mean(statistics, factor * (SQUARED + noise**2 + (KURTOSIS[distribution] - 2) * SQUARED / D), 0.02)


@both
@formula(13)
def test_a_tensor_has_the_noise_of_the_whole_gradient(distribution):
    """Of a tensor with a small share of the squared gradient, `absolute` is that of the block and `relative` is not."""
    part, size, count, kurtosis = slice(6, 14), 8, 32, KURTOSIS[distribution]
    own = float(GRADIENT[part] @ GRADIENT[part])
    assert own < SQUARED / 15
    rounds = Rounds.draw(distribution, 20000, count)
    signal, variance = rounds.signal_and_variance(part).T

    assert_mean(rounds.absolute(part), 2 / count * (SQUARED + (kurtosis - 2) * own / size), 0.01)
    assert_mean(signal, own, 0.05)
    assert_mean(variance, (size * SQUARED + (kurtosis - 2) * own) / count, 0.01)


# sampling

KEEP = 0.1
CANDIDATES = 1000
WIDTH = 400


def normal_moments(absolute):
    """E z and E z² by formula 14."""
    normal = NormalDist()
    if absolute:
        q = normal.inv_cdf(1 - KEEP / 2)
        return 0.0, 1 + 2 * q * normal.pdf(q) / KEEP
    q = normal.inv_cdf(1 - KEEP)
    return normal.pdf(q) / KEEP, 1 + q * normal.pdf(q) / KEEP


def sampled(distribution, absolute, rounds):
    """The reference r of length 1, and for each round the directions that are kept of :data:`CANDIDATES`."""
    reference = np.random.default_rng(1).normal(size=WIDTH)
    reference /= np.linalg.norm(reference)
    for key in range(rounds):
        directions = Directions(key, distribution)
        target, keep = reference.astype(np.float32), round(KEEP * CANDIDATES)
        kept = nearest(directions, range(CANDIDATES), keep, target, [slice(0, WIDTH)], absolute)
        yield reference, np.stack([directions.vector(seed, 0, WIDTH) for seed in kept]).astype(np.float64)


@both
@pytest.mark.parametrize("absolute", [False, True], ids=["signed", "absolute"])
@formula(14)
def test_moments_along_the_reference(distribution, absolute):
    """The formula is that of many dimensions: what is left is of the order of 1 / WIDTH."""
    found = [v @ reference for reference, v in sampled(distribution, absolute, 60)]
    mean, square = normal_moments(absolute)

    for moment, expected in ((1, mean), (2, square)):
        samples = np.array([np.mean(z**moment) for z in found])
        error = samples.std(ddof=1) / np.sqrt(len(samples))
        assert error < 0.035
        assert abs(samples.mean() - expected) <= 4 * error + 4 * expected / WIDTH


def test_the_figures_of_the_document():
    assert normal_moments(absolute=False)[1] == pytest.approx(3.2, abs=0.05)
    assert normal_moments(absolute=True)[1] == pytest.approx(4.4, abs=0.05)


@both
@pytest.mark.parametrize("absolute", [False, True], ids=["signed", "absolute"])
@formula(15)
def test_bias_of_sampled_directions(distribution, absolute):
    """Along the reference and across it, without and with a part of the scalar that is there whatever v is."""
    rng, offset = np.random.default_rng(2), 1.0
    along, across, with_offset = [], [], []
    for reference, v in sampled(distribution, absolute, 80):
        gradient = rng.normal(size=WIDTH)
        gradient -= gradient @ reference * reference
        gradient /= np.linalg.norm(gradient)
        estimate = v @ (gradient + 0.5 * reference) @ v / len(v)
        along.append(estimate @ reference)
        across.append(estimate @ gradient)
        with_offset.append((estimate + offset * v.mean(axis=0)) @ reference)
    mean, square = normal_moments(absolute)

    assert_mean(along, 0.5 * square, 0.05)
    assert_mean(across, 1.0, 0.05)
    assert_mean(with_offset, 0.5 * square + offset * mean, 0.05)


# orthogonal directions


class Frames(Rounds):
    """Rounds of the first K directions of a frame each."""

    @classmethod
    def of(cls, rounds, count, noise=0.0):
        directions = OrthogonalDirections(3, 0, D)
        firsts = directions.order * np.arange(rounds, dtype=np.uint64)
        seeds = (firsts[:, None] + np.arange(count, dtype=np.uint64)).reshape(-1)
        v = (
            directions.perturb(np.zeros(D, dtype=np.float32), seeds, 0, 1.0)
            .astype(np.float64)
            .reshape(rounds, count, D)
        )
        return cls("orthogonal", v, v @ GRADIENT + noise * np.random.default_rng(1).standard_normal((rounds, count)))


ORDER = 32


@formula(16)
def test_a_frame_is_complete_and_centred():
    (v,) = Frames.of(1, ORDER).v
    assert (v.T @ v == ORDER * np.eye(D)).all()
    assert not v.sum(axis=0).any()


@pytest.mark.parametrize("count", [1, 8, 21, ORDER])
@formula(17)
def test_variance_of_a_part_of_a_frame(count):
    noise = 0.5
    estimates = Frames.of(4000, count, noise).estimates
    missing = (ORDER - count) / (ORDER - 1)
    assert_mean(estimates, GRADIENT, 0.1 if count == 1 else 0.05)
    expected = ((D - 1) * missing * SQUARED + D * noise**2) / count
    assert_mean(((estimates - GRADIENT) ** 2).sum(axis=1), expected, 0.03)


@pytest.mark.parametrize("count", [8, 21, ORDER])
@formula(18)
def test_signal_of_frames(count):
    noise, frames = 0.5, 3
    single = Frames.of(3000, count, noise)
    v = single.v.reshape(-1, frames * count, D)
    rounds = Rounds("rademacher", v, single.c.reshape(-1, frames * count))
    total, missing = frames * count, (ORDER - count) / (ORDER - 1)
    squared = np.sum(rounds.estimates**2, axis=1)
    signals = (total * squared - D * np.mean(rounds.c**2, axis=1)) / (total - D + (D - 1) * missing)
    assert_mean(signals, SQUARED, 0.03)

    directions = OrthogonalDirections(3, 0, D)
    seeds = np.array([number * ORDER + k for number in range(frames) for k in range(count)], dtype=np.uint64)
    found = relative_variance(directions, seeds, np.rint(rounds.c[0] * SCALE).astype(np.int64), Block("b", 0, D))
    assert found == pytest.approx(max(0.0, squared[0] - signals[0]) / signals[0], rel=1e-4)


def test_every_numbered_formula_is_checked():
    stated = [int(number) for number in re.findall(r" \((\d+)\)$", DOCUMENT.read_text(), re.MULTILINE)]

    assert stated == list(range(1, len(stated) + 1))
    assert set(stated) == CHECKED
