"""SIGTERM and Ctrl-C end the agent within seconds, whatever its main thread is in.

Python runs a handler between two steps of the main thread, and a run of a model is a single one. A thread hears of the
signal at once: it sets the agent's ``stop``, which ends the run, and ends the process itself if that takes too long.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from fwdllm_common.errors import INTERRUPTED_EXIT_CODE

GRACE_S = 5.0
"""Seconds for the main thread to end by itself. Every file is written whole or not at all, so it need not."""
_EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: INTERRUPTED_EXIT_CODE}


@contextmanager
def ending_at_signals(stop: threading.Event, grace_s: float = GRACE_S) -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit(0) in the main thread, Ctrl-C KeyboardInterrupt; both set ``stop`` before.

    To be called in the main thread.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.signal(signal.SIGTERM, _end)
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        with reader:
            while heard := reader.recv(1):
                if heard[0] in _EXIT_CODES:
                    stop.set()
                    time.sleep(grace_s)
                    os._exit(_EXIT_CODES[signal.Signals(heard[0])])

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, before)
        writer.close()


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)
