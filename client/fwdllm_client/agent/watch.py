"""Ends what the engine runs as soon as the agent may not go on, by a thread that watches.

Between runs the agent asks for itself. A run of a graph that a stranger has sent lasts as long as the stranger likes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fwdllm_client.engine.interruption import INTERRUPTION

EVERY_S = 1.0
"""How often the thread looks, seconds."""


@contextmanager
def watching(is_over: Callable[[], bool], every_s: float = EVERY_S) -> Iterator[None]:
    """Once ``is_over``, runs inside raise :class:`fwdllm_client.engine.interruption.RunEndedError`.

    What ``is_over`` raises ends them too: whoever asks next in the thread that works sees the error.
    """
    left = threading.Event()

    def look() -> None:
        while not left.wait(every_s):
            if _asked(is_over):
                INTERRUPTION.set()

    thread = threading.Thread(target=look, name="watch", daemon=True)
    INTERRUPTION.clear()
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        INTERRUPTION.clear()


def _asked(is_over: Callable[[], bool]) -> bool:
    try:
        return is_over()
    except Exception:  # shown where the agent works
        return True
