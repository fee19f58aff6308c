"""The calls that are open now: how many a caller may have, how often it may call, and how they are ended."""

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
"""A device that is revoked loses its open calls within so many seconds."""
BURST_S = 4.0
"""Calls that a caller has saved up at most, in seconds of its rate."""
FIRST_MESSAGE_S = 30.0
"""Seconds in which the message of a call has to be here."""
MOST_OPENING, HASTE_S = 64, 2.0
"""If the messages of more calls than that are not here yet, each has so many seconds: a part of one is memory."""

Revoked: TypeAlias = Callable[[Collection[str]], Awaitable[Collection[str]]]
_log = structlog.get_logger()


@dataclass(eq=False)
class OpenCall:
    """A call and the last time that a message of it came or went; ``ended`` says why it is ended."""

    caller: str
    task: asyncio.Task[object]
    last: float
    ended: CallRefusedError | None = None

    def end(self, why: CallRefusedError) -> None:
        """End it: what it waits for is interrupted, and its caller hears why."""
        if self.ended is None:
            self.ended = why
            self.task.cancel()


class OpenCalls:
    """Who has which calls open at one port. What is kept of a caller is gone a few seconds after its last call."""

    def __init__(self, limits: LimitsSection, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._open: set[OpenCall] = set()
        self._streams: Counter[str] = Counter()
        self._saved: dict[str, tuple[float, float]] = {}  # calls that a caller has saved up, and as of when
        self._opening: dict[asyncio.Task[object], float] = {}

    def opening(self) -> None:
        """The task that runs this will serve a call whose message is not here yet."""
        task = _current_task()
        self._opening[task] = self._clock()
        task.add_done_callback(lambda done: self._opening.pop(done, None))

    @contextmanager
    def entered(self, caller: str, *, is_stream: bool) -> Iterator[OpenCall]:
        """A call of ``caller`` while it is served by the task that runs this.

        :raises CallRefusedError: RESOURCE_EXHAUSTED, it has too many or calls too often, or the server is full.
        """
        task = _current_task()
        self._opening.pop(task, None)
        self._spend(caller)
        if len(self._open) >= self._limits.calls_at_once:
            raise busy("the coordinator has as many calls open as it takes", 5.0)
        if is_stream and self._streams[caller] >= self._limits.streams_per_device:
            raise busy(f"{self._limits.streams_per_device} streams of this device are open already", 5.0)
        call = OpenCall(caller, task, self._clock())
        self._open.add(call)
        self._streams[caller] += is_stream
        try:
            yield call
        finally:
            self._open.discard(call)
            self._streams[caller] -= is_stream
            if not self._streams[caller]:
                del self._streams[caller]

    def message_came(self, call: OpenCall) -> None:
        """Another message of a stream came, which counts as a call.

        :raises CallRefusedError: RESOURCE_EXHAUSTED, they come too fast.
        """
        call.last = self._clock()
        self._spend(call.caller)

    def message_went(self, call: OpenCall) -> None:
        """Another message of a stream was taken by the caller."""
        call.last = self._clock()

    @asynccontextmanager
    async def watched(self, revoked: Revoked) -> AsyncIterator[None]:
        """While the block runs, calls end that stand still, and those of callers that ``revoked`` names."""
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
            except StorageError as error:  # a call in a store that cannot be read ends by itself
                _log.warning("cannot see who was revoked", reason=str(error))

    async def look(self, revoked: Revoked) -> None:
        """End what is to end now."""
        now = self._clock()
        crowded = len(self._opening) - MOST_OPENING
        for number, (task, since) in enumerate(list(self._opening.items())):  # the oldest first
            if now - since > (HASTE_S if number < crowded else FIRST_MESSAGE_S):
                task.cancel()
        for call in list(self._open):
            if now - call.last > self._limits.idle_s:
                message = f"nothing was heard on this call for {self._limits.idle_s:g} s"
                call.end(CallRefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, Reason.IDLE, message))
        self._saved = {caller: saved for caller, saved in self._saved.items() if now - saved[1] < BURST_S}
        callers = {call.caller for call in self._open}
        gone = set(await revoked(callers)) if callers else set()
        for call in [call for call in self._open if call.caller in gone]:
            message = "this device was revoked by the operator; it can come back only with a new join token and key"
            call.end(CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, Reason.REVOKED, message))

    def _spend(self, caller: str) -> None:
        rate, now = self._limits.calls_per_s, self._clock()
        most = rate * BURST_S
        saved, at = self._saved.get(caller, (most, now))
        saved = min(most, saved + (now - at) * rate)
        if saved < 1:
            raise busy(f"more than {rate:g} calls a second", (1 - saved) / rate)
        self._saved[caller] = saved - 1, now


def busy(message: str, retry_after_s: float) -> CallRefusedError:
    """A refusal that says when to come back."""
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    return CallRefusedError(status, Reason.BUSY, f"{message}; come back later", retry_after_s)


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
