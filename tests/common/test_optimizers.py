from math import isqrt

import numpy as np
import pytest
from common.runs import KINDS
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.errors import BadInputError
from fwdllm_common.optimizers import TRUST_FLOOR, OptimizerSettings, OptimizerState, step

RATE = np.float32(0.125)
BY_LENGTH = ("normalized", "trust-ratio")
vectors = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


def steps(settings, gradients, start=None):
    theta = np.zeros(len(gradients[0]), dtype=np.float32) if start is None else np.array(start, dtype=np.float32)
    state = OptimizerState.zeros(settings, len(theta))
    path = []
    for gradient in gradients:
        step(settings, state, theta, np.array(gradient, dtype=np.float32), RATE)
        path.append(theta.tolist())
    return path


def rms(vector):
    return float(np.sqrt(np.mean(np.square(vector, dtype=np.float64))))


def test_sgd_steps_against_the_gradient():
    assert steps(OptimizerSettings("sgd"), [[1, -2], [4, 0]]) == [[-0.125, 0.25], [-0.625, 0.25]]


def test_momentum_adds_what_is_left_of_earlier_gradients():
    assert steps(OptimizerSettings("momentum", beta1=0.5), [[1.0], [0.0], [1.0]]) == [[-0.125], [-0.1875], [-0.34375]]


def test_adams_first_step_is_the_learning_rate_whatever_the_gradients_size():
    (theta,) = steps(OptimizerSettings("adam"), [[1e-3, -1.0, 1e3]])
    np.testing.assert_allclose(theta, [-0.125, 0.125, -0.125], rtol=1e-4)


def test_adam_follows_the_paper_in_double_precision():
    settings = OptimizerSettings("adam", beta1=0.8, beta2=0.95, epsilon=1e-6)
    gradients = np.random.default_rng(1).normal(size=(40, 6))
    theta, first, second = np.zeros(6), np.zeros(6), np.zeros(6)
    for t, gradient in enumerate(gradients, start=1):
        first = 0.8 * first + 0.2 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        theta -= RATE * (first / (1 - 0.8**t)) / (np.sqrt(second / (1 - 0.95**t)) + 1e-6)
    np.testing.assert_allclose(steps(settings, gradients)[-1], theta, rtol=1e-4)


# steps of a given length


@given(gradient=vectors, scale=st.integers(-30, 30))
def test_a_normalized_step_is_as_long_as_the_learning_rate_whatever_the_gradients_size(gradient, scale):
    gradient = np.ldexp(np.array(gradient), scale).astype(np.float32)
    (theta,) = steps(OptimizerSettings("normalized"), [gradient])
    length = rms(gradient * np.float32(0.1))
    if length > 1e-30:  # well above the smallest float32
        assert rms(theta) == pytest.approx(RATE, rel=1e-5)
        np.testing.assert_allclose(theta, -RATE * (gradient * np.float32(0.1)) / length, rtol=1e-5, atol=1e-12)
    elif length == 0:
        assert not np.any(theta)


@given(start=vectors, seed=st.integers(0, 99))
def test_a_trust_ratio_step_is_a_share_of_the_length_of_theta(start, seed):
    """The step is seen through θ's rounding: a few units in the last place of its largest coordinate."""
    start = np.array(start, dtype=np.float32)
    gradient = np.random.default_rng(seed).normal(size=len(start))
    (theta,) = steps(OptimizerSettings("trust-ratio"), [gradient], start)
    moved = np.array(theta) - start
    expected = RATE * max(rms(start), float(TRUST_FLOOR))
    assert rms(moved) == pytest.approx(expected, rel=1e-5, abs=float(np.abs(start).max()) * 2**-23)
    assert (moved * gradient <= 0).all()


def test_weights_that_start_at_zero_are_left_thanks_to_the_floor():
    (theta,) = steps(OptimizerSettings("trust-ratio"), [[3.0, -4.0]])
    assert rms(theta) == pytest.approx(RATE * 0.01, rel=1e-6)


def test_weights_above_the_floor_do_not_feel_it():
    (theta,) = steps(OptimizerSettings("trust-ratio"), [[1.0, -1.0]], [0.04, 0.04])
    assert theta == pytest.approx([0.04 - 0.125 * 0.04, 0.04 + 0.125 * 0.04], rel=1e-6)


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_the_direction_is_the_average_of_the_gradients_so_far(kind):
    """m = 0.5·(0.5·g₁) + 0.5·g₂ = (0.75, 0.5): the second step goes along it."""
    first, second = steps(OptimizerSettings(kind, beta1=0.5), [[1.0, 2.0], [1.0, 0.0]])
    moved = np.array(second) - first
    assert moved[0] / moved[1] == pytest.approx(0.75 / 0.5, rel=1e-5)


def on_the_border():
    """32 numbers whose root mean square is just above the middle of two float32, 2²⁴ and 2²⁴ + 2.

    Some squares add up to 32·(2²⁴ + 1)², the middle itself. Four others are each too small to change that in float64,
    so that a sum with roundings keeps or loses them by their place.
    """
    rest, large = 32 * (2**24 + 1) ** 2, []
    while rest:
        root = isqrt(rest)
        root -= root % max(1, 2 ** (root.bit_length() - 24))  # a float32
        large.append(root)
        rest -= root**2
    return np.array([*large, *[0.95] * 4, *[0] * (28 - len(large))], dtype=np.float32)


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_the_length_has_no_order(kind):
    settings, vector, rng = OptimizerSettings(kind, beta1=0), on_the_border(), np.random.default_rng(3)
    orders = [np.arange(32), np.arange(32)[::-1], *(rng.permutation(32) for _ in range(30))]
    assert {float(np.float32(rms(vector[order]))) for order in orders} == {2**24, 2**24 + 2}
    zeros, ones = np.zeros(32), np.ones(32)
    gradient, start = (vector, zeros) if kind == "normalized" else (ones, vector)
    paths = [steps(settings, [gradient[order]], start[order]) for order in orders]
    assert len({tuple(np.array(theta)[np.argsort(order)]) for (theta,), order in zip(paths, orders, strict=True)}) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_gradients_near_zero_give_no_nan(kind):
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    for gradient in (0.0, tiny, 1e-38):
        path = steps(OptimizerSettings(kind), [[gradient, 0.0], [0.0, 0.0], [-gradient, 0.0]])
        assert np.isfinite(path).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_gradient_does_not_move_theta(kind):
    assert steps(OptimizerSettings(kind), [[0.0], [0.0]]) == [[0.0], [0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_stays_float32(kind):
    settings = OptimizerSettings(kind)
    theta, state = np.zeros(3, dtype=np.float32), OptimizerState.zeros(settings, 3)
    step(settings, state, theta, np.ones(3, dtype=np.float32), RATE)
    assert {part.dtype for part in (theta, state.first, state.second)} == {np.dtype(np.float32)}
    assert isinstance(state.decay1, np.float32)
    assert isinstance(state.decay2, np.float32)


def test_a_step_of_many_coordinates_is_that_of_each_alone():
    settings = OptimizerSettings("adam")
    gradients = np.random.default_rng(2).normal(size=(3, 67)).astype(np.float32)
    together = np.array(steps(settings, gradients))
    alone = [steps(settings, gradients[:, i : i + 1]) for i in range(67)]
    assert np.concatenate(alone, axis=1).tolist() == together.tolist()


def test_settings_are_rounded_to_float32():
    settings = OptimizerSettings("adam", 0.9, 0.99, 1e-8)
    assert (settings.beta1, settings.beta2, settings.epsilon) == tuple(np.float32([0.9, 0.99, 1e-8]).tolist())


@pytest.mark.parametrize(
    "wrong",
    [{"beta1": 1.0}, {"beta1": -0.1}, {"beta2": 1 - 1e-12}, {"epsilon": 0.0}, {"epsilon": 1e-60}, {"epsilon": 1e60}]
    + [{name: float("nan")} for name in ("beta1", "beta2", "epsilon")],
    ids=str,
)
def test_settings_that_would_divide_by_zero_or_never_forget_are_refused(wrong):
    with pytest.raises(BadInputError, match=f"optimiser: {next(iter(wrong))}"):
        OptimizerSettings("adam", **wrong)
