"""The interface between rounds and devices, real or simulated (DESIGN §2, invariant 8)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from fwdllm_common.replay import ModelState
from fwdllm_server.rounds.context import Step
from fwdllm_server.rounds.machine import RoundMachine


class Fleet(Protocol):
    """The devices of a job, and their clock."""

    async def advance(self, machine: RoundMachine) -> Step:
        """Run one step of the round machine at the fleet's time, and deliver its effects to the devices."""

    async def news(self, within_s: float) -> None:
        """Wait until a device does something, or for ``within_s`` seconds of the fleet's time."""


async def drive(machine: RoundMachine, fleet: Fleet, committed: Callable[[ModelState], Awaitable[None]]) -> None:
    """Run the round machine until its job ends.

    :param committed: called with the model state after each commit.
    :raises FwdllmError: a step failed.
    """
    while True:
        step = await fleet.advance(machine)
        if step.state is not None:
            await committed(step.state)
        if step.job_ended:
            return
        if not step.moved:
            await fleet.news(step.look_again_s)
