"""The state of the device, as far as it can be known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from fwdllm.v1 import conditions_pb2


class Thermal(IntEnum):
    """How hot the device is, in Android's words; the numbers are those of the wire."""

    NONE = conditions_pb2.THERMAL_STATE_NONE
    LIGHT = conditions_pb2.THERMAL_STATE_LIGHT
    MODERATE = conditions_pb2.THERMAL_STATE_MODERATE
    SEVERE = conditions_pb2.THERMAL_STATE_SEVERE
    CRITICAL = conditions_pb2.THERMAL_STATE_CRITICAL


@dataclass(frozen=True)
class Conditions:
    """One reading; None is what is not known.

    ``charging`` is also True on mains without a battery; ``battery_percent`` is 0 to 100, None without a battery;
    ``metered`` is whether the owner pays for the network by the byte; ``mains`` is whether it has no battery for sure;
    ``watts`` is what the device draws from its battery, None while it charges.
    """

    charging: bool | None = None
    battery_percent: float | None = None
    metered: bool | None = None
    thermal: Thermal | None = None
    mains: bool = False
    watts: float | None = None

    def to_message(self) -> conditions_pb2.Conditions:
        """The reading as it goes over the wire, without holds."""
        return conditions_pb2.Conditions(
            charging=self.charging,  # type: ignore[arg-type] # None leaves it out, which the stub does not know
            battery_percent=self.battery_percent,
            metered=self.metered,  # type: ignore[arg-type]
            thermal=conditions_pb2.THERMAL_STATE_UNSPECIFIED if self.thermal is None else self.thermal.value,
        )
