"""The agent's loop: check in, do what there is to do, come back in the coordinator's window."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.journal import Journal
from fwdllm_client.reporter import Reporter
from fwdllm_client.retry import Retry, Stop, StopRequested, WorkGoneError
from fwdllm_client.transport import Coordinator
from fwdllm_common.errors import IntegrityError

INTEGRITY_PAUSE_MS = 15 * 60 * 1000
"""A model or weights with a wrong hash are not fetched again before this many milliseconds: they cost a data plan."""

DEFAULT_WINDOW = device_pb2.CheckInWindow(min_ms=30_000, max_ms=90_000)

_log = structlog.get_logger()

Work = Callable[[device_pb2.Assignment], device_pb2.CheckInWindow | None]


class Session:
    """One device's conversation with its coordinator.

    :param profile: what the device says at every check-in.
    :param work: does an assignment and returns the window that its answers named, or None.
    :param new_reporter: makes a reporter for what is left in the journal.
    :param stop: ends the loop at the next wait or group of scalars.
    :param uniform: random float between two bounds.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        retry: Retry,
        journal: Journal,
        profile: device_pb2.CheckInRequest,
        work: Work,
        new_reporter: Callable[[], Reporter],
        stop: Stop,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._coordinator = coordinator
        self._retry = retry
        self._journal = journal
        self._profile = profile
        self._work = work
        self._new_reporter = new_reporter
        self._stop = stop
        self._uniform = uniform
        self._said = ""

    def run(self, *, once: bool = False) -> None:
        """Go on until ``stop``; with ``once`` check in a single time and do what that brings.

        :raises RefusedError: the device is revoked or unknown.
        :raises BadInputError: the coordinator refuses what the device says of itself, or the local data does not fit.
        :raises StorageError: the disk is full.
        :raises IntegrityError: with ``once``, model or weights are not what was announced.
        """
        try:
            while not self._stop.is_set():
                window = self._turn(once=once)
                if once or self._stop.wait(self._uniform(window.min_ms, max(window.min_ms, window.max_ms)) / 1000):
                    return
        except StopRequested:
            return

    def _turn(self, *, once: bool) -> device_pb2.CheckInWindow:
        """One check-in with everything that follows from it; returns when to come back."""
        window = DEFAULT_WINDOW
        try:
            answer = self._retry.call(lambda: self._coordinator.check_in(self._profile))
            window = answer.next if answer.HasField("next") else window
            self._journal.keep_only(answer.open_assignments)
            window = self._deliver_rest() or window
            if answer.HasField("assignment"):
                self._said = ""
                window = self._work(answer.assignment) or window
            elif self._said != answer.message:
                self._said = answer.message
                _log.info("nothing to do", coordinator=self._coordinator.address, message=answer.message)
        except WorkGoneError as gone:
            _log.info("this work is over", message=str(gone))
        except IntegrityError as error:
            if once:
                raise
            _log.error("assignment left undone", cause=str(error))
            return device_pb2.CheckInWindow(min_ms=INTEGRITY_PAUSE_MS, max_ms=2 * INTEGRITY_PAUSE_MS)
        return window

    def _deliver_rest(self) -> device_pb2.CheckInWindow | None:
        """Send again what an earlier life of this agent computed and never saw acknowledged."""
        if not self._journal.unacknowledged():
            return None
        with self._new_reporter() as reporter:
            reporter.finish()
        return reporter.window
