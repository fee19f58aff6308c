"""The device's resource usage: time, memory, energy and traffic."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.cost import Cost
from fwdllm_client.agent.energy import Energy
from fwdllm_client.connection.transport import Traffic

_STATUS = Path("/proc/self/status")


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process, bytes."""
    # getrusage includes the process that this one was forked from; Linux' high-water mark does not.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def physical_memory_bytes() -> int:
    """Return the physical memory of the machine, bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def usage_message(cost: Cost, traffic: Traffic) -> device_pb2.ResourceUsage:
    """Return the wire message with the cost of a report and this process' peak memory and traffic so far."""
    return device_pb2.ResourceUsage(
        seconds=cost.seconds,
        example_passes=cost.example_passes,
        joules=cost.joules,
        peak_rss_bytes=peak_rss_bytes(),
        bytes_sent=traffic.sent,
        bytes_received=traffic.received,
        artifact_bytes=traffic.artifacts,
    )


class Meter:
    """A meter of the cost since its last reading.

    :param clock: seconds, monotonic.
    :param passes: passes of one example through the whole model so far.
    :param energy: joules so far, or None.
    """

    def __init__(self, clock: Callable[[], float], passes: Callable[[], float], energy: Energy) -> None:
        self._clock = clock
        self._passes = passes
        self._energy = energy
        self._since = self._now()

    def take(self) -> Cost:
        """Return the cost since the last call, or since construction."""
        then, self._since = self._since, self._now()
        now = self._since
        joules = None if then.joules is None or now.joules is None else now.joules - then.joules
        return Cost(now.seconds - then.seconds, now.example_passes - then.example_passes, joules)

    def _now(self) -> Cost:
        return Cost(self._clock(), self._passes(), self._energy())
