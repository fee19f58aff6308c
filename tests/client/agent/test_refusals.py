"""What an agent does not do, what ends it, and what it tells the coordinator of either."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from grpc import StatusCode
from helpers.sessions import SEEDS, hand_out, scalars, told

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.notes import NotesFile
from fwdllm_client.agent.session import FAILED_PAUSE_MS
from fwdllm_common.errors import (
    BadInputError,
    IntegrityError,
    NoRoomError,
    NotAllowedError,
    RefusedError,
    StorageError,
)


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
