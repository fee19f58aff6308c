"""What devices that lie can do to a round's coefficients."""

import numpy as np
import pytest
from helpers.tiny_job import LAYOUT, THETA, job_spec, run_header
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar, coefficients, forward_gradient
from fwdllm_common.fixed_point import MAX_MAGNITUDE, SCALE
from fwdllm_common.layout import Block
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import Run
from fwdllm_server.algorithm import forward_gradient as method
from fwdllm_server.algorithm.robust_aggregation import (
    by_direction,
    clipped,
    directions_measured,
    rescale_devices,
    running_scale,
    scale_of,
    scales_after,
)

LARGEST = MAX_MAGNITUDE * SCALE
values = st.integers(-LARGEST, LARGEST)


def votes(*of_seeds):
    """Scalars of devices 0, 1, … for seeds 0, 1, …"""
    return [
        Scalar(seed, value, f"d{device}", 10)
        for seed, found in enumerate(of_seeds)
        for device, value in enumerate(found)
    ]


# several devices for a direction


@pytest.mark.parametrize(
    ("votes_of_one", "counts"),
    [
        ([5, LARGEST, 7], 7),
        ([-LARGEST, 5, 7], 5),
        ([1, 2, 9, 100], 6),  # of four the mean of the middle two, half to even
        ([3, 1, 2, LARGEST, -LARGEST], 2),
        ([1, 2, 3, 4, 5, 6, 900, 900], 4),  # of eight the mean of four: 3, 4, 5, 6 → 4.5, to even
    ],
)
def test_a_direction_counts_with_the_middle_of_what_devices_say(votes_of_one, counts):
    (found,) = by_direction(votes(votes_of_one), len(votes_of_one))

    assert found.value == counts


@given(st.lists(values, min_size=3, max_size=9), st.data())
def test_a_minority_cannot_leave_the_range_of_the_honest(honest, data):
    liars = data.draw(st.lists(values, min_size=0, max_size=(len(honest) - 1) // 3))
    (found,) = by_direction(votes(honest + liars), len(honest) + len(liars))

    assert min(honest) <= found.value <= max(honest)


def test_a_direction_that_too_few_have_measured_does_not_count():
    scalars = votes([1, 2, 3], [4, 5])

    assert [found.seed for found in by_direction(scalars, 3)] == [0]
    assert (directions_measured(scalars, 3), directions_measured(votes([1], [2]), 1)) == (1, 2)


def test_each_device_has_one_vote_whatever_it_says_of_its_rows():
    scalars = [Scalar(1, value, device, rows) for device, value, rows in (("a", 1, 1), ("b", 2, 9), ("c", 9, 10**9))]

    assert coefficients(by_direction(scalars, 3)).tolist() == [2]


# the scale


def test_the_scale_is_the_middle_device_not_the_middle_scalar():
    """One that has measured more than all others together has one vote."""
    loud = [Scalar(seed, LARGEST, "loud", 1) for seed in range(100)]
    quiet = [Scalar(1000 + device, (-1) ** device * (10 + device), f"d{device}", 1) for device in range(4)]

    assert scale_of(loud + quiet) == 12


def test_the_scale_is_that_of_the_last_rounds():
    assert running_scale([10, 10, 10, 10], LARGEST) == 10
    assert running_scale([LARGEST, 10, 10, 10, 10], 10) == 10  # the last five alone
    assert running_scale([], 10) == 10


def test_a_device_that_is_loud_as_a_whole_is_made_as_loud_as_the_others():
    loud = [Scalar(seed, (-1) ** seed * 3000, "loud", 1) for seed in range(10)]
    few = [Scalar(100 + seed, 3000, "few", 1) for seed in range(7)]
    quiet = [Scalar(200 + seed, 500, "quiet", 1) for seed in range(10)]
    found = rescale_devices([*loud, *few, *quiet], 1000)

    assert [scalar.value for scalar in found[:10]] == [1000, -1000] * 5
    assert [scalar.value for scalar in found[10:17]] == [1000] * 7
    assert found[17:] == quiet


@pytest.mark.parametrize("lies", [1, 4, 7, 8, 20])
def test_a_device_with_few_scalars_outweighs_the_others_no_more_than_one_with_many(lies):
    """It sends the largest number against each measured sign; the rest of the estimate must survive it."""
    gradient = np.random.default_rng(3).normal(size=64)
    directions = Directions(5, "rademacher")
    scalars = []
    for index in range(6):
        for direction in range(lies if index == 0 else 20):
            seed = 1000 * index + direction
            slope = float(directions.vector(seed, 0, 64) @ gradient)
            value = -np.sign(slope) * LARGEST if index == 0 else slope * SCALE
            scalars.append(Scalar(seed, round(value), f"d{index}", 10))
    scale = scale_of(scalars)
    held = clipped(rescale_devices(scalars, scale), 3 * scale)
    estimate = forward_gradient(
        directions, np.array([s.seed for s in held], dtype=np.uint64), coefficients(held), Block("head", 0, 64)
    )

    assert float(estimate @ gradient) / float(gradient @ gradient) > 0.35


@given(st.lists(values, min_size=1), st.integers(0, LARGEST))
def test_what_is_clipped_is_within_the_bound_and_has_its_sign(found, bound):
    scalars = clipped(votes(*([value] for value in found)), bound)

    for before, after in zip(found, scalars, strict=True):
        assert after.value == (before if abs(before) <= bound else bound * np.sign(before))


# in the algorithm


def make(clip):
    spec = job_spec(
        {"robust": {"clip": clip}, "blocks.head": {"directions": 20, "pacing": "absolute"}, "blocks.peft": None}
    )
    header = run_header(spec)
    run = Run(spec, header, LAYOUT)
    return run, method.plan(run, 1, ModelState.initial(header, LAYOUT, THETA), None)


def liars_among(plan):
    """One of five devices sends the most that is accepted."""
    return {
        "head": [
            Scalar(seed, LARGEST if number % 5 == 0 else (number % 7 - 3) * SCALE, f"d{number % 5}", 10)
            for number, seed in enumerate(plan[0].seeds)
        ]
    }


def test_no_coefficient_is_above_the_bound_and_those_of_liars_are_as_large_as_others():
    run, plan = make(3.0)
    scalars = liars_among(plan)
    (update,) = method.update(run, plan, scalars, {})
    scale = scale_of(scalars["head"])

    assert np.abs(update.coefficients).max() <= 3 * scale < 10 * SCALE
    assert {int(c) for c, s in zip(update.coefficients, scalars["head"], strict=True) if s.device == "d0"} == {scale}
    quiet = [(c, s.value) for c, s in zip(update.coefficients, scalars["head"], strict=True) if s.device == "d3"]
    assert all(coefficient == value for coefficient, value in quiet)


def test_without_clipping_one_device_decides():
    run, plan = make(0)

    assert method.update(run, plan, liars_among(plan), {})[0].coefficients.max() == LARGEST


def test_a_round_of_lies_alone_is_held_to_the_rounds_before():
    run, plan = make(3.0)
    lies = {"head": [Scalar(seed, LARGEST, "d", 10) for seed in plan[0].seeds]}
    before = {"head": [SCALE] * 4}

    assert method.update(run, plan, lies, before)[0].coefficients.tolist() == [SCALE] * 20


def test_the_scales_of_five_rounds_are_kept_and_those_of_other_blocks():
    _, plan = make(3.0)
    scales = scales_after(plan, liars_among(plan), {"head": [1, 2, 3, 4, 5], "peft": [9]})

    assert scales["head"][:4] == [2, 3, 4, 5]
    assert (len(scales["head"]), scales["peft"]) == (5, [9])


def test_pacing_judges_what_is_committed():
    run, plan = make(3.0)
    verdict = method.judge(run, plan[0], liars_among(plan)["head"], {})
    unclipped, _ = make(0)

    assert verdict.variance != method.judge(unclipped, plan[0], liars_among(plan)["head"], {}).variance


# the weight of a device


def test_a_device_that_says_it_has_all_the_rows_of_the_world_counts_for_twice_the_median():
    scalars = [Scalar(seed, 1000, f"d{seed}", 10**9 if seed == 0 else 100) for seed in range(5)]

    assert coefficients(scalars).tolist() == [1667, 833, 833, 833, 833]
