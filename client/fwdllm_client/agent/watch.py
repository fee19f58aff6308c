"""A watcher thread that ends the engine's run as soon as the agent may not continue.

Between runs the agent checks for itself. A single run of an untrusted graph may last arbitrarily long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fwdllm_client.engine.interruption import INTERRUPTION

EVERY_S = 1.0
"""Interval of the thread's checks, seconds."""


@contextmanager
def watching(is_over: Callable[[], bool], every_s: float = EVERY_S) -> Iterator[None]:
    """Make runs inside raise :class:`fwdllm_client.engine.interruption.RunEndedError` once ``is_over`` returns True.

    An exception of ``is_over`` ends them too; the working thread sees it at its next own check. ``every_s`` is in
    seconds.
    """
    finished = threading.Event()

    def look() -> None:
        while not finished.wait(every_s):
            if _asked(is_over):
                INTERRUPTION.set()

    thread = threading.Thread(target=look, name="watch", daemon=True)
    INTERRUPTION.clear()
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        INTERRUPTION.clear()


def _asked(is_over: Callable[[], bool]) -> bool:
    try:
        return is_over()
    except Exception:  # raised again by the working thread's own check
        return True
