from __future__ import annotations

import pytest
from grpc import StatusCode

from fwdllm.v1 import device_pb2
from fwdllm_client.connection.retry import (
    ACTIONS,
    BASE_S,
    CAP_S,
    Action,
    NothingForThisDeviceError,
    Retry,
    StopRequested,
    WorkGoneError,
)
from fwdllm_client.connection.transport import CallFailedError
from fwdllm_common.errors import BadInputError, RefusedError

ADDRESS = "coordinator.example:7421"


class Script:
    """Fails as listed, then answers 42."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return 42


def failed(code, reason="", details="why"):
    return CallFailedError(code, reason, details)


def highest(low, high):
    return high


def rows(action):
    return [code for code, row in ACTIONS.items() if row is action]


def test_every_status_has_a_row():
    assert set(ACTIONS) == set(StatusCode) - {StatusCode.OK}


@pytest.mark.parametrize("code", rows(Action.BACK_OFF))
def test_back_off_goes_on_for_ever_with_growing_waits(code, new_stop):
    stop, script = new_stop(), Script(*[failed(code)] * 12)
    assert Retry(ADDRESS, stop, highest).call(script) == 42
    assert stop.waits == [min(CAP_S, BASE_S * 2**n) for n in range(12)]


@pytest.mark.parametrize("code", rows(Action.RETRY_NOW))
def test_retry_now_waits_only_the_second_time(code, new_stop):
    stop = new_stop()
    assert Retry(ADDRESS, stop, highest).call(Script(failed(code), failed(code))) == 42
    assert stop.waits == [2 * BASE_S]


@pytest.mark.parametrize("code", rows(Action.CHECK_IN))
def test_lost_work_is_left(code, new_stop):
    stop, script = new_stop(), Script(failed(code))
    with pytest.raises(WorkGoneError, match="why"):
        Retry(ADDRESS, stop).call(script)
    assert (script.calls, stop.waits) == (1, [])


@pytest.mark.parametrize("code", rows(Action.RE_ENROL))
def test_unknown_device_ends_and_says_how_to_join(code, new_stop):
    stop = new_stop()
    with pytest.raises(RefusedError, match=f"{ADDRESS}.*why.*join TOKEN --force"):
        Retry(ADDRESS, stop).call(Script(failed(code)))
    assert stop.waits == []


@pytest.mark.parametrize("code", rows(Action.STOP))
def test_refusal_ends_with_the_coordinators_words(code, new_stop):
    stop, script = new_stop(), Script(failed(code))
    expected = RefusedError if code is StatusCode.PERMISSION_DENIED else BadInputError
    with pytest.raises(expected, match=rf"{ADDRESS}.*: why"):
        Retry(ADDRESS, stop).call(script)
    assert (script.calls, stop.waits) == (1, [])


@pytest.mark.parametrize(
    ("code", "reason", "error", "message"),
    [
        (StatusCode.UNAUTHENTICATED, "revoked", RefusedError, "join TOKEN --force"),
        (StatusCode.PERMISSION_DENIED, "revoked", RefusedError, "join TOKEN --force"),
        (StatusCode.FAILED_PRECONDITION, "not-enrolled", RefusedError, "join TOKEN --force"),
        (StatusCode.PERMISSION_DENIED, "not-yours", WorkGoneError, "why"),
        (StatusCode.FAILED_PRECONDITION, "wrong-state", WorkGoneError, "why"),
        (StatusCode.INVALID_ARGUMENT, "not-found", WorkGoneError, "why"),
        (StatusCode.FAILED_PRECONDITION, "protocol-version", BadInputError, "refuses what this device says: why"),
        (StatusCode.FAILED_PRECONDITION, "generator-version", BadInputError, "refuses what this device says: why"),
        (StatusCode.FAILED_PRECONDITION, "unknown-label", NothingForThisDeviceError, "why"),
        (StatusCode.FAILED_PRECONDITION, "unknown-task", NothingForThisDeviceError, "why"),
        (StatusCode.INVALID_ARGUMENT, "bad-field", BadInputError, "refuses what this device says: why"),
    ],
)
def test_a_reason_says_more_than_the_status(code, reason, error, message, new_stop):
    with pytest.raises(error, match=message):
        Retry(ADDRESS, new_stop()).call(Script(failed(code, reason)))


def test_full_server_disk_is_waited_out(new_stop):
    assert Retry(ADDRESS, new_stop()).call(Script(failed(StatusCode.FAILED_PRECONDITION, "storage"))) == 42


def test_jitter_is_full(new_stop):
    bounds = []
    Retry(ADDRESS, new_stop(), lambda low, high: bounds.append((low, high)) or 0.0).call(
        Script(*[failed(StatusCode.UNAVAILABLE)] * 3)
    )
    assert bounds == [(0.0, 0.5), (0.0, 1.0), (0.0, 2.0)]


def test_progress_starts_the_waits_again(new_stop):
    stop = new_stop()
    retry = Retry(ADDRESS, stop, highest)
    script = Script(*[failed(StatusCode.UNAVAILABLE)] * 3)

    def attempt():
        retry.progressed()
        return script()

    retry.call(attempt)
    assert stop.waits == [BASE_S] * 3


def test_a_wait_ends_when_the_agent_is_to_stop(new_stop):
    with pytest.raises(StopRequested):
        Retry(ADDRESS, new_stop(last=3)).call(Script(*[failed(StatusCode.UNAVAILABLE)] * 9))


def test_cause_is_logged_once_per_change(new_stop, capsys):
    script = Script(
        *[failed(StatusCode.UNAVAILABLE, details="refused")] * 5, *[failed(StatusCode.UNAVAILABLE, details="reset")] * 5
    )
    Retry(ADDRESS, new_stop()).call(script)
    said = capsys.readouterr()
    said = said.out + said.err
    assert said.count("no answer") == 2
    assert (said.count("refused"), said.count("reset"), said.count("reached again")) == (1, 1, 1)
    assert ADDRESS in said


def test_what_a_real_coordinator_sends_is_understood(coordinator, link, refuse):
    def on_check_in(request):
        raise refuse(StatusCode.RESOURCE_EXHAUSTED, "too\n many", "storage")

    coordinator.on_check_in = on_check_in
    with pytest.raises(CallFailedError) as caught:
        link.check_in(device_pb2.CheckInRequest())
    error = caught.value
    assert (error.code, error.reason, error.details) == (StatusCode.RESOURCE_EXHAUSTED, "storage", "too many")


def test_a_coordinator_that_is_busy_is_left_alone_for_as_long_as_it_says(new_stop):
    stop = new_stop()
    busy = CallFailedError(StatusCode.RESOURCE_EXHAUSTED, "busy", "come back later", retry_after_s=7.0)

    assert Retry(ADDRESS, stop, highest).call(Script(busy, busy)) == 42
    assert stop.waits == [7 + BASE_S, 7 + 2 * BASE_S]
