"""Run a coroutine to its end, whether or not this thread already runs an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any


def run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end. If this thread runs an event loop, as in a notebook, use another thread and wait.

    :raises KeyboardInterrupt: Ctrl-C was pressed, and ``work`` has been cancelled.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(int).result()  # start the thread first, so that an interrupt leaves no half-started one
        try:
            thread.submit(_run, loop, work).result()
        except KeyboardInterrupt:
            with suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(_cancel_all, loop)
            raise


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
