"""Retries of failed calls: a table from gRPC status to action, and back-off with full jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol, TypeVar

import structlog
from grpc import StatusCode

from fwdllm_client.connection.transport import CallFailedError
from fwdllm_common.errors import BadInputError, FwdllmError, RefusedError
from fwdllm_common.protocol import Reason

BASE_S = 0.5
CAP_S = 60.0

_log = structlog.get_logger()
_Result = TypeVar("_Result")


class Action(Enum):
    """A device's response to a failed call."""

    RETRY_NOW = auto()  # at once; back off after the second failure in a row
    BACK_OFF = auto()  # until it succeeds, after random waits of up to CAP_S seconds
    WAIT = auto()  # no job suits this device now; one may later
    CHECK_IN = auto()  # the work no longer exists: ask for other work at the next check-in
    RE_ENROL = auto()  # end the program; the device must join again
    STOP = auto()  # end the program; a retry cannot help


ACTIONS: dict[StatusCode, Action] = {
    StatusCode.CANCELLED: Action.RETRY_NOW,  # the coordinator or a proxy dropped the stream while it restarts
    StatusCode.UNKNOWN: Action.BACK_OFF,
    StatusCode.INVALID_ARGUMENT: Action.STOP,
    StatusCode.DEADLINE_EXCEEDED: Action.BACK_OFF,
    StatusCode.NOT_FOUND: Action.CHECK_IN,  # the job or its round has ended
    StatusCode.ALREADY_EXISTS: Action.CHECK_IN,
    StatusCode.PERMISSION_DENIED: Action.STOP,
    StatusCode.UNAUTHENTICATED: Action.RE_ENROL,
    StatusCode.RESOURCE_EXHAUSTED: Action.BACK_OFF,
    StatusCode.FAILED_PRECONDITION: Action.STOP,
    StatusCode.ABORTED: Action.BACK_OFF,
    StatusCode.OUT_OF_RANGE: Action.CHECK_IN,
    StatusCode.UNIMPLEMENTED: Action.STOP,
    StatusCode.INTERNAL: Action.BACK_OFF,
    StatusCode.UNAVAILABLE: Action.BACK_OFF,
    StatusCode.DATA_LOSS: Action.BACK_OFF,
}
"""Every status that can end a call."""

REASONS: dict[str, Action] = {
    Reason.NOT_ENROLLED: Action.RE_ENROL,
    Reason.REVOKED: Action.RE_ENROL,
    Reason.UNKNOWN_LABEL: Action.WAIT,
    Reason.UNKNOWN_TASK: Action.WAIT,
    Reason.NOT_FOUND: Action.CHECK_IN,
    Reason.NOT_YOURS: Action.CHECK_IN,
    Reason.WRONG_STATE: Action.CHECK_IN,
    Reason.STORAGE: Action.BACK_OFF,
    Reason.BUSY: Action.BACK_OFF,
    Reason.IDLE: Action.RETRY_NOW,
}
"""Actions for refusal reasons that are more specific than the status."""


class WorkGoneError(Exception):
    """The coordinator does not know this work (any more); the next check-in brings other work."""


class NothingForThisDeviceError(Exception):
    """No running job suits this device (the refusal that coordinators before 1.3 send)."""


class NotServedError(BadInputError):
    """The coordinator refuses this device's requests permanently."""


class StopRequested(Exception):  # noqa: N818 - not an error
    """The agent is to stop, which ends the wait."""


class Stop(Protocol):
    """The part of :class:`threading.Event` that a wait needs; tests replace it by their own clock."""

    def is_set(self) -> bool:
        """Return whether the agent is to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to ``timeout`` seconds; return True as soon as the agent is to stop."""


def action_for(error: CallFailedError) -> Action:
    """Return the action for ``error`` from the tables."""
    return REASONS.get(error.reason, ACTIONS.get(error.code, Action.BACK_OFF))


class Retry:
    """Repeats calls to ``address`` until they succeed or are refused; for one thread at a time.

    :param stop: ends every wait; this class waits only by its ``wait``.
    :param uniform: random float between two bounds.
    """

    def __init__(self, address: str, stop: Stop, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._address = address
        self._stop = stop
        self._uniform = uniform
        self._failures = 0
        self._cause = ""

    def call(self, attempt: Callable[[], _Result]) -> _Result:
        """Call ``attempt`` until it raises no :class:`CallFailedError`, and return its result.

        :raises WorkGoneError: the work does not exist any more.
        :raises NothingForThisDeviceError: no running job suits this device.
        :raises RefusedError: the device is revoked or unknown.
        :raises BadInputError: the coordinator refuses the device's request.
        :raises StopRequested: the agent is to stop.
        """
        while True:
            try:
                result = attempt()
            except CallFailedError as error:
                self._after(error)
            else:
                self.progressed()
                return result

    def progressed(self) -> None:
        """Reset the back-off, because the coordinator has answered."""
        if self._cause:
            _log.info("coordinator reached again", address=self._address)
        self._failures = 0
        self._cause = ""

    def _after(self, error: CallFailedError) -> None:
        if self._stop.is_set():
            raise StopRequested from error
        action = action_for(error)
        if action is Action.WAIT:
            raise NothingForThisDeviceError(error.details) from error
        if action is Action.CHECK_IN:
            raise WorkGoneError(error.details) from error
        if action in (Action.RE_ENROL, Action.STOP):
            raise refusal(error, self._address) from error
        self._failures += 1
        if action is Action.RETRY_NOW and self._failures == 1:
            _log.debug("retrying at once", address=self._address, status=error.code.name)
            return
        if self._cause != str(error):
            self._cause = str(error)
            _log.warning("no answer, trying again until there is one", address=self._address, cause=self._cause)
        longest = min(CAP_S, BASE_S * 2.0 ** min(self._failures - 1, 16))
        # The time that the coordinator asks for is a minimum; the jitter spreads the devices' retries.
        wait_s = error.retry_after_s + self._uniform(0.0, longest)
        _log.debug("retrying after a wait", failures=self._failures, seconds=round(wait_s, 1), status=error.code.name)
        if self._stop.wait(wait_s):
            raise StopRequested from error


def refusal(error: CallFailedError, address: str) -> FwdllmError:
    """Return the error that ends the program after a refusal, with the coordinator's own message."""
    details = error.details or error.code.name
    if action_for(error) is Action.RE_ENROL:
        return RefusedError(
            f"the coordinator at {address} refuses this device: {details}; "
            "to join again, ask for a new token and run: fwdllm-client join TOKEN --force"
        )
    if error.code is StatusCode.PERMISSION_DENIED:
        return RefusedError(f"the coordinator at {address} refuses this device: {details}")
    if error.code is StatusCode.UNIMPLEMENTED:
        return NotServedError(f"{address} is not a coordinator that this device understands: {details}; update fwdllm")
    return NotServedError(f"the coordinator at {address} refuses what this device says: {details}")
