import numpy as np
import pytest
from common.runs import KINDS

from fwdllm_common.errors import BadInputError
from fwdllm_common.optimizers import OptimizerSettings, OptimizerState, step

RATE = np.float32(0.125)


def steps(settings, gradients):
    theta = np.zeros(len(gradients[0]), dtype=np.float32)
    state = OptimizerState.zeros(settings, len(theta))
    path = []
    for gradient in gradients:
        step(settings, state, theta, np.array(gradient, dtype=np.float32), RATE)
        path.append(theta.tolist())
    return path


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
