"""How much devices measure where a block leaves it open."""

import pytest

from fwdllm_common.fixed_point import MAX_ORTHOGONAL_DIRECTIONS
from fwdllm_common.orthogonal import MAX_ORDER
from fwdllm_server.algorithm.auto import LEAST_ROWS, MOST_ROWS, is_worth_a_frame, measurement
from fwdllm_server.algorithm.plan import BlockPlan
from fwdllm_server.config.job_sections import RoundsSection

LATER = 20


def rounds(passes: float = 200.0, scalars: int = 1 << 15) -> RoundsSection:
    return RoundsSection(passes_budget=passes, bytes_budget=2 * scalars)


def test_a_cheap_block_is_measured_completely_on_all_rows():
    assert measurement(4612, 1e-5, rounds(), LATER, rows_at_hand=45) == (8192, 45)
    assert measurement(4612, 1e-5, rounds(), LATER, rows_at_hand=5000) == (8192, MOST_ROWS)
    assert measurement(4612, 1e-5, rounds(), LATER) == (8192, MOST_ROWS)


def test_rows_give_way_before_directions():
    found = measurement(4612, 2e-4, rounds(passes=100), LATER, rows_at_hand=200)
    assert found == (8192, 61)
    assert found.directions * found.rows * 2e-4 <= 100


def test_below_the_least_batch_directions_give_way():
    found = measurement(4612, 2e-3, rounds(passes=100), LATER, rows_at_hand=200)
    assert found == (3125, LEAST_ROWS)


def test_a_device_has_a_direction_whatever_it_costs():
    assert measurement(10**6, 1.0, rounds(passes=3), LATER) == (1, LEAST_ROWS)


def test_bytes_bound_the_directions():
    assert measurement(4612, 1e-5, rounds(scalars=5000), LATER, 45).directions == 5000


def test_masked_scalars_have_eight_bytes():
    found = measurement(4612, 1e-5, RoundsSection(bytes_budget=40_000), LATER, 45, masked=True)
    assert found.directions == 5000
    assert measurement(4612, 1e-5, RoundsSection(bytes_budget=4), LATER, 45, masked=True).directions == 1
    assert not is_worth_a_frame(88_781, 1e-5, rounds(), masked=True)


@pytest.mark.parametrize(("step", "rows"), [(1, 32), (2, 64), (3, 100), (LATER, 100)])
def test_the_first_steps_do_with_few_rows(step, rows):
    assert measurement(4612, 1e-5, rounds(), step, rows_at_hand=100).rows == rows


def test_a_fixed_batch_stays():
    assert measurement(4612, 1e-3, rounds(passes=100), LATER, 200, batch_size=32) == (3125, 32)


@pytest.mark.parametrize(
    ("size", "share", "worth"),
    [(4612, 1e-5, True), (16_350, 1e-4, True), (6144, 0.35, False), (88_781, 1e-5, True), (MAX_ORDER, 1e-9, False)],
)
def test_only_blocks_that_a_device_can_measure_have_orthogonal_directions(size, share, worth):
    assert is_worth_a_frame(size, share, rounds()) == worth


@pytest.mark.parametrize(
    ("order", "devices", "each"), [(8192, 20, 8192), (1 << 14, 100, 10_485), (1 << 20, 1, 1 << 20)]
)
def test_a_round_has_a_frame_for_each_device_and_no_more_directions_than_can_be_summed(order, devices, each):
    plan = BlockPlan("head", (range(1 << 32, (1 << 32) + (1 << 24)),), 0, 1e-3, 16, 0.1).in_frames(
        order, order, devices
    )
    assert (plan.per_device, plan.wanted) == (each, each * devices)
    assert plan.frames >= min(devices, (1 << 24) // order)
    assert plan.frames * plan.per_device <= MAX_ORTHOGONAL_DIRECTIONS
    assert plan.frame(plan.frames - 1).start + order <= plan.end_seed <= (1 << 32) + (1 << 24)
    assert plan.index_of(plan.frame(3).start + each - 1) == 3
