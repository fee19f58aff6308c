"""Real devices: they call over gRPC, in real time."""

from __future__ import annotations

import asyncio
import time
from math import inf

from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.training import Step

POLL_S = 0.5
"""Seconds after which a coordinator looks at what others have written."""
_SHARE = 0.2
"""Part of the store's time that one round takes with looking whether it can go on: many devices at once make news."""
_LONGEST_PAUSE_S = 1.0


class GrpcFleet:
    """A :class:`fwdllm_server.rounds.fleet.Fleet` behind the device service."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._woken = asyncio.Event()
        self._rest_until = 0.0

    def wake(self) -> None:
        """Something happened that the round may wait for."""
        self._woken.set()

    async def advance(self, machine: RoundMachine) -> Step:
        """See :class:`fwdllm_server.rounds.fleet.Fleet`."""
        step, seconds = await self._runtime.in_store(_timed, machine, self._runtime.clock())
        self._rest_until = time.perf_counter() + min(seconds * (1 / _SHARE - 1), _LONGEST_PAUSE_S)
        if step.due is not None:
            await asyncio.to_thread(step.due)  # neither the loop nor the store waits for it
        await self._runtime.notify()
        return step

    async def news(self, within_s: float) -> None:
        """See :class:`fwdllm_server.rounds.fleet.Fleet`."""
        if self._runtime.database.shared:
            within_s = min(within_s, POLL_S)
        try:
            # Not wait_for: until Python 3.12 it forgets that it was cancelled when the event came just before.
            async with asyncio.timeout(None if within_s == inf else within_s):
                await self._woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(0.0, self._rest_until - time.perf_counter()))
        self._woken.clear()


def _timed(machine: RoundMachine, now: float) -> tuple[Step, float]:
    """A step, and the seconds that the store was busy with it."""
    started = time.perf_counter()
    step = machine.advance(now, defer=True)
    return step, time.perf_counter() - started
