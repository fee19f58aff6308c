"""Running a coroutine to its end, whether or not an event loop is at work in this thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any


def run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``; in a notebook, whose cells are run by an event loop, in another thread while this one waits.

    :raises KeyboardInterrupt: Ctrl-C, once ``work`` has ended as after :meth:`asyncio.Task.cancel`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(int).result()  # started: an interrupt from now on finds a thread that is waited for
        try:
            thread.submit(_run, loop, work).result()
        except KeyboardInterrupt:
            with suppress(RuntimeError):  # it has ended at this moment
                loop.call_soon_threadsafe(_cancel_all, loop)
            raise


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
