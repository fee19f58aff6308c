"""The one place where the device starts another program: to ask its system for a reading (DESIGN §2, invariant 6)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence

LIMIT_S = 5.0
"""Longest wait for an answer, seconds: Termux:API's commands hang where its app is missing or asleep."""

Run = Callable[[Sequence[str]], str | None]
"""Runs a command; its standard output, or None if it is missing, fails or takes too long."""


def run(command: Sequence[str], limit_s: float = LIMIT_S) -> str | None:
    """See :data:`Run`. Whatever the command has started ends with it."""
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
                os.killpg(process.pid, signal.SIGKILL)  # its children, too, or they would hold the pipe open
    return output.decode(errors="replace") if process.returncode == 0 else None
