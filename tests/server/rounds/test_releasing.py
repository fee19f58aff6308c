"""Rounds with differential privacy: a clipped and noised sum, drawn once, and a budget that ends the job."""

from collections.abc import Sequence
from math import isqrt, sqrt

import numpy as np
import pytest
from helpers.rig import JOB, Rig
from helpers.tiny_job import LAYOUT

from fwdllm_common.clipping import noise_variance
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_common.replay import ModelState
from fwdllm_common.seeds import array_of
from fwdllm_server.algorithm.accountant import epsilon_after, noise_multiplier
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.store import aggregations, releases, scalar_spans
from fwdllm_server.store.assignments import AssignmentRecord
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.rounds import Phase

HEAD = LAYOUT.block("head")
GRADIENT = np.array([0.5, -0.25, 0.125, 1.0, -1.5, 0.75], dtype=np.float32)
NORM = float(np.linalg.norm(GRADIENT))
CLIP = 1.0
PRIVATE = {
    "blocks.peft": None,
    "blocks.head": {"directions": "auto", "batch_size": "auto"},
    "privacy": {"epsilon": 1e3, "delta": 1e-5, "clip": CLIP},  # next to no noise
}
NAMES = ("a", "b", "c")


@pytest.fixture
def rig(make_rig):
    return make_rig(PRIVATE, max_devices=3)


def directions(rig: Rig) -> OrthogonalDirections:
    found = rig.job.header.directions_of(HEAD)
    assert isinstance(found, OrthogonalDirections)
    return found


def scalars(rig: Rig, work: AssignmentRecord, gradient: np.ndarray) -> Sequence[float]:
    (seeds,) = work.packed.values()
    return directions(rig).products(array_of([seeds]), gradient).tolist()


def run_round(rig: Rig, gradients: Sequence[np.ndarray]) -> None:
    for gradient, work in zip(gradients, rig.begin_round(*NAMES), strict=True):
        rig.report_packed(work.id, scalars(rig, work, gradient))
    rig.settle()


def estimate(rig: Rig) -> np.ndarray:
    update = rig.ledger()[-1].updates[0]
    total = directions(rig).weighted_sum(update.seeds, update.coefficients, HEAD.start, HEAD.stop)
    return total / (len(update.seeds) * SCALE)


def noise_of_a_coordinate(rig: Rig) -> float:
    """Standard deviation of the noise of the estimate, by the accountant's multiplier."""
    return noise_multiplier(rig.job.spec.privacy.budget) * CLIP / len(NAMES)


def test_devices_count_alike_and_none_for_more_than_the_clip(rig):
    run_round(rig, [GRADIENT / NORM / 2, -GRADIENT / NORM / 4, 1000 * GRADIENT])
    expected = (1 / 2 - 1 / 4 + 1) / 3 * GRADIENT / NORM
    np.testing.assert_allclose(estimate(rig), expected, atol=6 * noise_of_a_coordinate(rig) + 1e-3)


def test_the_ledger_has_the_noised_sum_along_one_frame_and_replays(rig):
    start = rig.job.state
    run_round(rig, [GRADIENT, GRADIENT, GRADIENT])
    (entry,) = rig.ledger()
    assert len(entry.updates[0].seeds) == directions(rig).order
    assert entry.theta_digest == rig.job.state.digest
    again = ModelState.initial(start.header, LAYOUT, start.theta)
    assert again.advance(entry).theta_digest == entry.theta_digest
    with rig.database.transaction() as connection:
        assert not scalar_spans.of_round(connection, JOB, 1)
        assert releases.most(connection, JOB) == 1


def test_the_noise_is_as_large_as_the_accountant_says(make_rig):
    rig = make_rig({**PRIVATE, "privacy": {"epsilon": 1.0, "delta": 1e-5, "clip": CLIP}}, max_devices=3, count=40)
    zero = np.zeros_like(GRADIENT)
    for _ in range(20):
        run_round(rig, [zero] * 3)
    coefficients = np.concatenate([entry.updates[0].coefficients for entry in rig.ledger()]) * len(NAMES)
    order = directions(rig).order
    deviation = sqrt(noise_variance(noise_multiplier(rig.job.spec.privacy.budget) ** 2, CLIP, order, order))
    assert len(coefficients) == 20 * order
    assert np.std(coefficients) == pytest.approx(deviation, rel=0.4)


def test_a_coordinator_that_dies_after_the_release_has_the_same_noise(rig, monkeypatch):
    for work in rig.begin_round(*NAMES):
        rig.report_packed(work.id, scalars(rig, work, GRADIENT))
    while rig.round.phase != Phase.COMMITTING:
        rig.machine.advance(rig.now)
    with rig.database.transaction() as connection:
        released = aggregations.get(connection, JOB, 1)
    found = rig.machine.read(rig.now)
    first = found.compute().entry  # a coordinator that is killed with the entry in its memory
    again = RoundMachine(rig.database, rig.artifacts, rig.presence, rig.job)
    while again.advance(rig.now).moved and rig.round.phase != Phase.COMMITTED:
        pass
    (entry,) = rig.ledger()
    assert entry.to_bytes() == first.to_bytes()
    assert released.sum is not None
    with rig.database.transaction() as connection:
        assert releases.most(connection, JOB) == 1


def test_the_job_ends_at_its_budget(make_rig):
    privacy = {"epsilon": 4.0, "delta": 1e-5, "clip": CLIP, "rounds_per_device": 2}
    rig = make_rig({**PRIVATE, "privacy": privacy}, max_devices=3, count=10)
    run_round(rig, [GRADIENT] * 3)
    assert rig.record.state == JobState.RUNNING
    run_round(rig, [GRADIENT] * 3)

    assert rig.record.state == JobState.DONE
    assert "privacy budget spent: 3 devices are in 2 releases each" in rig.record.message
    assert rig.job.state.version == 2
    budget = rig.job.spec.privacy.budget
    assert 3.99 < epsilon_after(budget, 2) <= 4.0
    assert 0 < epsilon_after(budget, 1) < epsilon_after(budget, 2)


def test_devices_without_budget_rest_while_others_go_on(make_rig):
    privacy = {"epsilon": 4.0, "delta": 1e-5, "clip": CLIP, "rounds_per_device": 1}
    rig = make_rig({**PRIVATE, "privacy": privacy}, min_devices=2, max_devices=2, count=10)
    for work in rig.begin_round("a", "b"):
        rig.report_packed(work.id, scalars(rig, work, GRADIENT))
    rig.settle()
    rig.check_in(*"abc")
    rig.settle()
    assert not rig.work_of_round()
    assert "2 have spent their privacy budget" in rig.round.reason
    rig.check_in(*"abcd")
    rig.settle()
    assert {work.device_id for work in rig.work_of_round()} == {"c", "d"}


def test_an_abandoned_round_costs_no_budget(rig):
    rig.begin_round(*NAMES)
    rig.later(200)
    assert rig.phases()[0] == "abandoned"
    with rig.database.transaction() as connection:
        assert releases.most(connection, JOB) == 0


def test_a_part_of_a_frame_is_an_estimate_of_the_gradient_too(rig):
    works = rig.begin_round(*NAMES)
    for work in works[:2]:
        rig.report_packed(work.id, scalars(rig, work, GRADIENT / NORM / 2))
    half = directions(rig).order // 2
    rig.report_packed(works[2].id, scalars(rig, works[2], GRADIENT / NORM / 2)[:half])
    rig.later(101)
    assert rig.phases()[0] == "committed"
    assert np.linalg.norm(estimate(rig)) < CLIP
    assert isqrt(int(np.abs(rig.ledger()[0].updates[0].coefficients).max())) > 0
