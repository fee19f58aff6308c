"""The owner's rules for work: ``[conditions]`` in the agent's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from fwdllm_client.conditions.conditions import Conditions, Thermal
from fwdllm_client.conditions.holds import Hold
from fwdllm_common.errors import BadInputError

BATTERY_MARGIN = 5.0
"""Percentage points below ``battery_percent`` down to which a working device continues."""

SESSION_S = 585.0
"""Default session length of devices with a battery, seconds: Android allows such work ten minutes at most."""

_THERMAL = {state.name.lower(): state for state in Thermal if state > Thermal.NONE} | {"off": None}


@dataclass(frozen=True)
class Rules:
    """The conditions under which work is allowed; the defaults are Android's for such work.

    ``charging`` and ``unmetered`` are required if True. ``battery_percent`` is the minimum charge to begin with, 0 to
    100. ``thermal_below`` is the thermal state that the device must stay below, None for no limit. ``session_s`` is the
    longest time of work without a rest, seconds; None means :data:`SESSION_S`, or no limit on mains. ``settle_s`` is
    the time for which the conditions must be met again before work continues, and the rest after a session, seconds.

    Unknown charging or metering forbids work. An unknown charge (there may be no battery) or thermal state (few
    machines report it, and hot ones throttle themselves) allows it.
    """

    charging: bool = True
    battery_percent: float = 30.0
    unmetered: bool = True
    thermal_below: Thermal | None = Thermal.MODERATE
    session_s: float | None = None
    settle_s: float = 120.0

    @classmethod
    def names(cls) -> Sequence[str]:
        """Return the names of the settings."""
        return [field.name for field in fields(cls)]

    @classmethod
    def of(cls, section: Mapping[str, Any], where: str) -> Rules:
        """Build the rules from known settings; ``where`` begins the messages.

        :raises BadInputError: a value is out of bounds or of the wrong type.
        """
        return cls(**{key: _checked(key, value, where) for key, value in section.items()})

    def longest_session_s(self, conditions: Conditions) -> float:
        """Return the longest time of work without a rest, seconds."""
        if self.session_s is not None:
            return self.session_s
        return inf if conditions.mains else SESSION_S

    def holds(self, conditions: Conditions, *, working: bool) -> tuple[Hold, ...]:
        """Return what forbids to begin work, or to continue it if ``working``."""
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
