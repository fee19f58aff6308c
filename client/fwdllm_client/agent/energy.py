"""Energy that the device uses while it computes, where it can tell; of all that runs on it, not the agent alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fwdllm_client.conditions.files import names_in, number_in, text_of

Energy = Callable[[], float | None]
"""Joules since some moment, never less than before; None while they are not known."""


def energy_of_this_machine(watts: Callable[[], float | None], root: Path = Path("/")) -> Energy:
    """By the processor's own counters where they may be read, else by the ``watts`` that are drawn from a battery."""
    counters = ProcessorEnergy(root)
    return counters if counters() is not None else BatteryEnergy(watts)


class ProcessorEnergy:
    """RAPL: what the packages of an x86 processor have used, by counters that begin again at their end.

    Linux lets only root read them, unless the machine's owner allows more.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        folder = root / "sys/class/powercap"
        zones = [folder / name for name in names_in(folder) or () if name.startswith("intel-rapl:")]
        # A package's parts, and the platform that it is a part of, would be counted twice.
        self._zones = [zone for zone in zones if (text_of(zone / "name") or "").startswith("package-")]
        self._last: Mapping[Path, float] = {}
        self._microjoules = 0.0

    def __call__(self) -> float | None:
        """See :data:`Energy`."""
        read = {zone: found for zone in self._zones if (found := number_in(zone / "energy_uj")) is not None}
        if not read or len(read) < len(self._zones):
            return None
        for zone, now in read.items():
            used = now - self._last.get(zone, now)
            if used < 0:
                used += number_in(zone / "max_energy_range_uj") or -used
            self._microjoules += used
        self._last = read
        return self._microjoules / 1e6


class BatteryEnergy:
    """What has been drawn from a battery: the ``watts`` of now, for the time since the last call.

    :param clock: seconds, monotonic.
    """

    def __init__(self, watts: Callable[[], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._watts = watts
        self._clock = clock
        self._at = clock()
        self._joules = 0.0

    def __call__(self) -> float | None:
        """See :data:`Energy`."""
        elapsed, self._at = self._clock() - self._at, self._clock()
        watts = self._watts()
        if watts is None:
            return None
        self._joules += watts * elapsed
        return self._joules
