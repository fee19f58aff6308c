"""The memory of a process while it works."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_INTERVAL_S = 0.02


def anonymous_bytes(pid: int | str = "self") -> int:
    """Memory that no file is behind, which the system cannot take back."""
    return _held("RssAnon", pid)


def mapped_bytes() -> int:
    """Memory that files are behind, which the system may take back and read again."""
    return _held("RssFile", "self")


def _held(kind: str, pid: int | str) -> int:
    status = Path(f"/proc/{pid}/status")
    for line in status.read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{status} has no {kind}")


class Watch:
    """A context manager that samples the anonymous memory; the resident peak is the kernel's own count.

    Of this process, or of the one with the id ``pid``, which must live as long.
    """

    def __init__(self, pid: int | str = "self") -> None:
        self._pid = pid
        self.peak_anonymous_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def peak_rss_bytes(self) -> int:
        """Largest resident memory of the process so far."""
        return _held("VmHWM", self._pid)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, anonymous_bytes(self._pid))
            if self._done.wait(_INTERVAL_S):
                return
