"""Pace steering: schedules the devices' next check-ins at a bounded rate, whatever the size of the fleet.

Bonawitz et al. (2019), section 2.3. The coordinator keeps a schedule of future slots, ``rate`` a second, and reserves
one for every device without work. While slots are free at the start of a device's configured window, the device gets
that window. A larger fleet fills the schedule further ahead, and its devices come back later. The size of the fleet
need not be known. Check-ins after an outage are spread in the same way.
"""

from __future__ import annotations

SPREAD = 0.1
"""Smallest length of a window as a fraction of its lead time. Devices choose a random moment in their window."""
LONGEST_S = 86_400.0
"""Seconds after which a device checks in at the latest."""


class Pace:
    """Schedules check-in windows. ``rate`` is the largest number of check-ins a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0  # the first slot that is not reserved, in seconds since 1970

    def window(self, now: float, least_s: float, most_s: float) -> tuple[float, float]:
        """Reserve a slot and return the window of a device's next check-in: first and last second from ``now``.

        It is ``least_s`` to ``most_s`` or later, and ends at :data:`LONGEST_S` at the latest.
        """
        self._free = max(self._free + 1 / self._rate, now + least_s)
        lead = min(self._free - now, LONGEST_S)
        return lead, min(lead + max(most_s - least_s, SPREAD * lead), LONGEST_S)
