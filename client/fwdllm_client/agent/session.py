"""The agent's loop: check in, do what there is to do, come back in the coordinator's window."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.reporter import Reporter
from fwdllm_client.conditions import Hold
from fwdllm_client.connection.retry import Retry, Stop, StopRequested, WorkGoneError
from fwdllm_client.connection.transport import Coordinator
from fwdllm_client.policy.permission import Permission
from fwdllm_common.errors import HeldError, IntegrityError, NoRoomError

UNUSABLE_PAUSE_MS = 15 * 60 * 1000
"""A model or weights with a wrong hash, or too large, are not tried again before this many milliseconds: they cost a
data plan."""

AT_ONCE = device_pb2.CheckInWindow(min_ms=0, max_ms=0)
"""Work that may not go on is given back by the next check-in."""
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
        self._uniform = uniform
        self._clock = clock
        self._clock_is_off = False
        self._said = ""
        self._held: tuple[Hold, ...] = ()

    def run(self, *, once: bool = False) -> None:
        """Go on until ``stop``; with ``once`` check in a single time and do what that brings, or give it back.

        :raises RefusedError: the device is revoked or unknown.
        :raises BadInputError: the coordinator refuses what the device says of itself, or the local data does not fit.
        :raises StorageError: the disk is full.
        :raises IntegrityError: with ``once``, model or weights are not what was announced.
        :raises NoRoomError: with ``once``, the model is larger than the owner allows.
        :raises HeldError: with ``once``, the device may not work now.
        """
        try:
            while not self._stop.is_set():
                self._renew()
                window = self._turn(once=once)
                if once and self._held:
                    raise HeldError("this device may not work now; 'fwdllm-client status' says why")
                if (once and window is not AT_ONCE) or self._wait(window):
                    return
        except StopRequested:
            return

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

    def _turn(self, *, once: bool) -> device_pb2.CheckInWindow:
        """One check-in with everything that follows from it; returns when to come back."""
        window = DEFAULT_WINDOW
        try:
            answer = self._retry.call(self._check_in)
            window = answer.next if answer.HasField("next") else window
            self._journal.keep_only(answer.open_assignments)
            window = self._deliver_rest() or window
            if self._held:
                window = HELD_WINDOW
            elif answer.HasField("assignment") and not self._permission.allows(answer.assignment.job_name):
                _log.warning("work left undone: the owner does not allow this job", job=answer.assignment.job_name)
            elif answer.HasField("assignment"):
                self._said = ""
                window = self._work(answer.assignment) or window
            elif self._said != answer.message:
                self._said = answer.message
                _log.info("nothing to do", coordinator=self._coordinator.address, message=answer.message)
        except WorkGoneError as gone:
            _log.info("this work is over", message=str(gone))
        except (IntegrityError, NoRoomError) as error:
            if once:
                raise
            _log.error("assignment left undone", code=error.code, cause=str(error))
            return device_pb2.CheckInWindow(min_ms=UNUSABLE_PAUSE_MS, max_ms=2 * UNUSABLE_PAUSE_MS)
        return window

    def _check_in(self) -> device_pb2.CheckInResponse:
        request = device_pb2.CheckInRequest()
        request.CopyFrom(self._profile)
        self._held = self._permission.tell(request)
        answer = self._coordinator.check_in(request)
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
