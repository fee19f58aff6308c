"""Commands that ask the system for a reading: the only place that starts another program (DESIGN §2, invariant 6)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence

LIMIT_S = 5.0
"""Timeout of a command, seconds: Termux:API's commands hang where its app is missing or asleep."""

Run = Callable[[Sequence[str]], str | None]
"""Runs a command and returns its standard output; None if it is missing, fails or takes too long."""


def run(command: Sequence[str], limit_s: float = LIMIT_S) -> str | None:
    """Run a command for at most ``limit_s`` seconds and return its standard output.

    The result is None if the command is missing, fails or takes too long. Its child processes end with it.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - constants, and names of network interfaces
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError:
        return None
    with process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # its children too, which would keep the pipe open
    return output.decode(errors="replace") if process.returncode == 0 else None
