"""Signal handling: SIGTERM and Ctrl-C end the agent within seconds, whatever its main thread does.

Python runs a signal handler between two instructions of the main thread, and a run of a model is a single one. A second
thread receives the signal at once: it sets the agent's ``stop``, which ends the run, and ends the process if that takes
longer than the grace period.
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
"""Grace period for the main thread, seconds. Ending the process after it is safe: all files are written atomically."""
_EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: INTERRUPTED_EXIT_CODE}


@contextmanager
def ending_at_signals(stop: threading.Event, grace_s: float = GRACE_S) -> Iterator[None]:
    """Set ``stop`` at SIGTERM and Ctrl-C, and end the main thread.

    SIGTERM raises SystemExit(0) in it, Ctrl-C KeyboardInterrupt. Must be called in the main thread. ``grace_s`` is the
    time for it to end, seconds.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.signal(signal.SIGTERM, _end)
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        with reader:
            while received := reader.recv(1):
                if received[0] in _EXIT_CODES:
                    stop.set()
                    time.sleep(grace_s)
                    os._exit(_EXIT_CODES[signal.Signals(received[0])])

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, before)
        writer.close()


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)
