from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.notes import NotesFile
from fwdllm_client.agent.session import FAILED_PAUSE_MS
from fwdllm_client.connection.retry import BASE_S
from fwdllm_common.directions import Directions
from fwdllm_common.errors import (
    BadInputError,
    IntegrityError,
    NoRoomError,
    NotAllowedError,
    RefusedError,
    StorageError,
)

SEEDS = [1, 2, 3, 4, 5, 6, 50, 51, 52, 53]


class PowerCut(BaseException):
    """The process is gone."""


def scalars(coordinator, assignment_id="a1"):
    """What the coordinator would store: the first scalar that came for each index."""
    found = {}
    for report in coordinator.reports:
        if report.assignment_id == assignment_id:
            for index, value in enumerate(report.derivatives, start=report.first_index):
                assert found.setdefault(index, value) == value
    assert list(found) == sorted(found)
    return np.array([found[index] for index in range(len(found))], dtype=np.float32)


def expected(job):
    """The derivatives of the quadratic loss, seed by seed."""
    values = []
    for seeds, name in ((SEEDS[:6], "body"), (SEEDS[6:], "head")):
        block = job.layout.block(name)
        part = job.state.theta[block.slice]
        seeds = np.array(seeds, dtype=np.uint64)
        copies = job.header.directions.perturb(part, seeds, block.start, np.float32(1e-3))
        losses = (copies.astype(np.float64) ** 2).sum(axis=1) / 2
        values += ((losses - (part.astype(np.float64) ** 2).sum() / 2) / np.float64(np.float32(1e-3))).tolist()
    return np.array(values)


def told(coordinator):
    """For each check-in what it said of work that cannot be done."""
    return [
        [(each.assignment_id, each.code, each.message) for each in request.failures]
        for request in coordinator.check_ins
    ]


def hand_out(coordinator, *answers):
    """Answer the check-ins in turn; the last answer stays."""
    coordinator.on_check_in = lambda request: answers[min(len(coordinator.check_ins), len(answers)) - 1]


def test_every_scalar_arrives_in_order_and_is_right(device, coordinator, job, new_stop):
    job.commit()
    hand_out(coordinator, job.answer(job.assignment()))
    stop = new_stop(last=1)
    device.run(stop)
    assert device.compute.computed == SEEDS
    np.testing.assert_allclose(scalars(coordinator), expected(job), rtol=1e-4)
    assert coordinator.check_ins[0].labels == ["no", "yes"]
    assert device.unacknowledged() == []
    assert stop.waits == [0.011]  # the window of the last answer, not of the check-in


def test_a_task_is_measured_as_the_coordinator_asks(device, coordinator, job, new_stop):
    """Seeds in several ranges, as sampling leaves them; the central difference in one task and not in the other."""
    asked = [
        device_pb2.DirectionTask(
            block=block,
            seeds=[device_pb2.SeedRange(first=first, count=2) for first in (5, 2**40)],
            epsilon=1e-3,
            batch_size=4,
            central=central,
        )
        for block, central in (("body", True), ("head", False))
    ]
    hand_out(coordinator, job.answer(job.assignment(directions=asked)))
    device.run(new_stop(last=1))
    assert [(task.block, task.central) for task in device.compute.tasks] == [("body", True), ("head", False)]
    assert device.compute.computed == 2 * [5, 6, 2**40, 2**40 + 1]


def test_the_header_says_how_directions_are_distributed(device, coordinator, job, new_stop):
    rademacher = expected(job)
    job.header = job.state.header = replace(
        job.header, directions=Directions(job.header.directions.run_key, "gaussian")
    )
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=1))
    np.testing.assert_allclose(scalars(coordinator), expected(job), rtol=1e-3, atol=1e-4)
    assert not np.allclose(scalars(coordinator), rademacher, rtol=0.1)


def test_a_distribution_that_the_device_does_not_know_is_refused(device, coordinator, job, new_stop):
    assignment = job.assignment()
    assignment.header.distribution = 99
    hand_out(coordinator, job.answer(assignment))
    with pytest.raises(BadInputError, match="unknown distribution of directions; update fwdllm"):
        device.run(new_stop(last=3), once=True)


def test_idle_devices_come_back_in_the_window(device, coordinator, new_stop):
    hand_out(coordinator, device_pb2.CheckInResponse(next=device_pb2.CheckInWindow(min_ms=2000, max_ms=5000)))
    stop = new_stop(last=20)
    device.run(stop)
    assert len(coordinator.check_ins) == 20
    assert all(2 <= wait <= 5 for wait in stop.waits)
    assert len(set(stop.waits)) > 10
    assert device.opened == []


def test_clocks_that_differ_are_told_once(device, coordinator, new_stop):
    coordinator.on_check_in = lambda request: device_pb2.CheckInResponse(unix_s=int(time.time()) + 600)
    with capture_logs() as lines:
        device.run(new_stop(last=3))
    assert [line["seconds_ahead"] for line in lines if "clocks differ" in line["event"]] == pytest.approx([-600], abs=9)


def test_one_engine_serves_many_rounds(device, coordinator, job, new_stop):
    def on_check_in(request):
        job.commit()
        return job.answer(job.assignment(f"a{len(coordinator.check_ins)}"))

    coordinator.on_check_in = on_check_in
    device.run(new_stop(last=3))
    assert len(device.opened) == 1
    assert Counter(device.compute.computed) == dict.fromkeys(SEEDS, 3)
    assert [request.has_version for request in coordinator.weights_requests] == [False, True, True]


def test_scalars_share_messages_when_they_come_fast(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=1), clock=lambda: 0.0)
    assert [len(report.derivatives) for report in coordinator.reports] == [10]


def test_no_message_is_too_large(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(seeds=((1, 5000), (9000, 4000)))))
    device.run(new_stop(last=1), clock=lambda: 0.0)
    assert [len(report.derivatives) for report in coordinator.reports] == [4096, 4096, 808]
    assert len(scalars(coordinator)) == 9000


def test_packed_scalars_have_messages_of_their_own(device, coordinator, job, new_stop):
    mixed, plain = job.assignment("mixed"), job.assignment("plain")
    mixed.directions[1].packed = True
    hand_out(coordinator, job.answer(mixed), job.answer(plain))
    device.run(new_stop(last=2), clock=lambda: 0.0)
    single, packed, _ = coordinator.reports
    assert (len(single.derivatives), len(single.halves)) == (6, 0)
    assert (packed.first_index, len(packed.derivatives)) == (6, 0)
    expected = scalars(coordinator, "plain")[6:]
    assert np.frombuffer(packed.halves, dtype="<f2").tolist() == expected.astype(np.float16).tolist()


def test_effort_is_reported(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=1))
    efforts = [report.effort for report in coordinator.reports]
    assert sum(effort.example_passes for effort in efforts) == 40
    assert all(effort.seconds > 0 and effort.peak_rss_bytes > 10_000_000 for effort in efforts)
    assert efforts[-1].bytes_sent > efforts[0].bytes_sent > 0
    assert efforts[0].bytes_received > 200
    assert efforts[0].artifact_bytes > sum(file.bytes for file in job.manifest.files)


def test_evaluation_travels_with_the_first_scalars(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(evaluate=True)))
    device.run(new_stop(last=1))
    with_counts = [report for report in coordinator.reports if report.HasField("evaluation")]
    assert [(r.first_index, r.evaluation.correct, r.evaluation.total) for r in with_counts] == [(0, 3, 5)]


def test_evaluation_alone(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(evaluate=True, directions=[])))
    device.run(new_stop(last=2))
    assert [report.evaluation.total for report in coordinator.reports] == [5]
    assert device.compute.evaluations == 1
    assert device.compute.unloaded == 2  # after each of both turns


def test_stop_ends_the_computing(device, coordinator, job, new_stop):
    def enough(request):
        answer = coordinator.acknowledgement(request)
        answer.stop = True
        return answer

    coordinator.on_report = enough
    hand_out(coordinator, job.answer(job.assignment(seeds=((1, 60_000), (0, 1)))))
    device.run(new_stop(last=1))
    assert len(device.compute.computed) < 60_000
    assert device.unacknowledged() == []


def test_nothing_is_computed_past_the_deadline(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(deadline_ms=5000)))
    now = [0.0]
    device.compute.before_chunk = lambda: now.__setitem__(0, now[0] + 2.0)
    device.run(new_stop(last=1), clock=lambda: now[0])
    assert device.compute.computed == SEEDS[:6]
    assert len(scalars(coordinator)) == 6


def test_a_download_past_the_deadline_leaves_nothing_to_compute(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(deadline_ms=500, evaluate=True)))
    device.run(new_stop(last=1))
    assert (device.compute.computed, device.compute.evaluations) == ([], 0)


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


def test_a_model_larger_than_the_owner_allows_is_left_undone(device, coordinator, job, new_stop):
    hand_out(coordinator, *[job.answer(job.assignment())] * 3)
    device.cache_bytes = sum(file.bytes for file in job.manifest.files) - 1
    stop = new_stop(last=2)
    device.run(stop)
    assert stop.waits[0] == 0
    assert stop.waits[1] >= FAILED_PAUSE_MS / 1000  # of a coordinator that did not listen
    assert told(coordinator) == [[], [("a1", "no-room", "the model is larger than the device's owner allows")]]
    with pytest.raises(NoRoomError, match="this device's owner allows"):
        device.run(new_stop(), once=True)
    assert device.opened == []
    assert [request.sha256 for request in coordinator.artifact_requests[1:]] == []


def test_files_with_a_wrong_hash_are_never_run(device, coordinator, job, new_stop):
    victim = bytes.fromhex(job.manifest.stages[1].graph.sha256)
    coordinator.files[victim] = bytes(len(coordinator.files[victim]))
    hand_out(coordinator, *[job.answer(job.assignment())] * 3)
    stop = new_stop(last=2)
    device.run(stop)
    assert stop.waits[0] == 0
    assert stop.waits[1] >= FAILED_PAUSE_MS / 1000
    assert told(coordinator) == [[], [("a1", "integrity", "it was sent other bytes than were announced")]]
    with pytest.raises(IntegrityError, match=victim.hex()):
        device.run(new_stop(), once=True)
    assert device.opened == []
    assert coordinator.reports == []


def test_once_is_one_check_in(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment()))
    stop = new_stop()
    device.run(stop, once=True)
    assert (len(coordinator.check_ins), stop.waits) == (1, [])
    assert len(scalars(coordinator)) == 10


@pytest.mark.parametrize(
    ("code", "reason", "error", "message"),
    [
        (StatusCode.PERMISSION_DENIED, "revoked", RefusedError, "join TOKEN --force"),
        (StatusCode.FAILED_PRECONDITION, "protocol-version", BadInputError, "$"),
    ],
)
def test_a_refusal_at_check_in_ends_the_agent(code, reason, error, message, device, coordinator, new_stop, refuse):
    def on_check_in(request):
        raise refuse(code, "why", reason)

    coordinator.on_check_in = on_check_in
    with pytest.raises(error, match=rf": why.*{message}"):
        device.run(new_stop())


def test_a_device_revoked_while_it_reports_ends(device, coordinator, job, new_stop, refuse):
    def revoked(request):
        raise refuse(StatusCode.PERMISSION_DENIED, "revoked by the operator", "revoked")

    coordinator.on_report = revoked
    hand_out(coordinator, job.answer(job.assignment()))
    with pytest.raises(RefusedError, match="revoked by the operator"):
        device.run(new_stop())


def test_a_full_disk_ends_the_agent_and_loses_nothing_acknowledged(device, coordinator, job, new_stop, monkeypatch):
    append = Journal.append

    def full(self, entry):
        if entry.first_index >= 4:
            raise StorageError("no space left")
        append(self, entry)

    monkeypatch.setattr(Journal, "append", full)
    hand_out(coordinator, job.answer(job.assignment()))
    with pytest.raises(StorageError, match="no space"):
        device.run(new_stop())
    monkeypatch.undo()
    device.run(new_stop(last=1))
    assert device.compute.computed == [*SEEDS[:6], *SEEDS[4:]]
    assert len(scalars(coordinator)) == 10


def test_a_stop_in_the_middle_keeps_what_was_computed(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment()))
    stop = new_stop()
    device.compute.before_chunk = lambda: setattr(stop, "stopped", len(device.compute.computed) >= 4)
    device.run(stop)
    assert device.compute.computed == SEEDS[:6]
    device.run(new_stop(last=1))
    assert device.compute.computed == SEEDS
    assert len(scalars(coordinator)) == 10


def test_ctrl_c_ends_even_the_wait_for_an_acknowledgement(device, coordinator, job, new_stop):
    def interrupt(request):
        if request.first_index + len(request.derivatives) == 10:
            os.kill(os.getpid(), signal.SIGINT)

    coordinator.on_report = interrupt
    hand_out(coordinator, job.answer(job.assignment()))
    with pytest.raises(KeyboardInterrupt):
        device.run(new_stop())
    assert sum(len(entry.derivatives) for entry in device.unacknowledged()) == 10


def test_an_absurd_assignment_is_refused(device, coordinator, job, new_stop):
    hand_out(coordinator, job.answer(job.assignment(seeds=((1, 70_000),))))
    with pytest.raises(BadInputError, match="more than 65536 directions"):
        device.run(new_stop(last=3), once=True)


@pytest.mark.parametrize(
    ("cause", "code"),
    [(RuntimeError("indices element out of data bounds, idx=30522"), "engine"), (MemoryError(), "out-of-memory")],
)
def test_what_the_engine_raises_fails_the_assignment_and_not_the_agent(device, coordinator, job, new_stop, cause, code):
    """The coordinator hears of it, and nothing that an error may quote of the rows; another job is served at once."""
    good = device.compute.derivatives

    def derivatives(theta, directions, task):
        if len(coordinator.check_ins) == 1:
            raise cause
        return good(theta, directions, task)

    device.compute.derivatives = derivatives
    other = job.assignment("b1", job_id="other", job_name="another")
    hand_out(coordinator, job.answer(job.assignment()), job.answer(other))
    device.run(new_stop(last=2))

    assert told(coordinator)[0] == []
    ((assignment, said, message),) = told(coordinator)[1]
    assert (assignment, said) == ("a1", code)
    assert "30522" not in message
    assert len(scalars(coordinator, "b1")) == 10


@pytest.mark.parametrize("reason", ["unknown-label", "unknown-task"])
def test_a_job_of_others_is_no_error_of_the_device(device, coordinator, job, new_stop, refuse, reason, capsys):
    """An agent with other labels than the only job that runs waits for its own."""

    def on_check_in(request):
        if len(coordinator.check_ins) == 1:
            raise refuse(StatusCode.FAILED_PRECONDITION, "label 'cat' is not one of job moods's (good, bad)", reason)
        return job.answer(job.assignment())

    coordinator.on_check_in = on_check_in
    device.run(new_stop(last=2))
    assert "label 'cat' is not one of job moods's (good, bad)" in capsys.readouterr().out
    assert len(scalars(coordinator)) == 10


def test_a_job_that_changes_its_model_is_served_no_more(device, coordinator, job, new_stop):
    """Also by the agent's next life; what the owner sees of it is in the notes."""
    changed = job.assignment("b1", manifest_sha256=bytes(32))
    hand_out(coordinator, job.answer(job.assignment()), job.answer(changed))
    device.run(new_stop(last=1))
    fetched = len(coordinator.artifact_requests)
    with pytest.raises(NotAllowedError, match="has another model than when this device joined it"):
        device.run(new_stop(last=3), once=True)

    assert told(coordinator)[-1] == [
        ("b1", "not-allowed", "job 'quadratic' has another model than when this device joined it")
    ]
    assert len(coordinator.artifact_requests) == fetched
    (failed,) = NotesFile(device.home.notes).read().failed.values()
    assert (failed.job, failed.code, failed.times) == ("quadratic", "not-allowed", 1)

    hand_out(coordinator, job.answer(job.assignment("c1")))
    device.run(new_stop(last=1))
    assert NotesFile(device.home.notes).read().failed == {}


@pytest.mark.parametrize("values", [[1.0, np.nan], [1e300, 2.0], [np.inf, -np.inf], [3.0, 1e6]])
def test_scalars_that_no_sum_can_have_are_told_of_and_not_sent(device, coordinator, job, new_stop, values):
    device.masks = True
    device.compute.derivatives = lambda theta, directions, task: iter([(0, np.array(values))])
    assignment = job.assignment(seeds=((1, 2), (50, 2)))
    assignment.secure_aggregation.CopyFrom(device_pb2.SecureAggregation(session=bytes(32), weight=1))
    hand_out(coordinator, job.answer(assignment))
    device.run(new_stop(last=1))

    assert [str(value) for report in coordinator.reports for value in report.derivatives] == ["nan"]
    assert NotesFile(device.home.notes).read().failed == {}


def test_scalars_that_are_not_finite_are_sent_as_they_are(device, coordinator, job, new_stop):
    device.compute.derivatives = lambda theta, directions, task: iter([(0, np.array([np.nan, 1e300]))])
    hand_out(coordinator, job.answer(job.assignment()))
    device.run(new_stop(last=1))
    values = [value for report in coordinator.reports for value in report.derivatives]
    assert np.isnan(values[0])
    assert np.isinf(values[1])
