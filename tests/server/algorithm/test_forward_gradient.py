import numpy as np
import pytest
from helpers.tiny_job import LAYOUT, THETA, job_spec, run_header

from fwdllm_common.estimator import Scalar
from fwdllm_common.fixed_point import to_fixed_point
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import BlockPlan, Run, forward_gradient

TARGET = np.linspace(2, -1, LAYOUT.size)
CURVATURE = np.geomspace(0.3, 1, LAYOUT.size)


def loss(theta) -> float:
    """A quadratic whose minimum is at the target, with loss 0."""
    return float(CURVATURE @ (theta.astype(np.float64) - TARGET) ** 2) / 2


def make(sections=None):
    spec = job_spec(sections or {})
    header = run_header(spec)
    return Run(spec, header, LAYOUT), ModelState.initial(header, LAYOUT, THETA)


def measure(plan: BlockPlan, state: ModelState) -> list[Scalar]:
    """What a device does: the derivative along each direction."""
    block = LAYOUT.block(plan.block)
    seeds = np.array(plan.seeds, dtype=np.uint64)

    def losses(epsilon):
        theta = np.tile(state.theta, (len(seeds), 1))
        theta[:, block.slice] = state.header.directions.perturb(theta[0, block.slice], seeds, block.start, epsilon)
        return np.array([loss(each) for each in theta])

    if plan.central:
        slopes = (losses(plan.epsilon) - losses(-plan.epsilon)) / (2 * plan.epsilon)
    else:
        slopes = (losses(plan.epsilon) - loss(state.theta)) / plan.epsilon
    return [Scalar(int(seed), to_fixed_point(slope), "a", 1) for seed, slope in zip(seeds, slopes, strict=True)]


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("difference", ["one-sided", "central"])
@pytest.mark.parametrize(
    ("optimizer", "learning_rate"),
    [
        ({"kind": "sgd"}, 0.5),
        ({"kind": "momentum", "beta1": 0.8}, 0.1),
        ({"kind": "adam"}, 0.1),
        ({"kind": "normalized"}, 0.1),
        ({"kind": "trust-ratio"}, 0.1),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_a_quadratic_is_minimised(optimizer, learning_rate, difference, distribution):
    """From loss 8 to below a thousandth of it in 120 rounds of 2 x 16 directions."""
    block = {"directions": 16, "learning_rate": learning_rate}
    sections = {
        "optimizer": {**optimizer, "schedule": "cosine"},
        "rounds": {"count": 120},
        "robust": {"clip": 0},
        "perturbation": {
            "epsilon": 1e-4,
            "relative": 0.0,
            "difference": difference,
            "distribution": distribution,
        },
        "blocks.peft": block,
        "blocks.head": block,
    }
    run, state = make(sections)
    before = loss(state.theta)
    for number in range(1, 121):
        plans = forward_gradient.plan(run, number, state, None)
        scalars = {plan.block: measure(plan, state) for plan in plans}
        state.advance(LedgerEntry(state.version + 1, forward_gradient.update(run, plans, scalars, {}), b""))

    assert loss(state.theta) < before / 1000


def test_a_block_that_takes_no_part_stays_as_it_was():
    run, state = make({"blocks.peft": None})
    plans = forward_gradient.plan(run, 1, state, None)
    scalars = {plan.block: measure(plan, state) for plan in plans}
    state.advance(LedgerEntry(1, forward_gradient.update(run, plans, scalars, {}), b""))
    peft, head = (LAYOUT.block(name).slice for name in ("peft", "head"))

    assert np.array_equal(state.theta[peft], THETA[peft])
    assert not np.array_equal(state.theta[head], THETA[head])


@pytest.mark.parametrize("order", range(5))
def test_the_order_in_which_scalars_come_does_not_matter(order):
    """Three devices with unlike numbers of rows and of directions; the entry and θ are the same bytes."""
    (first, state), (second, other_state) = make(), make()
    shuffle = np.random.default_rng(order).permutation
    plans = forward_gradient.plan(first, 1, state, None)
    scalars = {
        plan.block: [
            Scalar(scalar.seed, scalar.value, "abc"[min(index, 2)], (10, 20, 70)[min(index, 2)])
            for index, scalar in enumerate(measure(plan, state))
        ]
        for plan in plans
    }
    shuffled = {block: [found[index] for index in shuffle(len(found))] for block, found in scalars.items()}
    entry = state.advance(LedgerEntry(1, forward_gradient.update(first, plans, scalars, {}), b""))
    other = other_state.advance(LedgerEntry(1, forward_gradient.update(second, plans, shuffled, {}), b""))

    assert entry.to_bytes() == other.to_bytes()
    assert state.to_bytes() == other_state.to_bytes()


# judging


def judge(scalars: int, plan_wanted: int, **head):
    run, state = make({"blocks.head": {"directions": 9, **head}})
    plan = forward_gradient.plan(run, 1, state, None)[1]
    plan = plan.extended(plan_wanted, range(plan.end_seed, plan.first_seed + plan_wanted))
    return forward_gradient.judge(run, plan, measure(plan, state)[:scalars], {})


def test_without_a_threshold_any_estimate_is_enough():
    assert judge(2, 9).enough


def test_a_strict_threshold_asks_for_more():
    verdict = judge(9, 9, max_directions=18, variance_threshold=1e-9)

    assert (verdict.enough, verdict.threshold) == (False, 1e-9)
    assert verdict.variance > 1e-9


def test_the_maximum_is_enough_whatever_the_variance():
    verdict = judge(18, 18, max_directions=18, variance_threshold=1e-9)

    assert verdict.enough
    assert verdict.reason == "head: 18 directions, the most allowed"


def test_without_a_maximum_there_is_but_one_step():
    assert judge(9, 9, variance_threshold=1e-9).enough


def test_a_loose_threshold_is_met_and_says_so():
    verdict = judge(9, 9, max_directions=18, variance_threshold=1e9, pacing="absolute")

    assert verdict.enough
    assert "absolute variance" in verdict.reason
    assert "is within 1e+09" in verdict.reason
