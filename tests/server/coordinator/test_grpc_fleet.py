from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from fwdllm_server.coordinator.grpc_fleet import GrpcFleet
from fwdllm_server.coordinator.runtime import Runtime

ALONE = cast("Runtime", SimpleNamespace(database=SimpleNamespace(shared=False)))


async def test_news_that_come_just_before_a_stop_do_not_undo_it():
    """A stopped job's loop would go on for ever, and whoever stopped it would wait as long."""
    fleet = GrpcFleet(ALONE)

    async def wait() -> None:
        while True:
            await fleet.news(within_s=60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    fleet.wake()
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(waiting), 5)


async def test_no_news_are_over_in_time():
    await asyncio.wait_for(GrpcFleet(ALONE).news(within_s=0.01), 5)
