"""A job that lacks a device, on a whole coordinator: its operator and its log are told why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from helpers.serving import Clock, Serving
from structlog.testing import capture_logs

from fwdllm_server.coordinator import job_loop
from fwdllm_server.rounds.stalled import STALLED_S

LACKING = "waiting for devices: 1 of 2 are here"


async def test_the_operator_and_the_log_are_told_why_a_job_waits(
    start: Callable[..., Awaitable[Serving]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_loop, "STALLED_S", 0.01)  # how often it looks, not what is long
    server = await start(min_devices=2)
    device = await server.device("device-1")
    await device.check_in()
    assert (await server.job()).message == ""
    with capture_logs() as lines:
        clock.now += STALLED_S
        await device.check_in()
        await server.until(lambda job: job.message == LACKING)
        await server.until(lambda _: any(line["event"] == "job waits" for line in lines))
        for _ in range(20):
            await device.check_in()

    told = [(line["log_level"], line["job"], line["reason"]) for line in lines if line["event"] == "job waits"]
    assert told[-1] == ("warning", "tiny", LACKING)
    assert len(told) == len(set(told))
