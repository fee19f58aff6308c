"""Limit the open calls of a port: their number, their rate for each caller, and how long they may be idle."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import structlog

from fwdllm_common.errors import StorageError
from fwdllm_common.protocol import Reason
from fwdllm_server.config.server_config import LimitsSection
from fwdllm_server.rpc.errors import CallRefusedError

LOOK_EVERY_S = 1.0
"""Seconds between two checks of the open calls. A revoked device loses its calls at the next one."""
BURST_S = 4.0
"""Size of a caller's token bucket, in seconds of its rate."""
FIRST_MESSAGE_S = 30.0
"""Seconds within which the first message of a call must arrive."""
MOST_OPENING, CROWDED_FIRST_MESSAGE_S = 64, 2.0
"""Largest number of calls that wait for their first message, and the time limit in seconds of those beyond it.

A partly received message takes memory. If there are more such calls, the oldest have less time. A single caller never
has more: its oldest call is ended for the next one.
"""

Revoked: TypeAlias = Callable[[Collection[str]], Awaitable[Collection[str]]]
_log = structlog.get_logger()


@dataclass(eq=False)
class OpenCall:
    """An open call. ``last`` is the time of its latest message, ``ended`` the reason why it was ended.

    It is ``opening`` until its first message has arrived.
    """

    caller: str
    task: asyncio.Task[object]
    last: float
    opening: bool = True
    ended: CallRefusedError | None = None

    def end(self, why: CallRefusedError) -> None:
        """End the call by cancelling its task. Its caller receives the reason ``why``."""
        if self.ended is None:
            self.ended = why
            self.task.cancel()


class OpenCalls:
    """The open calls of one port. A caller's state is dropped a few seconds after its last call."""

    def __init__(self, limits: LimitsSection, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._open: dict[OpenCall, None] = {}  # the oldest first
        self._opening: dict[str, dict[OpenCall, None]] = {}  # by caller, the oldest first
        self._streams: Counter[str] = Counter()
        self._saved: dict[str, tuple[float, float]] = {}  # token bucket of a caller: calls left, at what time

    @contextmanager
    def entered(self, caller: str, *, is_stream: bool) -> Iterator[OpenCall]:
        """Register a call of ``caller`` while the block runs in the current task. Its first message comes later.

        :raises CallRefusedError: RESOURCE_EXHAUSTED: the caller exceeds a limit, or the server is full.
        """
        self._spend(caller)
        if len(self._open) >= self._limits.calls_at_once and not self._make_room():
            raise busy("the coordinator has its largest number of calls open", 5.0)
        if is_stream and self._streams[caller] >= self._limits.streams_per_device:
            raise busy(f"this device has {self._limits.streams_per_device} streams open, which is the limit", 5.0)
        call = OpenCall(caller, _current_task(), self._clock())
        opening = self._opening.setdefault(caller, {})
        if len(opening) >= MOST_OPENING:
            self._end_opening(next(iter(opening)), f"more than {MOST_OPENING} calls wait for their message")
        self._open[call] = opening[call] = None
        self._streams[caller] += is_stream
        try:
            yield call
        finally:
            self._open.pop(call, None)
            self._is_open(call)
            self._streams[caller] -= is_stream
            if not self._streams[caller]:
                del self._streams[caller]

    def message_came(self, call: OpenCall) -> None:
        """Record a received message of a call. Each but the first counts as a call.

        :raises CallRefusedError: RESOURCE_EXHAUSTED: the messages come too fast.
        """
        call.last = self._clock()
        if call.opening:
            self._is_open(call)
        else:
            self._spend(call.caller)

    def message_went(self, call: OpenCall) -> None:
        """Record that the caller has received a message of the stream."""
        call.last = self._clock()

    @asynccontextmanager
    async def watched(self, revoked: Revoked) -> AsyncIterator[None]:
        """End idle calls, and calls of callers that ``revoked`` returns, while the block runs."""
        watching = asyncio.create_task(self._watch(revoked), name="open calls")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, revoked: Revoked) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look(revoked)
            except StorageError as error:  # calls that need an unreadable store end by themselves
                _log.warning("cannot read which devices were revoked", reason=str(error))

    async def look(self, revoked: Revoked) -> None:
        """End every call that is idle, late or of a revoked caller."""
        now = self._clock()
        opening = [call for call in self._open if call.opening]
        crowded = len(opening) - MOST_OPENING
        for number, call in enumerate(opening):
            patience_s = CROWDED_FIRST_MESSAGE_S if number < crowded else FIRST_MESSAGE_S
            if now - call.last > patience_s:
                self._end_opening(call, f"no message came on this call in {patience_s:g} s")
        for call in list(self._open):
            if not call.opening and now - call.last > self._limits.idle_s:
                call.end(_late(f"no message was sent on this call for {self._limits.idle_s:g} s"))
        self._saved = {caller: saved for caller, saved in self._saved.items() if now - saved[1] < BURST_S}
        callers = {call.caller for call in self._open}
        gone = set(await revoked(callers)) if callers else set()
        for call in [call for call in self._open if call.caller in gone]:
            message = "this device was revoked by the operator; it can come back only with a new join token and key"
            call.end(CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, Reason.REVOKED, message))

    def _make_room(self) -> bool:
        """End the oldest opening call of the caller that has most of them. Return False if there is none."""
        if not self._opening:
            return False
        caller = max(self._opening, key=lambda each: len(self._opening[each]))
        self._end_opening(next(iter(self._opening[caller])), "this call was ended to make room for other callers")
        return True

    def _end_opening(self, call: OpenCall, message: str) -> None:
        call.end(_late(message))
        self._open.pop(call, None)
        self._is_open(call)

    def _is_open(self, call: OpenCall) -> None:
        """Mark a call as no longer opening."""
        call.opening = False
        opening = self._opening.get(call.caller, {})
        opening.pop(call, None)
        if not opening:
            self._opening.pop(call.caller, None)

    def _spend(self, caller: str) -> None:
        rate, now = self._limits.calls_per_s, self._clock()
        most = rate * BURST_S
        saved, at = self._saved.get(caller, (most, now))
        saved = min(most, saved + (now - at) * rate)
        if saved < 1:
            raise busy(f"more than {rate:g} calls a second", (1 - saved) / rate)
        self._saved[caller] = saved - 1, now


def busy(message: str, retry_after_s: float) -> CallRefusedError:
    """Return a refusal that asks the caller to come back after ``retry_after_s`` seconds."""
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    return CallRefusedError(status, Reason.BUSY, f"{message}; come back later", retry_after_s)


def _late(message: str) -> CallRefusedError:
    return CallRefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, Reason.IDLE, message)


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
