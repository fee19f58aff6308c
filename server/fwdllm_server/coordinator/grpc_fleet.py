"""The fleet of real devices, which call over gRPC in real time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TypeVar

from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rounds.context import Computation, Step
from fwdllm_server.rounds.machine import RoundMachine

T = TypeVar("T")

POLL_S = 0.5
"""The interval, in seconds, at which a coordinator reads what others have written."""
_SHARE = 0.2
"""The share of the store's time that one round may spend on checking whether it can advance."""
_LONGEST_PAUSE_S = 1.0


class GrpcFleet:
    """A :class:`fwdllm_server.rounds.fleet.Fleet` behind the device service."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._woken = asyncio.Event()
        self._rest_until = self._seconds = 0.0

    def wake(self) -> None:
        """Wake the round: an event that it may wait for has happened."""
        self._woken.set()

    async def advance(self, machine: RoundMachine) -> Step:
        """Run one step of the round machine: its transactions in the store's thread, its computation in another."""
        self._seconds = 0.0
        step = await self._in_store(machine.read)
        if isinstance(step, Computation):
            result = await asyncio.to_thread(step.compute)  # neither the event loop nor the store waits for it
            step = await self._in_store(partial(machine.apply, step, result))
        self._rest_until = time.perf_counter() + min(self._seconds * (1 / _SHARE - 1), _LONGEST_PAUSE_S)
        await self._runtime.notify()
        return step

    async def _in_store(self, transaction: Callable[[float], T]) -> T:
        """Run a transaction of the round machine, and add the seconds that it takes in the store's thread."""

        def timed() -> T:
            started = time.perf_counter()
            try:
                return transaction(self._runtime.clock())
            finally:
                self._seconds += time.perf_counter() - started

        return await self._runtime.in_store(timed)

    async def news(self, within_s: float) -> None:
        """Wait until the round is woken, at most ``within_s`` seconds."""
        if self._runtime.database.shared:
            within_s = min(within_s, POLL_S)
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation that arrives together with the event.
            async with asyncio.timeout(None if within_s == inf else within_s):
                await self._woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(0.0, self._rest_until - time.perf_counter()))
        self._woken.clear()
