from itertools import pairwise
from math import cos, pi

import numpy as np
import pytest
from helpers.tiny_job import LAYOUT, THETA, job_spec, run_header
from hypothesis import given, settings
from hypothesis import strategies as st

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.replay import ModelState
from fwdllm_common.seeds import ranges_of
from fwdllm_server.algorithm import BlockPlan, Run, forward_gradient
from fwdllm_server.algorithm.plan import plans_from_json, plans_to_json

ascending = st.sets(st.integers(0, 60) | st.integers(0, 2**63 - 1), max_size=40).map(sorted)


def make(sections=None, version=0, theta=THETA) -> tuple[Run, ModelState]:
    spec = job_spec(sections or {})
    header = run_header(spec, theta=theta)
    state = ModelState.initial(header, LAYOUT, theta)
    state.version = version
    return Run(spec, header, LAYOUT), state


def _spare(run: Run) -> float:
    return run.spec.rounds.over_assigned(dropout_rate=0.0)


def plan(sections=None, version=0, round_number=1, theta=THETA) -> dict[str, BlockPlan]:
    run, state = make(sections, version, theta)
    return {each.block: each for each in forward_gradient.plan(run, round_number, state, None, _spare(run))}


# what takes part


def test_the_blocks_come_in_the_order_of_the_layout():
    assert list(plan()) == list(LAYOUT.blocks)


@pytest.mark.parametrize(
    ("first_round", "every", "steps"),
    [(1, 1, [1, 2, 3, 4, 5, 6, 7]), (3, 1, [3, 4, 5, 6, 7]), (1, 3, [1, 4, 7]), (2, 3, [2, 5]), (7, 9, [7])],
)
def test_a_block_takes_part_from_its_first_round_on_every_so_many(first_round, every, steps):
    sections = {"blocks.peft": {"first_round": first_round, "every": every}}

    assert [step for step in range(1, 8) if "peft" in plan(sections, version=step - 1)] == steps


def test_it_is_committed_rounds_that_count_not_abandoned_ones():
    assert "peft" not in plan({"blocks.peft": {"first_round": 2}}, version=0, round_number=9)


def test_a_block_without_a_section_takes_no_part():
    assert list(plan({"blocks.peft": None})) == ["head"]


@pytest.mark.parametrize(("difference", "central"), [("one-sided", False), ("central", True)])
def test_the_plan_says_which_difference_is_measured(difference, central):
    assert {each.central for each in plan({"perturbation": {"difference": difference}}).values()} == {central}


def test_a_section_for_a_block_that_the_model_lacks_is_an_error():
    layout = Layout((TensorSpec("classifier", (2, 3), "head"),))
    spec = job_spec()

    with pytest.raises(BadInputError, match="unknown block 'peft'; this model has head"):
        Run(spec, run_header(spec, layout), layout)


def test_a_pacing_tensor_that_the_block_lacks_is_an_error():
    spec = job_spec({"blocks.peft": {"pacing_tensor": "classifier"}})

    with pytest.raises(BadInputError, match="block 'peft' has no tensor 'classifier'; it has lora_B"):
        Run(spec, run_header(spec), LAYOUT)


# ε


def test_epsilon_is_relative_to_the_weights_of_its_block():
    sections = {"perturbation": {"epsilon": 1e-9, "relative": 0.5}}
    theta = np.concatenate([np.full(8, 3, np.float32), np.full(6, -0.25, np.float32)])
    found = plan(sections, theta=theta)

    assert (found["peft"].epsilon, found["head"].epsilon) == (1.5, 0.125)


def test_epsilon_has_a_floor_for_weights_that_begin_at_zero():
    found = plan({"perturbation": {"epsilon": 0.004}}, theta=np.zeros_like(THETA))

    assert {each.epsilon for each in found.values()} == {0.004}


# the learning rate


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [(1 + cos(pi * step / 4)) / 2 for step in range(4)]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, factors):
    sections = {"optimizer": {"schedule": schedule}, "rounds": {"count": 4}}
    rates = [plan(sections, version)["head"].learning_rate for version in range(4)]

    assert rates == pytest.approx([0.2 * factor for factor in factors])
    assert min(rates) > 0


# how many directions


@pytest.mark.parametrize(
    ("directions", "over_assign", "assigned"),
    [(9, 1, 9), (9, 1.5, 14), (10, 1.1, 11), (100, 1.1, 110), (1, 1.01, 2), (65536, 4, 65536)],
)
def test_over_assignment_rounds_up_and_stays_within_what_a_round_can_hold(directions, over_assign, assigned):
    sections = {"blocks.head": {"directions": directions}, "rounds": {"over_assign": over_assign}}
    head = plan(sections)["head"]

    assert (head.wanted, len(head.seeds)) == (directions, assigned)


def test_a_plan_is_extended_in_steps_up_to_its_maximum_and_keeps_its_seeds():
    subject, state = make({"blocks.head": {"directions": 9, "max_directions": 24}})
    first = forward_gradient.plan(subject, 1, state, None, _spare(subject))[1]
    second = forward_gradient.extend(subject, first, state, None, _spare(subject))
    third = forward_gradient.extend(subject, second, state, None, _spare(subject))

    assert [each.wanted for each in (first, second, third)] == [9, 18, 24]
    for each in (first, second, third):
        assert each.seeds == list(range(first.first_seed, first.first_seed + each.wanted))
        assert each.end_seed == first.first_seed + each.wanted


def test_extending_takes_back_nothing_that_was_handed_out():
    subject, state = make({"blocks.head": {"directions": 10, "max_directions": 12}, "rounds": {"over_assign": 2}})
    first = forward_gradient.plan(subject, 1, state, None, _spare(subject))[1]
    more = first.extended(10, range(first.end_seed, first.end_seed + 10))

    assert [
        len(each.seeds) for each in (first, forward_gradient.extend(subject, first, state, None, _spare(subject)))
    ] == [20, 24]
    assert forward_gradient.extend(subject, more, state, None, _spare(subject)).seeds == more.seeds


# ranges of seeds


@given(seeds=ascending)
def test_ranges_hold_the_seeds_and_are_as_few_as_can_be(seeds):
    ranges = ranges_of(seeds)

    assert [seed for each in ranges for seed in each] == seeds
    assert all(each.stop < later.start for each, later in pairwise(ranges))


@given(seeds=ascending.filter(bool), wanted=st.integers(1, 9), central=st.booleans(), more=ascending)
def test_a_plan_survives_storage(seeds, wanted, central, more):
    subject = BlockPlan("head", ranges_of(seeds), wanted, 1e-3, 16, 0.1, central)
    extended = subject.extended(wanted + 1, [subject.end_seed + each for each in more])
    plans = (subject, extended, *plan().values())
    found = plans_from_json(plans_to_json(plans))

    assert found == plans
    assert found[1].seeds == seeds + [seeds[-1] + 1 + each for each in more]
    assert all(isinstance(each, range) for each in found[0].ranges)


def test_a_plan_knows_its_first_and_its_end():
    subject = BlockPlan("head", (range(3, 5), range(9, 10)), 3, 1e-3, 16, 0.1)

    assert (subject.first_seed, subject.end_seed, subject.seeds) == (3, 10, [3, 4, 9])


# seeds

_BLOCK = st.fixed_dictionaries({"directions": st.integers(1, 65536), "max_directions": st.integers(1, 65536)}).map(
    lambda block: {**block, "max_directions": max(block.values())}
)


@settings(max_examples=20, deadline=None)
@given(
    peft=_BLOCK,
    head=_BLOCK,
    over_assign=st.floats(1, 4),
    rounds=st.lists(st.integers(1, 2_000_000), min_size=2, max_size=6, unique=True),
    steps=st.integers(0, 3),
)
def test_no_two_rounds_or_blocks_share_a_seed_and_all_fit_the_store(peft, head, over_assign, rounds, steps):
    subject, state = make({"blocks.peft": peft, "blocks.head": head, "rounds": {"over_assign": over_assign}})
    ranges = []
    for number in rounds:
        for each in forward_gradient.plan(subject, number, state, None, _spare(subject)):
            for _ in range(steps):
                each = forward_gradient.extend(subject, each, state, None, _spare(subject))
            ranges.append((each.first_seed, each.end_seed))
    ranges.sort()

    assert all(end <= first for (_, end), (first, _) in pairwise(ranges))
    assert ranges[0][0] >= 0
    assert ranges[-1][1] < 1 << 63
