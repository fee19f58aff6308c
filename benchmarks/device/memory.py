"""The memory of this process while it works."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from fwdllm_client.effort import peak_rss_bytes

_STATUS = Path("/proc/self/status")
_INTERVAL_S = 0.02


def anonymous_bytes() -> int:
    """Memory that no file is behind, which the system cannot take back."""
    return _held("RssAnon")


def mapped_bytes() -> int:
    """Memory that files are behind, which the system may take back and read again."""
    return _held("RssFile")


def _held(kind: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{_STATUS} has no {kind}")


class Watch:
    """A context manager that samples the anonymous memory; the resident peak is the kernel's own count."""

    def __init__(self) -> None:
        self.peak_anonymous_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def peak_rss_bytes(self) -> int:
        """Largest resident memory of the process so far."""
        return peak_rss_bytes()

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
            self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, anonymous_bytes())
            if self._done.wait(_INTERVAL_S):
                return
