"""The agent's loop: check in, do what there is to do, come back in the coordinator's window."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.failures import WorkFailedError
from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.notes import NotesFile
from fwdllm_client.agent.reporter import Reporter
from fwdllm_client.conditions import Hold
from fwdllm_client.connection.retry import NothingForThisDeviceError, Retry, Stop, StopRequested, WorkGoneError
from fwdllm_client.connection.transport import Coordinator
from fwdllm_client.policy.permission import Permission
from fwdllm_common.errors import HeldError
from fwdllm_common.protocol import MAX_FAILURES

FAILED_PAUSE_MS = 15 * 60 * 1000
"""A job that failed here is not tried again before this many milliseconds: a model costs a data plan."""
UNSUITED_WINDOW = device_pb2.CheckInWindow(min_ms=60 * 1000, max_ms=5 * 60 * 1000)
"""A device that no job is for asks again in this window; jobs come and go."""

AT_ONCE = device_pb2.CheckInWindow(min_ms=0, max_ms=0)
"""Work that may not or cannot go on is given back by the next check-in."""
HELD_WINDOW = device_pb2.CheckInWindow(min_ms=15 * 60 * 1000, max_ms=30 * 60 * 1000)
"""A device that may not work says so now and then, and is back as soon as it may."""
LOOK_EVERY_S = 5.0
"""How often it looks for the owner's permission meanwhile, seconds."""
READ_EVERY_S = 120.0
"""Age at which a reading of the sensors is too old to wait by, seconds."""

CLOCK_TOLERANCE_S = 60
"""Seconds by which this clock and the coordinator's may differ and nobody hears of it."""

DEFAULT_WINDOW = device_pb2.CheckInWindow(min_ms=30_000, max_ms=90_000)

_log = structlog.get_logger()

Work = Callable[[device_pb2.Assignment], device_pb2.CheckInWindow | None]


class Session:
    """One device's conversation with its coordinator.

    :param profile: what the device says at every check-in, beside what the permission has to tell.
    :param permission: without it no work is done.
    :param work: does an assignment and returns the window that its answers named, or None.
    :param new_reporter: makes a reporter for what is left in the journal.
    :param stop: ends the loop at the next wait or group of scalars.
    :param notes: what the owner is to see of it; None for nothing.
    :param renew: renews the certificate when it is time; called before each check-in.
    :param uniform: random float between two bounds.
    :param clock: seconds since 1970 UTC.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        retry: Retry,
        journal: Journal,
        profile: device_pb2.CheckInRequest,
        permission: Permission,
        work: Work,
        new_reporter: Callable[[], Reporter],
        stop: Stop,
        renew: Callable[[], None] = lambda: None,
        notes: NotesFile | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._coordinator = coordinator
        self._retry = retry
        self._journal = journal
        self._profile = profile
        self._permission = permission
        self._work = work
        self._new_reporter = new_reporter
        self._stop = stop
        self._renew = renew
        self._notes = notes
        self._uniform = uniform
        self._clock = clock
        self._clock_is_off = False
        self._said = ""
        self._held: tuple[Hold, ...] = ()
        self._untold: list[device_pb2.AssignmentFailure] = []
        self._gave_up: dict[str, float] = {}
        self._once = False
        self._first_failure: Exception | None = None

    def run(self, *, once: bool = False) -> None:
        """Go on until ``stop``; with ``once`` check in a single time and do what that brings, or give it back.

        :raises RefusedError: the device is revoked or unknown.
        :raises BadInputError: the coordinator refuses what the device says of itself.
        :raises StorageError: the disk is full.
        :raises HeldError: with ``once``, the device may not work now.
        :raises FwdllmError: with ``once``, what kept it from doing an assignment.
        """
        self._once = once
        try:
            while not self._stop.is_set():
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
        """Wait, no longer than until the device may work if it may not now; True when the agent is to stop."""
        left_s = self._uniform(window.min_ms, max(window.min_ms, window.max_ms)) / 1000
        while self._held and left_s > LOOK_EVERY_S:
            if self._stop.wait(LOOK_EVERY_S):
                return True
            left_s -= LOOK_EVERY_S
            if not self._permission.holds(READ_EVERY_S):
                return False
        return self._stop.wait(left_s)

    def _turn(self) -> device_pb2.CheckInWindow:
        """One check-in with everything that follows from it; returns when to come back."""
        window = DEFAULT_WINDOW
        try:
            answer = self._retry.call(self._check_in)
            window = answer.next if answer.HasField("next") else window
            self._journal.keep_only(answer.open_assignments)
            window = self._deliver_rest() or window
            if self._held:
                return HELD_WINDOW
            if not answer.HasField("assignment"):
                self._say(answer.message)
                return window
            return self._do(answer.assignment) or window
        except WorkGoneError as gone:
            _log.info("this work is over", message=str(gone))
        except NothingForThisDeviceError as nothing:
            self._say(str(nothing))
            return UNSUITED_WINDOW
        return window

    def _do(self, assignment: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
        """Do it, unless the owner does not want it or it has just failed here; returns when to come back."""
        if not self._permission.allows(assignment.job_name):
            _log.warning("work left undone: the owner does not allow this job", job=assignment.job_name)
            return None
        pause = device_pb2.CheckInWindow(min_ms=FAILED_PAUSE_MS, max_ms=2 * FAILED_PAUSE_MS)
        if self._clock() < self._gave_up.get(assignment.job_id, 0.0):
            return pause  # a coordinator before 1.3 has not heard of it
        self._say("")
        try:
            window = self._work(assignment)
        except WorkFailedError as failed:
            _log.error("assignment failed", job=assignment.job_name, code=failed.code, cause=failed.why)
            if self._notes is not None:
                self._notes.failed(assignment.job_name, failed.code, failed.why)
            self._gave_up[assignment.job_id] = self._clock() + FAILED_PAUSE_MS / 1000
            self._untold = [*self._untold, failed.to_message()][-MAX_FAILURES:]
            if self._once and self._first_failure is None:  # its traceback holds the model and the rows
                self._first_failure = failed.cause
            return AT_ONCE
        if self._notes is not None:
            self._notes.did(assignment.job_name)
        return window

    def _say(self, why_no_work: str) -> None:
        if self._said != why_no_work:
            self._said = why_no_work
            if why_no_work:
                _log.info("nothing to do", coordinator=self._coordinator.address, message=why_no_work)
        if self._notes is not None:
            self._notes.waits(why_no_work)

    def _check_in(self) -> device_pb2.CheckInResponse:
        request = device_pb2.CheckInRequest()
        request.CopyFrom(self._profile)
        request.failures.extend(self._untold)
        self._held = self._permission.tell(request)
        answer = self._coordinator.check_in(request)
        self._untold = []
        self._compare_clocks(answer.unix_s)
        return answer

    def _compare_clocks(self, coordinators: int) -> None:
        ahead = round(self._clock()) - coordinators
        is_off = bool(coordinators) and abs(ahead) > CLOCK_TOLERANCE_S  # earlier coordinators do not say
        if is_off and not self._clock_is_off:
            _log.warning("the clocks differ; set the wrong one: certificates allow for an hour", seconds_ahead=ahead)
        self._clock_is_off = is_off

    def _deliver_rest(self) -> device_pb2.CheckInWindow | None:
        """Send again what an earlier life of this agent computed and never saw acknowledged."""
        if not self._journal.unacknowledged():
            return None
        with self._new_reporter() as reporter:
            reporter.finish()
        return reporter.window
