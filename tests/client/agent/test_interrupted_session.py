"""Streams that break, coordinators that were away, power cuts: nothing is lost, nothing is computed twice."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest
from grpc import StatusCode
from helpers.sessions import SEEDS, expected, hand_out, scalars

from fwdllm_client.agent.journal import Journal
from fwdllm_client.connection.retry import BASE_S


class PowerCut(BaseException):
    """The process is gone."""


def test_a_broken_stream_is_opened_again_and_nothing_computed_twice(device, coordinator, job, new_stop, refuse):
    def break_twice(request):
        if len(coordinator.reports) in (2, 3):
            raise refuse(StatusCode.UNAVAILABLE, "broken")
        return coordinator.acknowledgement(request)

    coordinator.on_report = break_twice
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=3))
    assert device.compute.computed == SEEDS
    np.testing.assert_allclose(scalars(coordinator), expected(job), rtol=1e-4)
    assert device.unacknowledged() == []


def test_a_lost_acknowledgement_makes_a_duplicate_with_the_same_bits(device, coordinator, job, new_stop, refuse):
    def lose_first(request):
        if len(coordinator.reports) == 1:
            raise refuse(StatusCode.UNAVAILABLE, "stored, but the answer is lost")
        return coordinator.acknowledgement(request)

    coordinator.on_report = lose_first
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=2))
    firsts = [report.first_index for report in coordinator.reports]
    assert firsts.count(0) == 2
    assert device.compute.computed == SEEDS
    assert len(scalars(coordinator)) == 10


def test_a_stream_that_ends_without_answers_is_backed_off_from(device, coordinator, job, new_stop):
    coordinator.on_report = lambda request: None
    hand_out(coordinator, job.answer(job.assignment()))
    stop = new_stop(last=2)
    stop.on_wait = lambda seconds: setattr(coordinator, "on_report", coordinator.acknowledgement)
    device.run(stop)
    assert stop.waits[0] <= BASE_S
    assert device.compute.computed == SEEDS
    assert device.unacknowledged() == []


def test_a_stream_that_breaks_after_its_last_answer_is_over(device, coordinator, job, new_stop, refuse):
    """What comes after it has nothing to send, and its end without an answer is no failure."""

    def break_at_the_end(request):
        if request.first_index + len(request.derivatives) == len(SEEDS):
            raise refuse(StatusCode.UNAVAILABLE, "broken")

    coordinator.after_report = break_at_the_end
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=4))
    assert len(coordinator.check_ins) > 1
    assert device.unacknowledged() == []


def test_a_coordinator_that_was_away_is_found_again(device, coordinator, job, new_stop):
    coordinator.stop()
    hand_out(coordinator, job.answer(job.assignment()))
    stop = new_stop()

    def on_wait(seconds):
        if len(stop.waits) == 3:
            coordinator.start()
        stop.stopped = bool(coordinator.reports)
        if not stop.stopped:
            coordinator._thread.join(0.05)  # the channel's own back-off takes real time

    stop.on_wait = on_wait
    device.run(stop)
    assert len(scalars(coordinator)) == 10


@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("acknowledging", [True, False])
def test_a_crash_between_computing_and_acknowledgement_computes_nothing_twice(
    chunks, acknowledging, device, coordinator, job, new_stop
):
    hand_out(coordinator, job.answer(job.assignment(evaluate=True)))
    if not acknowledging:
        coordinator.on_report = lambda request: None

    def before_chunk():
        if len(device.compute.computed) >= 2 * chunks:
            raise PowerCut

    device.compute.before_chunk = before_chunk
    with pytest.raises(PowerCut):
        device.run(new_stop())
    with closing(Journal(device.home.journal)) as journal:
        kept = journal.progress("a1") or 0
    assert kept == 2 * chunks
    coordinator.on_report = coordinator.acknowledgement
    device.compute.before_chunk = lambda: None
    device.run(new_stop(last=1))
    assert device.compute.computed == SEEDS
    assert len(scalars(coordinator)) == 10
    assert device.compute.evaluations == (2 if chunks == 0 else 1)
    assert device.unacknowledged() == []


def test_a_finished_assignment_that_comes_again_is_not_computed_again(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(evaluate=True)))
    device.run(new_stop(last=3))
    assert device.compute.computed == SEEDS
    assert device.compute.evaluations == 1


def cut_power_after_a_report(device, coordinator):
    """The first report arrives and is not acknowledged; then, and not while it is under way, the process is gone."""
    arrived = threading.Event()
    coordinator.on_report = lambda request: arrived.set()

    def before_chunk():
        if device.compute.computed:
            assert arrived.wait(30)
            raise PowerCut

    device.compute.before_chunk = before_chunk


def test_what_is_left_is_delivered_even_without_work(device, coordinator, job, new_stop):
    cut_power_after_a_report(device, coordinator)
    hand_out(coordinator, job.answer(job.assignment()), job.answer(None, ["a1"]))
    with pytest.raises(PowerCut):
        device.run(new_stop())
    coordinator.on_report = coordinator.acknowledgement
    coordinator.reports.clear()
    device.run(new_stop(last=1))
    assert [(report.first_index, len(report.derivatives)) for report in coordinator.reports] == [(0, 2)]
    assert device.unacknowledged() == []


def test_what_nobody_waits_for_is_dropped(device, coordinator, job, new_stop):
    cut_power_after_a_report(device, coordinator)
    hand_out(coordinator, job.answer(job.assignment()), job.answer(None, ["another"]))
    with pytest.raises(PowerCut):
        device.run(new_stop())
    coordinator.reports.clear()
    device.run(new_stop(last=1))
    assert coordinator.reports == []
    assert device.unacknowledged() == []


@pytest.mark.parametrize("where", ["on_artifact", "on_weights", "on_report"])
def test_work_that_is_gone_is_left_for_the_next_check_in(where, device, coordinator, job, new_stop, refuse):
    def gone(request):
        raise refuse(StatusCode.FAILED_PRECONDITION, "the round has closed", "wrong-state")

    usual = getattr(coordinator, where)
    setattr(coordinator, where, gone)
    hand_out(coordinator, job.answer(job.assignment()))
    stop = new_stop(last=2)
    stop.on_wait = lambda seconds: setattr(coordinator, where, usual)
    device.run(stop)
    assert stop.waits[0] == 0.007
    assert len(coordinator.check_ins) == 2
    assert device.compute.computed == SEEDS
    assert device.unacknowledged() == []


def test_a_check_in_that_cannot_be_answered_is_repeated_later(device, coordinator, new_stop, refuse):
    def on_check_in(request):
        raise refuse(StatusCode.FAILED_PRECONDITION, "starting", "wrong-state")

    coordinator.on_check_in = on_check_in
    stop = new_stop(last=2)
    device.run(stop)
    assert len(coordinator.check_ins) == 2
    assert stop.waits[0] >= 30
