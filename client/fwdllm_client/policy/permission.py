"""Permission to work now, by the device's conditions, the owner's choices and the length of a session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.conditions import Conditions, Gate, Hold, Rules
from fwdllm_client.policy.choices import ChoicesFile

READ_EVERY_S = 10.0
"""Greatest age of a sensor reading during work, seconds: on a phone a reading takes about 0.2 s."""

_log = structlog.get_logger()


class WorkCancelledError(Exception):
    """The agent may not continue this work; the rest of it goes back to the coordinator."""


class Permission:
    """Decides whether the agent may work; checked before every step of work and by the watcher thread.

    :param clock: seconds, monotonic.
    """

    def __init__(
        self, gate: Gate, rules: Rules, choices: ChoicesFile, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gate = gate
        self._rules = rules
        self._choices = choices
        self._clock = clock
        self._working = False
        self._began: float | None = None
        self._ended = float("-inf")
        self._rests_until = float("-inf")
        self._logged: tuple[Hold, ...] = ()
        self._lock = threading.Lock()

    @property
    def conditions(self) -> Conditions:
        """The last sensor reading."""
        return self._gate.conditions

    @contextmanager
    def session(self) -> Iterator[None]:
        """Count the time inside as work, together with a session that ended less than the resting time ago."""
        if self._began is None or self._clock() - self._ended >= self._rules.settle_s:
            self._began = self._clock()
        self._working = True
        try:
            yield
        finally:
            self._working = False
            self._ended = self._clock()

    def holds(self, max_age_s: float = READ_EVERY_S) -> tuple[Hold, ...]:
        """Return why the agent may not work, by readings younger than ``max_age_s`` seconds; nothing if it may.

        :raises BadInputError: the owner's choices cannot be read.
        """
        with self._lock:
            paused = (Hold.PAUSED,) if self._choices.read().paused else ()
            by_conditions = self._gate.holds(max_age_s)
            resting = (Hold.RESTING,) if self._is_resting() else ()
            found = (*paused, *by_conditions, *resting)
            if found != self._logged:
                self._logged = found
                reasons = "; ".join(hold.explained(self._gate.conditions) for hold in found)
                _log.info("not working now" if found else "free to work again", **({"why": reasons} if found else {}))
            return found

    def allows(self, job: str) -> bool:
        """Return whether the owner allows the job of this name."""
        return self._choices.read().jobs.allows(job)

    def granted(self, job: str) -> bool:
        """Return whether the agent may work for the job of this name now."""
        return not self.holds() and self.allows(job)

    def check(self, job: str) -> None:
        """Check that the agent may work for the job of this name now.

        :raises WorkCancelledError: it may not.
        """
        if not self.granted(job):
            raise WorkCancelledError

    def fill_in(self, request: device_pb2.CheckInRequest) -> tuple[Hold, ...]:
        """Add the conditions, the holds and the choice of jobs to a check-in, and return the holds."""
        found = self.holds()
        request.conditions.CopyFrom(self._gate.conditions.to_message())
        request.conditions.holds.extend(hold.value for hold in found)
        request.jobs.CopyFrom(self._choices.read().jobs.to_message())
        return found

    def _is_resting(self) -> bool:
        now, longest_s = self._clock(), self._rules.longest_session_s(self._gate.conditions)
        if self._working and self._began is not None and now - self._began >= longest_s:
            self._began, self._rests_until = None, now + self._rules.settle_s
        return now < self._rests_until
