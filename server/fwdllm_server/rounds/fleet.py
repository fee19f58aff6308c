"""The seam between rounds and devices: the same rounds run wherever the devices are (DESIGN §2, invariant 8)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from fwdllm_common.replay import ModelState
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.training import Step


class Fleet(Protocol):
    """The devices of a job, and the time that they live in."""

    async def advance(self, machine: RoundMachine) -> Step:
        """One step of the round machine at the fleet's time; the devices hear of what it did."""

    async def news(self, within_s: float) -> None:
        """Return when a device did something, or after ``within_s`` seconds of the fleet's time."""


async def drive(machine: RoundMachine, fleet: Fleet, committed: Callable[[ModelState], Awaitable[None]]) -> None:
    """Ask the round machine to go on until its job has ended; ``committed`` hears of each new version.

    :raises FwdllmError: it cannot go on.
    """
    while True:
        step = await fleet.advance(machine)
        if step.state is not None:
            await committed(step.state)
        if step.job_ended:
            return
        if not step.moved:
            await fleet.news(step.look_again_s)
