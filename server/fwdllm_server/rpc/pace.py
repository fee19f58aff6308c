"""Pace steering: devices are told when to come back so that they come at a steady rate, however many there are.

Bonawitz et al. (2019), section 2.3. The coordinator keeps a calendar of future moments, ``rate`` of them to a second,
and books one for every device that it sends away. While there is room at the beginning of the window that a device
would get anyway, it gets that; a fleet that is too large for it fills the calendar further and further ahead, and its
devices come back later. The size of the fleet need not be known, and after an outage whoever gets through is spread out
like that too.
"""

from __future__ import annotations

SPREAD = 0.1
"""A window is at least such a part of its distance long: devices come at random moments and do not queue."""
LONGEST_S = 86_400.0


class Pace:
    """Windows for devices; ``rate`` is how many may come back in a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0  # the first moment that is not booked

    def window(self, now: float, least_s: float, most_s: float) -> tuple[float, float]:
        """In how many seconds a device that is here ``now`` is to come back: from ``least_s`` to ``most_s``, or later.

        At most :data:`LONGEST_S`.
        """
        self._free = max(self._free + 1 / self._rate, now + least_s)
        lead = min(self._free - now, LONGEST_S)
        return lead, min(lead + max(most_s - least_s, SPREAD * lead), LONGEST_S)
