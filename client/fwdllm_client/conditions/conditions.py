"""The conditions of the device, as far as they are known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from fwdllm.v1 import conditions_pb2


class Thermal(IntEnum):
    """The thermal state, in Android's terms; the values are those of the wire contract."""

    NONE = conditions_pb2.THERMAL_STATE_NONE
    LIGHT = conditions_pb2.THERMAL_STATE_LIGHT
    MODERATE = conditions_pb2.THERMAL_STATE_MODERATE
    SEVERE = conditions_pb2.THERMAL_STATE_SEVERE
    CRITICAL = conditions_pb2.THERMAL_STATE_CRITICAL


@dataclass(frozen=True)
class Conditions:
    """One reading of the sensors; None means unknown.

    ``charging`` is also True on mains without a battery. ``battery_percent`` is 0 to 100, None without a battery.
    ``metered`` says whether the owner pays for the network by volume, ``mains`` whether the device certainly has no
    battery. ``watts`` is the power drawn from the battery, None during charging.
    """

    charging: bool | None = None
    battery_percent: float | None = None
    metered: bool | None = None
    thermal: Thermal | None = None
    mains: bool = False
    watts: float | None = None

    def to_message(self) -> conditions_pb2.Conditions:
        """Return the reading as a wire message, without holds."""
        return conditions_pb2.Conditions(
            charging=self.charging,  # type: ignore[arg-type] # None omits the field, which the stub does not allow
            battery_percent=self.battery_percent,
            metered=self.metered,  # type: ignore[arg-type]
            thermal=conditions_pb2.THERMAL_STATE_UNSPECIFIED if self.thermal is None else self.thermal.value,
        )
