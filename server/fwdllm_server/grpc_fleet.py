"""Real devices: they call over gRPC, in real time."""

from __future__ import annotations

import asyncio
from math import inf

from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.training import Step
from fwdllm_server.runtime import Runtime


class GrpcFleet:
    """A :class:`fwdllm_server.rounds.fleet.Fleet` behind the device service."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something happened that the round may wait for."""
        self._woken.set()

    async def advance(self, machine: RoundMachine) -> Step:
        """See :class:`fwdllm_server.rounds.fleet.Fleet`."""
        step = await self._runtime.in_store(machine.advance, self._runtime.clock())
        await self._runtime.notify()
        return step

    async def news(self, within_s: float) -> None:
        """See :class:`fwdllm_server.rounds.fleet.Fleet`."""
        try:
            # Not wait_for: until Python 3.12 it forgets that it was cancelled when the event came just before.
            async with asyncio.timeout(None if within_s == inf else within_s):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()
