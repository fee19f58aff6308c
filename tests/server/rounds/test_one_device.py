"""What one device that means no good can cost a job of honest ones: docs/security.md has the table."""

from __future__ import annotations

from math import inf, nan

import pytest
from helpers.rig import JOB, Rig, ScriptedDevice, derivative
from structlog.testing import capture_logs

from fwdllm.v1.device_pb2 import EvaluationCounts, ReportRequest, ResourceUsage
from fwdllm_common.counts import Counts
from fwdllm_server.rounds import reporting
from fwdllm_server.rounds.reporting import Report
from fwdllm_server.store import assignments, jobs
from fwdllm_server.store.assignments import AssignmentRecord
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.rounds import Phase

HONEST = ("a", "b", "c")
LIAR = "d"
ROUNDS = 6


class Liar:
    """Is there whenever a round selects, and then does what ``acts`` does with its assignment, if it fetches it."""

    def __init__(self, acts, fetches: bool = True) -> None:
        self._acts = acts
        self._fetches = fetches
        self._work: list[AssignmentRecord] = []

    def work(self, rig: Rig) -> None:
        offered = [each for each in rig.work_of_round() if each.device_id == LIAR and each.open]
        if not offered or self._fetches:
            self._work = rig.check_in(LIAR) or [each for each in self._work if each.round == rig.round.number]
        for assignment in self._work:
            self._acts(rig, assignment)


def send(rig: Rig, assignment: AssignmentRecord, request: ReportRequest) -> None:
    with rig.database.transaction() as connection:
        current = assignments.get(connection, assignment.id)
        assert current is not None
        reporting.record(connection, [Report(current, request, rig.job.spec.rounds.assignment_s)], rig.now)


def boasts(rig: Rig, assignment: AssignmentRecord) -> None:
    """It says how fast it is and sends no scalar, every second."""
    send(
        rig, assignment, ReportRequest(assignment_id=assignment.id, usage=ResourceUsage(seconds=1, example_passes=1e6))
    )


def drips(rig: Rig, assignment: AssignmentRecord) -> None:
    """One scalar just before the assignment would be given up, and a tale of great speed."""
    current = next(each for each in rig.work_of_round(assignment.round) if each.id == assignment.id)
    if current.open and current.expires_at - rig.now <= 2:
        index = int(rig.now) % len(assignment.seeds)
        rig.report(
            assignment.id, [derivative(assignment.seeds[index])], index, ResourceUsage(seconds=1, example_passes=1e6)
        )


def says_nothing(rig: Rig, assignment: AssignmentRecord) -> None:
    """It has fetched its assignment, and that was all."""


def sends_nan(rig: Rig, assignment: AssignmentRecord) -> None:
    rig.report(assignment.id, [nan])


def seconds_needed(rig: Rig, liar: Liar | None) -> float:
    """How long the job takes to its end with three honest devices, and perhaps a liar that comes first."""
    honest = [ScriptedDevice(name) for name in HONEST]
    rig.settle()
    began = rig.now
    while rig.record.state == JobState.RUNNING:
        if liar is not None:
            liar.work(rig)
        for device in honest:
            device.work(rig)
        step = rig.settle()
        if not step.job_ended and rig.round.phase == Phase.COMMITTED:
            rig.evaluate()
        rig.now += 1
        assert rig.now < began + 5000, f"the job does not come to its end: {rig.round}"
    assert rig.record.state == JobState.DONE, rig.record.message
    return rig.now - began


@pytest.mark.parametrize("liar", [Liar(boasts), Liar(drips), Liar(says_nothing), Liar(sends_nan)], ids=lambda _: "")
def test_no_device_makes_a_job_fail_or_wait_for_long(make_rig, liar):
    rig = make_rig(count=ROUNDS, assignment_s=30.0, deadline_s=100.0)

    assert seconds_needed(rig, liar) < ROUNDS * 20
    assert rig.phases() == ["committed"] * ROUNDS


def test_a_device_that_never_fetches_costs_a_round_its_time_to_fetch_now_and_then(make_rig):
    rig = make_rig(count=ROUNDS, accept_s=10.0)

    assert seconds_needed(rig, Liar(says_nothing, fetches=False)) < ROUNDS * 20
    assert rig.phases() == ["committed"] * ROUNDS


def test_a_job_that_lacks_a_device_does_not_fail_because_one_that_never_fetches_fills_its_place(make_rig):
    rig = make_rig(count=1, min_devices=4, accept_s=10.0, max_abandoned=0)
    liar, honest = Liar(says_nothing, fetches=False), [ScriptedDevice(name) for name in HONEST]
    rig.settle()
    for _ in range(300):
        liar.work(rig)
        for device in honest:
            device.work(rig)
        rig.later(1)

    assert (rig.record.state, rig.phases()) == (JobState.RUNNING, [Phase.SELECTING])
    assert rig.round.reason.startswith("waiting for devices: 3 of 4 are here; 1 sent nothing for their last assignment")
    fourth = ScriptedDevice("e")
    for _ in range(5):
        for device in (*honest, fourth):
            device.work(rig)
        rig.later(1)
    assert rig.job.state.version == 1


# unusable numbers


@pytest.mark.parametrize("bad", [nan, inf, 1e30])
def test_a_job_whose_devices_have_no_finite_scalars_fails_at_once_and_keeps_the_version_before(make_rig, bad):
    rig = make_rig(count=9, deadline_s=7200.0)
    for work in rig.begin_round(*HONEST):
        rig.finish(work)
    rig.settle()
    with capture_logs() as lines:
        for work in rig.begin_round(*HONEST)[:2]:
            rig.report(work.id, [bad])
        step = rig.settle()

    assert step.job_ended
    assert (rig.record.state, rig.record.good_version) == (JobState.FAILED, 0)
    assert rig.record.message == (
        "training has diverged: the scalars of 2 of 3 devices at version 1 are not finite or far too large; "
        "version 0 is kept for 'export'; submit the job again with "
        "[blocks.head] learning_rate = 0.02 instead of 0.2, [blocks.peft] learning_rate = 0.01 instead of 0.1"
    )
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["job failed"]


def test_one_device_among_others_does_not_make_a_job_fail_by_numbers_that_are_none(make_rig):
    rig = make_rig(count=9, min_devices=1)
    for work in rig.begin_round("a"):
        rig.finish(work)
    rig.settle()
    (work,) = rig.begin_round(LIAR)
    rig.report(work.id, [nan])
    rig.settle()

    assert rig.record.state == JobState.RUNNING


def test_the_only_device_that_a_job_has_ever_had_does(make_rig):
    rig = make_rig(count=9, min_devices=1)
    for work in rig.begin_round("a"):
        rig.finish(work)
    rig.settle()
    (work,) = rig.begin_round("a")
    rig.report(work.id, [nan])
    rig.settle()

    assert (rig.record.state, rig.record.good_version) == (JobState.FAILED, 0)


def test_a_step_to_weights_that_are_not_finite_is_not_made(make_rig):
    rig = make_rig({"optimizer": {"kind": "sgd"}, "blocks.head": {"learning_rate": 3e38}}, count=9)
    before = rig.job.state.digest
    for work in rig.begin_round(*HONEST):
        rig.report(work.id, [30000.0 * derivative(seed) for seed in work.seeds])
    rig.settle()

    assert (rig.record.state, rig.record.good_version, rig.ledger()) == (JobState.FAILED, 0, [])
    assert rig.job.state.digest == before
    assert "the next step leads to weights that are not finite" in rig.record.message


def test_a_job_that_is_resumed_has_no_version_to_go_back_to(make_rig):
    rig = make_rig(count=9, min_devices=2)
    for work in rig.begin_round("a", "b"):
        rig.report(work.id, [nan])
    rig.settle()
    assert rig.record.good_version == 0
    with rig.database.transaction() as connection:
        jobs.set_state(connection, JOB, JobState.RUNNING, "", rig.now)

    assert rig.record.good_version is None


# evaluations


def test_no_device_counts_for_more_than_twice_the_median_of_validation_rows(make_rig):
    rig = make_rig(federated_evaluate_every=1)
    work = rig.begin_round(*HONEST)
    for each, (correct, total) in zip(work, [(9, 10), (8, 10), (0, 4_000_000_000)], strict=True):
        send(rig, each, ReportRequest(evaluation=EvaluationCounts(correct=correct, total=total)))
    with rig.database.transaction() as connection:
        assert assignments.federated_counts(connection, JOB) == Counts(17, 40)
