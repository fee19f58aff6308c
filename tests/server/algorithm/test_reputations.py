"""Devices that contradict the others are found out, those that are unlike them are not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny_job import LAYOUT, THETA, job_spec, run_header
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar, coefficients, forward_gradient
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.layout import Block
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import Run
from fwdllm_server.algorithm import forward_gradient as method
from fwdllm_server.algorithm.robust_aggregation import (
    Reputation,
    Reputations,
    contradicting,
    exclude_outliers,
    reputations_after,
    update_reputations,
)

DIRECTIONS = Directions(1234, "rademacher")
SIZE, PER_DEVICE = 400, 32
BLOCK = Block("head", 100, 100 + SIZE)
GRADIENT = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)


def round_of(number: int, devices: dict[str, np.ndarray], per_device: int = PER_DEVICE) -> list[Scalar]:
    """What devices with these gradients measure, each along directions of its own."""
    scalars = []
    for index, (name, gradient) in enumerate(devices.items()):
        for direction in range(per_device):
            seed = (number * 1000 + index) * 1000 + direction
            slope = float(DIRECTIONS.vector(seed, BLOCK.start, BLOCK.stop) @ gradient)
            scalars.append(Scalar(seed, round(slope * SCALE), name, 10))
    return scalars


def own_gradients(count: int, share: float, seed: int = 2) -> dict[str, np.ndarray]:
    """Devices that have ``share`` of the gradient's direction in common, and the rest to themselves."""
    generator = np.random.default_rng(seed)
    own = generator.normal(size=(count, SIZE)) * np.sqrt(1 - share**2)
    return {f"d{index}": (share * GRADIENT + noise).astype(np.float32) for index, noise in enumerate(own)}


def left_out_after(devices: dict[str, np.ndarray], rounds: int, line: np.ndarray = GRADIENT) -> set[str]:
    reputations: dict[str, Reputation] = {}
    for number in range(rounds):
        scalars = round_of(number, devices)
        reputations |= update_reputations(DIRECTIONS, scalars, line, BLOCK, reputations)
    counting = {scalar.device for scalar in exclude_outliers(scalars, reputations)}
    return set(devices) - counting


def test_those_that_flip_signs_are_left_out_and_nobody_else():
    devices = own_gradients(20, share=0.3)
    liars = {f"d{index}" for index in (3, 8, 9, 15)}
    lying = {name: -gradient if name in liars else gradient for name, gradient in devices.items()}

    assert left_out_after(lying, rounds=10) == liars
    assert left_out_after(devices, rounds=10) == set()


def test_also_when_the_line_points_backwards():
    """The optimiser has gone too far: the honest contradict it, and agree with each other."""
    devices = own_gradients(20, share=0.3)
    devices["d4"] = -devices["d4"]

    assert left_out_after(devices, rounds=10, line=-GRADIENT) == {"d4"}


def test_where_nobody_agrees_nobody_is_left_out():
    generator = np.random.default_rng(5)
    devices = {f"d{index}": generator.normal(size=SIZE).astype(np.float32) for index in range(20)}

    assert left_out_after(devices, rounds=6) == set()


def test_a_device_whose_data_are_unlike_the_others_but_not_against_them_counts():
    devices = own_gradients(20, share=0.5)
    across = np.random.default_rng(7).normal(size=SIZE)
    across -= GRADIENT * (across @ GRADIENT) / (GRADIENT @ GRADIENT)
    devices["d0"] = (across + 0.2 * GRADIENT).astype(np.float32)

    assert left_out_after(devices, rounds=12) == set()


def test_loudness_gives_no_more_votes():
    devices = own_gradients(5, share=0.9)
    quiet = update_reputations(DIRECTIONS, round_of(1, devices), GRADIENT, BLOCK, {})
    loud = update_reputations(
        DIRECTIONS, round_of(1, {name: 100 * g for name, g in devices.items()}), GRADIENT, BLOCK, {}
    )

    assert {name: s.votes for name, s in loud.items()} == pytest.approx(
        {name: s.votes for name, s in quiet.items()}, 1e-3
    )


def test_devices_with_few_scalars_vote_too_and_are_found_out():
    """Else one that is given few directions could lie for ever."""
    devices = own_gradients(20, share=0.9)
    devices["d4"] = -devices["d4"]
    reputations: dict[str, Reputation] = {}
    for number in range(25):
        reputations |= update_reputations(DIRECTIONS, round_of(number, devices, 3), GRADIENT, BLOCK, reputations)

    assert set(reputations) == set(devices)
    assert contradicting(reputations) == {"d4"}


def test_one_that_mends_its_ways_is_believed_again():
    reputation = Reputation()
    for _ in range(10):
        reputation = reputation.after(-1.0)
    wrong = reputation.deviations
    for _ in range(20):
        reputation = reputation.after(1.0)

    assert wrong < -2 < 1 < reputation.deviations


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50))
def test_without_a_cause_deviations_have_the_variance_of_one_vote(votes):
    """Σ wᵢ vᵢ / √Σ wᵢ²: votes that are standard normal give a standard normal."""
    reputation = Reputation()
    for vote in votes:
        reputation = reputation.after(vote)
    weights = 0.97 ** np.arange(len(votes))[::-1]

    assert reputation.weight == pytest.approx(weights.sum(), 1e-6)
    assert reputation.deviations == pytest.approx(weights @ votes / np.sqrt(weights @ weights), abs=1e-9)


def test_the_algorithm_lets_devices_vote_along_its_momentum_and_leaves_liars_out():
    spec = job_spec({"blocks.head": {"directions": 90}, "blocks.peft": None})
    header = run_header(spec)
    run, state = Run(spec, header, LAYOUT), ModelState.initial(header, LAYOUT, THETA)
    block, gradient = LAYOUT.block("head"), np.ones(6, np.float32)
    reputations: dict[str, Reputation] = {}
    last = None
    for number in range(1, 8):
        plan = method.plan(run, number, state, last)
        scalars = {"head": []}
        for index, seed in enumerate(plan[0].seeds):
            slope = float(header.directions.vector(seed, block.start, block.stop) @ gradient)
            sign = -1 if index % 5 == 0 else 1
            scalars["head"].append(Scalar(seed, round(sign * slope * SCALE), f"d{index % 5}", 10))
        reputations |= reputations_after(run, plan, scalars, state, last, reputations)
        trusted = {"head": exclude_outliers(scalars["head"], reputations)}
        last = state.advance(LedgerEntry(number, method.update(run, plan, trusted, {}), b""))

    assert {name: reputation.deviations < 0 for name, reputation in reputations.items()} == {
        f"d{index}": index == 0 for index in range(5)
    }
    assert len(last.updates[0].seeds) == 90 * 4 // 5


def test_nobody_is_left_out_before_its_third_round():
    reputations = {"liar": Reputation(), "one": Reputation(), "two": Reputation()}
    left_out = []
    for _ in range(3):
        reputations = {name: known.after(-4.0 if name == "liar" else 4.0) for name, known in reputations.items()}
        left_out.append(contradicting(reputations))
    assert left_out == [frozenset(), frozenset(), frozenset({"liar"})]


def rates(signal: float, spread: float, liars: int, rounds: int = 40, devices: int = 20) -> tuple[float, float]:
    """Shares of device-rounds in which honest devices are left out, and from round 20 on those that flip signs.

    An honest device's vote of a round has the mean ``signal``, give or take the ``spread`` between devices, and the
    variance 1 of chance.
    """
    generator = np.random.default_rng(11)
    alarms = found = 0
    runs = 30
    for _ in range(runs):
        means = generator.normal(signal, spread, devices)
        means[:liars] *= -1
        reputations: Reputations = {f"d{index}": Reputation() for index in range(devices)}
        for number in range(rounds):
            votes = means + generator.normal(size=devices)
            votes *= np.sign(np.median(votes))
            reputations = {
                name: reputation.after(float(vote))
                for (name, reputation), vote in zip(reputations.items(), votes, strict=True)
            }
            left_out = contradicting(reputations)
            caught = sum(int(name[1:]) < liars for name in left_out)
            alarms += len(left_out) - caught
            found += caught if number >= 20 else 0
    return alarms / (runs * rounds * (devices - liars)), found / max(1, runs * (rounds - 20) * liars)


@pytest.mark.parametrize(("signal", "spread"), [(1.0, 0.0), (1.0, 0.3), (0.5, 0.0), (0.5, 0.1), (0.3, 0.0), (0.0, 0.0)])
def test_honest_devices_are_left_out_in_one_round_of_a_thousand_at_most(signal, spread):
    """Whether the line predicts much, as at the beginning, or next to nothing, as where the loss is flat."""
    assert rates(signal, spread, liars=0)[0] <= 0.001


@pytest.mark.parametrize(
    ("signal", "spread", "at_least"),
    # Votes that count 0.9 a round later, and one standard deviation of contradiction, find 0.999, 0.979 and 0.582 of
    # them, and have up to ten times as many false alarms.
    [(1.0, 0.0, 0.98), (1.0, 0.3, 0.93), (0.5, 0.0, 0.58)],
)
def test_those_that_flip_signs_are_found(signal, spread, at_least):
    alarms, found = rates(signal, spread, liars=4)

    assert found >= at_least
    assert alarms <= 0.001


CLASSES, WIDTH, ROWS = 6, 16, 100


def softmax_gradient(theta: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the mean cross-entropy of a linear head."""
    logits = features @ theta[: CLASSES * WIDTH].reshape(CLASSES, WIDTH).T + theta[CLASSES * WIDTH :]
    errors = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1
    return np.concatenate([(errors.T @ features / len(labels)).ravel(), errors.mean(axis=0)])


def trained_with(liars: int, devices: int = 20, rounds: int = 50) -> tuple[int, int]:
    """Train a head on devices with skewed labels (Dirichlet, α = 0.5); how often honest ones and liars are left out."""
    generator = np.random.default_rng(0)
    means = generator.normal(size=(CLASSES, WIDTH)) * 1.2
    shares = generator.dirichlet(np.full(CLASSES, 0.5), devices)
    labels = [generator.choice(CLASSES, ROWS, p=share) for share in shares]
    rows = [(means[own] + generator.normal(size=(ROWS, WIDTH)), own) for own in labels]
    block = Block("head", 0, CLASSES * (WIDTH + 1))
    theta, momentum, squares = np.zeros((3, block.size))
    reputations: Reputations = {}
    honest = caught = 0
    for number in range(rounds):
        batches = [generator.choice(ROWS, 16, replace=False) for _ in rows]
        gradients = {
            f"d{index}": softmax_gradient(theta, features[batch], own[batch]) * (-1 if index < liars else 1)
            for index, ((features, own), batch) in enumerate(zip(rows, batches, strict=True))
        }
        scalars = [
            Scalar(seed, round(float(DIRECTIONS.vector(seed, 0, block.size) @ gradient) * SCALE), name, ROWS)
            for index, (name, gradient) in enumerate(gradients.items())
            for seed in range((number * devices + index) * 1000, (number * devices + index) * 1000 + 24)
        ]
        reputations = {
            **reputations,
            **update_reputations(DIRECTIONS, scalars, momentum.astype(np.float32), block, reputations),
        }
        left_out = contradicting(reputations)
        lying = sum(int(name[1:]) < liars for name in left_out)
        honest, caught = honest + len(left_out) - lying, caught + lying
        kept = exclude_outliers(scalars, reputations)
        seeds = np.array([scalar.seed for scalar in kept], dtype=np.uint64)
        estimate = forward_gradient(DIRECTIONS, seeds, coefficients(kept), block).astype(np.float64)
        momentum, squares = 0.9 * momentum + 0.1 * estimate, 0.99 * squares + 0.01 * estimate**2
        corrected = momentum / (1 - 0.9 ** (number + 1)) / (np.sqrt(squares / (1 - 0.99 ** (number + 1))) + 1e-8)
        theta = theta - 0.1 * corrected
    return honest, caught


def test_in_training_on_skewed_labels_no_honest_device_is_left_out():
    """One standard deviation of contradiction, of votes that count 0.9 a round later, left one in 120 out."""
    assert trained_with(liars=0) == (0, 0)


def test_in_training_on_skewed_labels_those_that_flip_signs_are_found():
    """The same found 0.46 of them, while the first votes were counted and where the loss had become flat."""
    honest, caught = trained_with(liars=4)

    assert honest == 0
    assert caught > 0.46 * 4 * 50
