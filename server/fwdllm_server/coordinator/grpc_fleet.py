"""The fleet of real devices, which call over gRPC in real time."""

from __future__ import annotations

import asyncio
import time
from math import inf

from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.training import Step

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
        self._rest_until = 0.0

    def wake(self) -> None:
        """Wake the round: an event that it may wait for has happened."""
        self._woken.set()

    async def advance(self, machine: RoundMachine) -> Step:
        """Advance the round machine in the store's thread, then run the computation that is due."""
        step, seconds = await self._runtime.in_store(_timed, machine, self._runtime.clock())
        self._rest_until = time.perf_counter() + min(seconds * (1 / _SHARE - 1), _LONGEST_PAUSE_S)
        if step.due is not None:
            await asyncio.to_thread(step.due)  # in another thread: neither the event loop nor the store waits for it
        await self._runtime.notify()
        return step

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


def _timed(machine: RoundMachine, now: float) -> tuple[Step, float]:
    """Return the next step and the seconds that it took in the store's thread."""
    started = time.perf_counter()
    step = machine.advance(now, defer=True)
    return step, time.perf_counter() - started
