"""The energy that the whole device uses during the work, where it can be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fwdllm_client.conditions.files import names_in, number_in, text_of

Energy = Callable[[], float | None]
"""Returns the joules since a fixed moment, never decreasing; None while unknown."""


def energy_of_this_machine(watts: Callable[[], float | None], root: Path = Path("/")) -> Energy:
    """Measure by the processor's counters where they are readable, otherwise by the ``watts`` drawn from a battery.

    ``root`` is the folder that contains ``sys``.
    """
    counters = ProcessorEnergy(root)
    return counters if counters() is not None else BatteryEnergy(watts)


class ProcessorEnergy:
    """RAPL: the energy of an x86 processor's packages, from counters that wrap around.

    By default Linux lets only root read the counters.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        folder = root / "sys/class/powercap"
        zones = [folder / name for name in names_in(folder) or () if name.startswith("intel-rapl:")]
        # Only packages: their subzones, and the platform zone that contains them, would count twice.
        self._zones = [zone for zone in zones if (text_of(zone / "name") or "").startswith("package-")]
        self._last: Mapping[Path, float] = {}
        self._microjoules = 0.0

    def __call__(self) -> float | None:
        """Return the joules since construction; None if a counter cannot be read."""
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
    """The energy drawn from a battery: the present power times the time since the last call.

    :param watts: the power drawn now, watts; None if unknown.
    :param clock: seconds, monotonic.
    """

    def __init__(self, watts: Callable[[], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._watts = watts
        self._clock = clock
        self._at = clock()
        self._joules = 0.0

    def __call__(self) -> float | None:
        """Return the joules since construction; None while the power is unknown."""
        elapsed, self._at = self._clock() - self._at, self._clock()
        watts = self._watts()
        if watts is None:
            return None
        self._joules += watts * elapsed
        return self._joules
