"""Limits of open calls, with a clock of our own; over real connections in tests/integration/test_ports.py."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.protocol import Reason
from fwdllm_server.config.server_config import LimitsSection
from fwdllm_server.rpc.errors import CallRefusedError
from fwdllm_server.rpc.open_calls import CROWDED_FIRST_MESSAGE_S, FIRST_MESSAGE_S, MOST_OPENING, OpenCalls


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def nobody(callers):
    return ()


def until_refused(calls: OpenCalls) -> int:
    """How many calls, one after the other, are served."""
    for served in range(100):
        try:
            with calls.entered("a", is_stream=False):
                pass
        except CallRefusedError:
            return served
    return 100


async def test_a_caller_has_no_more_streams_than_allowed_and_another_is_not_affected():
    calls = OpenCalls(LimitsSection(streams_per_device=2))
    with calls.entered("a", is_stream=True), calls.entered("a", is_stream=True), calls.entered("b", is_stream=True):
        with pytest.raises(CallRefusedError, match="2 streams open") as refused:
            calls.entered("a", is_stream=True).__enter__()
        with calls.entered("a", is_stream=False):
            pass
    with calls.entered("a", is_stream=True):
        pass

    assert (refused.value.status, refused.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.BUSY)
    assert refused.value.retry_after_s


async def test_the_server_takes_so_many_calls_at_once():
    calls = OpenCalls(LimitsSection(calls_at_once=3))
    with ExitStack() as stack:
        for caller in "abc":
            calls.message_came(stack.enter_context(calls.entered(caller, is_stream=False)))
        with pytest.raises(CallRefusedError, match="largest number of calls open"):
            calls.entered("d", is_stream=False).__enter__()


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 20))
def test_calls_over_any_time_are_within_the_rate_and_what_was_saved(gaps, rate):
    async def run() -> None:
        clock = Clock()
        calls = OpenCalls(LimitsSection(calls_per_s=rate), clock)
        served = 0
        for gap in gaps:
            clock.now += gap
            served += until_refused(calls)
        assert served <= rate * (clock.now + 4) + 1e-6

    asyncio.run(run())


async def test_after_the_time_that_a_refusal_names_a_call_is_served():
    clock = Clock()
    calls = OpenCalls(LimitsSection(calls_per_s=5), clock)
    until_refused(calls)
    with pytest.raises(CallRefusedError) as refused:
        calls.entered("a", is_stream=False).__enter__()
    assert 0 < refused.value.retry_after_s <= 0.2
    clock.now += refused.value.retry_after_s
    with calls.entered("a", is_stream=False):
        pass


async def test_a_call_with_news_goes_on():
    clock = Clock()
    calls = OpenCalls(LimitsSection(idle_s=10), clock)
    with calls.entered("b", is_stream=True) as busy:
        calls.message_came(busy)
        clock.now = 11.0
        calls.message_came(busy)
        await calls.look(nobody)
        assert busy.ended is None


async def test_the_open_calls_of_a_revoked_device_are_ended():
    async def revoked(callers):
        assert callers == {"a"}
        return {"a", "z"}

    calls = OpenCalls(LimitsSection())
    found = await asyncio.wait_for(_why(calls, revoked), 5)

    assert (found.status, found.reason) == (grpc.StatusCode.UNAUTHENTICATED, Reason.REVOKED)


async def test_a_call_without_a_message_for_too_long_is_ended():
    clock = Clock()
    calls = OpenCalls(LimitsSection(idle_s=10), clock)
    found = await asyncio.wait_for(_why(calls, nobody, lambda: setattr(clock, "now", 10.5)), 5)

    assert (found.status, found.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.IDLE)


async def _why(calls: OpenCalls, revoked, before=lambda: None) -> CallRefusedError:
    entered = asyncio.Event()

    async def wait() -> CallRefusedError | None:
        with calls.entered("a", is_stream=True) as call:
            calls.message_came(call)
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return call.ended
        return None

    task = asyncio.create_task(wait())
    await entered.wait()
    before()
    await calls.look(revoked)
    found = await task
    assert found is not None
    return found


async def half_open(calls: OpenCalls, caller: str) -> str | None:
    """A call whose message never comes; why it was ended."""
    with calls.entered(caller, is_stream=False) as call:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return str(call.ended)
    return None


async def started(calls: OpenCalls, *callers: str, clock: Clock | None = None) -> list[asyncio.Task[str | None]]:
    tasks = []
    for number, caller in enumerate(callers):
        if clock is not None:
            clock.now = number / 1000
        tasks.append(asyncio.create_task(half_open(calls, caller)))
        await asyncio.sleep(0)
    return tasks


async def test_a_call_whose_message_never_comes_is_ended():
    clock = Clock()
    calls = OpenCalls(LimitsSection(), clock)
    (task,) = await started(calls, "a")
    clock.now = FIRST_MESSAGE_S + 1
    await calls.look(nobody)

    assert "no message came on this call in 30 s" in await task


async def test_of_many_calls_without_a_message_the_oldest_are_ended_soon():
    clock = Clock()
    calls = OpenCalls(LimitsSection(), clock)
    tasks = await started(calls, *(f"d{number}" for number in range(MOST_OPENING + 10)), clock=clock)
    await calls.look(nobody)
    assert not any(task.cancelling() for task in tasks)

    clock.now = CROWDED_FIRST_MESSAGE_S + 1
    await calls.look(nobody)
    await asyncio.wait(tasks[:10])
    assert [task.done() for task in tasks] == [True] * 10 + [False] * MOST_OPENING

    clock.now = FIRST_MESSAGE_S + 1
    await calls.look(nobody)
    await asyncio.wait(tasks)
    assert all(task.done() for task in tasks)


async def test_of_one_callers_calls_without_a_message_the_oldest_makes_room_at_once():
    calls = OpenCalls(LimitsSection())
    tasks = await started(calls, "b", *["a"] * (MOST_OPENING + 1))

    assert "calls wait for their message" in await tasks[1]
    assert [task.done() for task in tasks] == [False, True] + [False] * MOST_OPENING
    with calls.entered("b", is_stream=False) as call:
        calls.message_came(call)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_where_all_places_are_taken_whoever_waits_most_makes_room():
    calls = OpenCalls(LimitsSection(calls_at_once=4))
    tasks = await started(calls, "a", "b", "b", "c")
    with calls.entered("honest", is_stream=False) as call:
        calls.message_came(call)
        assert "to make room for other callers" in await tasks[1]
        assert [task.done() for task in tasks] == [False, True, False, False]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_nothing_is_kept_of_callers_that_are_gone():
    clock = Clock()
    calls = OpenCalls(LimitsSection(), clock)
    for number in range(5000):
        with calls.entered(f"d{number}", is_stream=True):
            pass
    clock.now = 100.0
    await calls.look(nobody)

    assert not calls._saved
    assert not calls._streams
    assert not calls._open
    assert not calls._opening
