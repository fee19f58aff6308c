"""The agent's loop: check in, do the assigned work, and check in again in the coordinator's window."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.failures import WorkFailedError
from fwdllm_client.agent.link import Link
from fwdllm_client.agent.notes import NotesFile
from fwdllm_client.conditions import Hold
from fwdllm_client.connection.retry import NothingForThisDeviceError, StopRequested, WorkGoneError
from fwdllm_client.policy.permission import Permission
from fwdllm_common.errors import HeldError
from fwdllm_common.protocol import MAX_FAILURES

FAILED_PAUSE_MS = 15 * 60 * 1000
"""Time before a failed job is tried again, milliseconds: downloading a model may use up a data plan."""
UNSUITED_WINDOW = device_pb2.CheckInWindow(min_ms=60 * 1000, max_ms=5 * 60 * 1000)
"""Window of the next check-in when no job suits this device."""

AT_ONCE = device_pb2.CheckInWindow(min_ms=0, max_ms=0)
"""Window of the check-in that gives back work which may not or cannot continue."""
HELD_WINDOW = device_pb2.CheckInWindow(min_ms=15 * 60 * 1000, max_ms=30 * 60 * 1000)
"""Window of a device that may not work; it checks in earlier as soon as it may work."""
LOOK_EVERY_S = 5.0
"""Interval at which such a device checks its permission, seconds."""
READ_EVERY_S = 120.0
"""Greatest age of a sensor reading during the wait, seconds."""

CLOCK_TOLERANCE_S = 60
"""Difference of the two clocks that is tolerated without a warning, seconds."""

DEFAULT_WINDOW = device_pb2.CheckInWindow(min_ms=30_000, max_ms=90_000)

_log = structlog.get_logger()

Work = Callable[[device_pb2.Assignment], device_pb2.CheckInWindow | None]


class Session:
    """One device's session with its coordinator.

    :param link: the calls, the journal and ``stop``, which ends the loop at the next wait or group of scalars.
    :param profile: the constant part of the device's check-ins.
    :param permission: decides whether work may be done, and adds its state to each check-in.
    :param work: does an assignment and returns the window of the next check-in, or None.
    :param renew: renews the certificate when it is due; called before each check-in.
    :param notes: notes for the owner; None for no notes.
    :param uniform: random float between two bounds.
    :param clock: seconds since 1970 UTC.
    """

    def __init__(
        self,
        link: Link,
        profile: device_pb2.CheckInRequest,
        permission: Permission,
        work: Work,
        renew: Callable[[], None] = lambda: None,
        notes: NotesFile | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._retry = link.retry()
        self._profile = profile
        self._permission = permission
        self._work = work
        self._renew = renew
        self._notes = notes
        self._uniform = uniform
        self._clock = clock
        self._clock_is_off = False
        self._last_reason = ""
        self._held: tuple[Hold, ...] = ()
        self._unreported: list[device_pb2.AssignmentFailure] = []
        self._gave_up: dict[str, float] = {}
        self._once = False
        self._first_failure: Exception | None = None

    def run(self, *, once: bool = False) -> None:
        """Run until ``stop`` is set; with ``once``, check in a single time and do the assigned work, or give it back.

        :raises RefusedError: the device is revoked or unknown.
        :raises BadInputError: the coordinator refuses the device's profile.
        :raises StorageError: the disk is full.
        :raises HeldError: with ``once``, the device may not work now.
        :raises FwdllmError: with ``once``, the assignment failed.
        """
        self._once = once
        try:
            while not self._link.stop.is_set():
                self._renew()
                window = self._turn()
                if once and self._held:
                    raise HeldError("this device may not work now; 'fwdllm-client status' says why")
                if (once and window is not AT_ONCE) or self._wait(window):
                    break
        except StopRequested:
            return
        if self._first_failure is not None:
            raise self._first_failure

    def _wait(self, window: device_pb2.CheckInWindow) -> bool:
        """Wait for the next check-in; if work is held, until it is allowed. Return whether the agent is to stop."""
        left_s = self._uniform(window.min_ms, max(window.min_ms, window.max_ms)) / 1000
        _log.debug("waiting for the next check-in", seconds=round(left_s, 1))
        while self._held and left_s > LOOK_EVERY_S:
            if self._link.stop.wait(LOOK_EVERY_S):
                return True
            left_s -= LOOK_EVERY_S
            if not self._permission.holds(READ_EVERY_S):
                return False
        return self._link.stop.wait(left_s)

    def _turn(self) -> device_pb2.CheckInWindow:
        """Check in and do the work that follows; return the window of the next check-in."""
        window = DEFAULT_WINDOW
        try:
            answer = self._retry.call(self._check_in)
            window = answer.next if answer.HasField("next") else window
            self._link.journal.keep_only(answer.open_assignments)
            window = self._deliver_rest() or window
            if self._held:
                return HELD_WINDOW
            if not answer.HasField("assignment"):
                self._note_waiting(answer.message)
                return window
            return self._do(answer.assignment) or window
        except WorkGoneError as gone:
            _log.info("this work is over", message=str(gone))
        except NothingForThisDeviceError as nothing:
            self._note_waiting(str(nothing))
            return UNSUITED_WINDOW
        return window

    def _do(self, assignment: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
        """Do the assignment unless its job is forbidden or failed here recently; return the next check-in's window."""
        if not self._permission.allows(assignment.job_name):
            _log.warning("work left undone: the owner does not allow this job", job=assignment.job_name)
            return None
        pause = device_pb2.CheckInWindow(min_ms=FAILED_PAUSE_MS, max_ms=2 * FAILED_PAUSE_MS)
        if self._clock() < self._gave_up.get(assignment.job_id, 0.0):
            return pause  # a coordinator before 1.3 ignores reported failures
        self._note_waiting("")
        _log.debug("work begins", job=assignment.job_name, round=assignment.round, version=assignment.version)
        try:
            window = self._work(assignment)
        except WorkFailedError as failed:
            _log.error("assignment failed", job=assignment.job_name, code=failed.code, cause=failed.why)
            if self._notes is not None:
                self._notes.failed(assignment.job_name, failed.code, failed.why)
            self._gave_up[assignment.job_id] = self._clock() + FAILED_PAUSE_MS / 1000
            self._unreported = [*self._unreported, failed.to_message()][-MAX_FAILURES:]
            if self._once and self._first_failure is None:  # only one: a traceback keeps model and rows in memory
                self._first_failure = failed.cause
            return AT_ONCE
        _log.debug("work ended", job=assignment.job_name, round=assignment.round)
        if self._notes is not None:
            self._notes.did(assignment.job_name)
        return window

    def _note_waiting(self, reason: str) -> None:
        if self._last_reason != reason:
            self._last_reason = reason
            if reason:
                _log.info("nothing to do", coordinator=self._link.coordinator.address, message=reason)
        if self._notes is not None:
            self._notes.waits(reason)

    def _check_in(self) -> device_pb2.CheckInResponse:
        request = device_pb2.CheckInRequest()
        request.CopyFrom(self._profile)
        request.failures.extend(self._unreported)
        self._held = self._permission.fill_in(request)
        answer = self._link.coordinator.check_in(request)
        self._unreported = []
        self._compare_clocks(answer.unix_s)
        _log.debug(
            "checked in",
            job=answer.assignment.job_name,
            open_assignments=len(answer.open_assignments),
            holds=[hold.wire_name for hold in self._held],
        )
        return answer

    def _compare_clocks(self, coordinators: int) -> None:
        ahead = round(self._clock()) - coordinators
        is_off = bool(coordinators) and abs(ahead) > CLOCK_TOLERANCE_S  # earlier coordinators do not send it
        if is_off and not self._clock_is_off:
            _log.warning("the clocks differ; set the wrong one: certificates allow for an hour", seconds_ahead=ahead)
        self._clock_is_off = is_off

    def _deliver_rest(self) -> device_pb2.CheckInWindow | None:
        """Send the scalars of an earlier run of the agent that were never acknowledged."""
        left = self._link.journal.unacknowledged()
        if not left:
            return None
        _log.debug("sending scalars of an earlier run", reports=len(left))
        with self._link.reporter() as reporter:
            reporter.finish()
        return reporter.window
