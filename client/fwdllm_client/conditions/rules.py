"""What the owner wants to hold before the device works: ``[conditions]`` in the agent's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from fwdllm_client.conditions.conditions import Conditions, Thermal
from fwdllm_client.conditions.holds import Hold
from fwdllm_common.errors import BadInputError

BATTERY_MARGIN = 5.0
"""A device at work goes on down to so many percent below what it needs to begin."""

SESSION_S = 585.0
"""Of devices with a battery: Android gives such work ten minutes at most."""

_THERMAL = {state.name.lower(): state for state in Thermal if state > Thermal.NONE} | {"off": None}


@dataclass(frozen=True)
class Rules:
    """Android's own for such work, unless the owner says otherwise.

    ``charging`` and ``unmetered`` say whether that is asked for; ``battery_percent`` is the least to begin with, 0 to
    100; ``thermal_below`` what the device must be cooler than, None for any heat; ``session_s`` the longest time at
    work without a rest, seconds, None for :data:`SESSION_S`, or no limit on mains; ``settle_s`` how long all must be
    well again before the device goes on, and how long it rests after a session, seconds.

    What is not known counts as forbidden for charging and network, and as allowed for the level of the battery (there
    may be none) and heat (few machines tell it, and those that get too hot slow down by themselves).
    """

    charging: bool = True
    battery_percent: float = 30.0
    unmetered: bool = True
    thermal_below: Thermal | None = Thermal.MODERATE
    session_s: float | None = None
    settle_s: float = 120.0

    @classmethod
    def names(cls) -> Sequence[str]:
        """Of the settings."""
        return [field.name for field in fields(cls)]

    @classmethod
    def of(cls, section: Mapping[str, Any], where: str) -> Rules:
        """The rules with these settings, all of them known ones; ``where`` they are is for messages.

        :raises BadInputError: a value is out of bounds.
        """
        return cls(**{key: _checked(key, value, where) for key, value in section.items()})

    def longest_session_s(self, conditions: Conditions) -> float:
        """How long the device may be at work without a rest, seconds."""
        if self.session_s is not None:
            return self.session_s
        return inf if conditions.mains else SESSION_S

    def holds(self, conditions: Conditions, *, working: bool) -> tuple[Hold, ...]:
        """What forbids to begin, or if ``working`` to go on."""
        least = self.battery_percent - (BATTERY_MARGIN if working else 0)
        level, thermal = conditions.battery_percent, conditions.thermal
        forbidden = {
            Hold.UNPLUGGED: self.charging and conditions.charging is not True,
            Hold.LOW_BATTERY: level is not None and level < least,
            Hold.METERED: self.unmetered and conditions.metered is not False,
            Hold.HOT: thermal is not None and self.thermal_below is not None and thermal >= self.thermal_below,
        }
        return tuple(hold for hold, is_so in forbidden.items() if is_so)


def _checked(key: str, value: object, where: str) -> Any:
    if key == "thermal_below":
        if not isinstance(value, str) or value not in _THERMAL:
            raise BadInputError(f"{where}{key} is {value!r}; use one of {', '.join(_THERMAL)}")
        return _THERMAL[value]
    if key in ("charging", "unmetered"):
        if not isinstance(value, bool):
            raise BadInputError(f"{where}{key} is {value!r}; use true or false")
        return value
    most = 100.0 if key == "battery_percent" else float("inf")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise BadInputError(f"{where}{key} is {value!r}; use a number from 0 to {most:g}")
    if key == "session_s" and value == 0:
        raise BadInputError(f"{where}{key} is 0; use a number above it")
    return float(value)
