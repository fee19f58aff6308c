"""What the work costs the device."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from fwdllm.v1 import device_pb2
from fwdllm_client.transport import Traffic

_STATUS = Path("/proc/self/status")


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, bytes."""
    # getrusage also remembers the process that this one was forked from; Linux' high-water mark does not.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def physical_memory_bytes() -> int:
    """Memory of the machine, bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def effort_message(seconds: float, example_passes: float, traffic: Traffic) -> device_pb2.Effort:
    """What a report says of the work behind it, and of this process so far."""
    return device_pb2.Effort(
        seconds=seconds,
        example_passes=example_passes,
        peak_rss_bytes=peak_rss_bytes(),
        bytes_sent=traffic.sent,
        bytes_received=traffic.received,
        artifact_bytes=traffic.artifacts,
    )


class Meter:
    """Seconds of computing and example passes since they were last taken.

    :param clock: seconds, monotonic.
    :param passes: passes of one example through the whole model so far.
    """

    def __init__(self, clock: Callable[[], float], passes: Callable[[], float]) -> None:
        self._clock = clock
        self._passes = passes
        self._since = (clock(), passes())

    def take(self) -> tuple[float, float]:
        """(seconds, example passes) since the last call or the start."""
        then, self._since = self._since, (self._clock(), self._passes())
        return self._since[0] - then[0], self._since[1] - then[1]
