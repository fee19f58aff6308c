"""Rounds of orthogonal directions: each device has a frame of its own, and sends its scalars packed."""

from collections.abc import Sequence

import numpy as np
import pytest
from helpers.rig import JOB, Rig
from helpers.tiny_job import LAYOUT, THETA, run_header

from fwdllm_common.estimator import forward_gradient
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_common.replay import ModelState
from fwdllm_common.seeds import array_of
from fwdllm_server.rounds.presence import Present
from fwdllm_server.store import scalar_spans
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.rounds import Phase

HEAD = LAYOUT.block("head")
GRADIENT = np.array([0.5, -0.25, 0.125, 1.0, -1.5, 0.75], dtype=np.float32)
AUTO = {"blocks.peft": None, "blocks.head": {"directions": "auto", "batch_size": "auto"}, "robust": {"clip": 0}}


@pytest.fixture
def rig(make_rig):
    return make_rig(AUTO, max_devices=3)


def directions(rig: Rig) -> OrthogonalDirections:
    found = rig.job.header.directions_of(HEAD)
    assert isinstance(found, OrthogonalDirections)
    return found


def scalars(rig: Rig, work: AssignmentRecord, gradient: np.ndarray = GRADIENT) -> Sequence[float]:
    """The slopes of a linear loss with this gradient."""
    (seeds,) = work.packed.values()
    return directions(rig).products(array_of([seeds]), gradient).tolist()


def finish(rig: Rig, work: AssignmentRecord, **gradient: np.ndarray):
    return rig.report_packed(work.id, scalars(rig, work, **gradient))


def counted(response):
    return response.accepted, response.repeated, response.late, response.unusable


def stored(rig):
    with rig.database.transaction() as connection:
        return scalar_spans.of_round(connection, JOB, 1)


def test_each_device_measures_a_frame_of_its_own_on_all_its_rows(rig):
    work = rig.begin_round("a", "b", "c")
    tasks = [task for each in work for task in each.tasks]
    order = directions(rig).order
    assert [task.seeds[0].count for task in tasks] == [order] * 3
    assert sorted(task.seeds[0].first % order for task in tasks) == [0, 0, 0]
    assert len({task.seeds[0].first for task in tasks}) == 3
    assert all(task.same_rows and task.packed for task in tasks)
    assert {task.batch_size for task in tasks} == {32}  # twice as many in each of the next rounds
    assert rig.round.plan[0].wanted == 3 * order


def test_complete_frames_step_along_the_mean_of_the_devices_gradients(rig):
    work = rig.begin_round("a", "b", "c")
    for number, each in enumerate(work):
        finish(rig, each, gradient=(number + 1) * GRADIENT)
    rig.settle()
    (entry,) = rig.ledger()
    (update,) = entry.updates
    found = forward_gradient(directions(rig), update.seeds, update.coefficients, HEAD)
    np.testing.assert_allclose(found, 2 * GRADIENT, atol=1e-3)
    again = ModelState.initial(run_header(rig.job.spec), LAYOUT, THETA)
    assert again.advance(entry).theta_digest == entry.theta_digest == rig.job.state.digest
    assert not stored(rig)


def test_a_message_that_comes_again_counts_once(rig):
    work = rig.begin_round("a", "b", "c")[0]
    found = scalars(rig, work)
    assert counted(rig.report_packed(work.id, found[:3])) == (3, 0, 0, 0)
    assert counted(rig.report_packed(work.id, found[:3])) == (0, 3, 0, 0)
    assert counted(rig.report_packed(work.id, found[3:], first_index=3)) == (len(found) - 3, 0, 0, 0)
    assert [len(span) for span in stored(rig)] == [3, len(found) - 3]


@pytest.mark.parametrize(("first", "count"), [(1, 2), (2, 6), (7, 1)])
def test_scalars_that_are_there_or_leave_a_gap_are_not_stored(rig, first, count):
    work = rig.begin_round("a", "b", "c")[0]
    found = scalars(rig, work)
    rig.report_packed(work.id, found[:3])
    answer = rig.report_packed(work.id, found[first : first + count], first_index=first)
    assert answer.accepted == 0
    assert answer.repeated + answer.unusable == count
    assert [len(span) for span in stored(rig)] == [3]


def test_scalars_outside_of_the_frame_or_not_finite_end_the_assignment(rig):
    first, second, _ = rig.begin_round("a", "b", "c")
    found = scalars(rig, first)
    assert counted(rig.report_packed(first.id, [*found, 0.0])) == (0, 0, 0, len(found) + 1)
    assert counted(rig.report_packed(second.id, [*found[1:], float("nan")])) == (0, 0, 0, len(found))
    assert rig.report_packed(second.id, found).late == len(found)
    assert not stored(rig)


def test_a_frame_that_is_lost_goes_to_a_new_device_as_one_of_its_own(rig):
    work = rig.begin_round("a", "b", "c")
    for each in work[:2]:
        finish(rig, each)
    rig.check_in("d")
    rig.later(25)  # c is silent
    (given,) = rig.check_in("d")
    assert not set(given.packed.values()) & {seeds for each in work for seeds in each.packed.values()}
    finish(rig, given)
    rig.settle()
    assert rig.round.version == 1 or rig.phases()[0] == Phase.COMMITTED


def test_a_round_does_without_a_device_that_vanished(rig):
    work = rig.begin_round("a", "b", "c")
    for each in work[:2]:
        finish(rig, each)
    rig.settle()
    assert rig.phases() == [Phase.COLLECTING]
    rig.later(31)
    assert rig.phases()[0] == Phase.COMMITTED
    assert {each.state for each in rig.work_of_round(1)} == {AssignmentState.DONE, AssignmentState.EXPIRED}


def test_devices_that_do_not_know_orthogonal_directions_are_not_asked(rig):
    for device in ("a", "b", "c"):
        rig.presence.seen(Present(device, rig.now, frozenset(("no", "yes"))))
    rig.settle()
    assert "waiting for devices: 0 of 3" in rig.round.reason


def test_of_a_part_of_a_frame_the_estimate_is_made_too(rig):
    work = rig.begin_round("a", "b", "c")
    for each in work:
        rig.report_packed(each.id, scalars(rig, each)[:5])
    rig.later(31)
    assert rig.phases()[0] == Phase.COMMITTED
    assert [len(update.seeds) for entry in rig.ledger() for update in entry.updates] == [15]
