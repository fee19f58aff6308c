"""Holds: the reasons for which a device does not work now."""

from __future__ import annotations

from enum import IntEnum

from fwdllm.v1 import conditions_pb2
from fwdllm_client.conditions.conditions import Conditions


class Hold(IntEnum):
    """One reason; the values are those of the wire contract."""

    PAUSED = conditions_pb2.HOLD_PAUSED
    UNPLUGGED = conditions_pb2.HOLD_UNPLUGGED
    LOW_BATTERY = conditions_pb2.HOLD_LOW_BATTERY
    METERED = conditions_pb2.HOLD_METERED
    HOT = conditions_pb2.HOLD_HOT
    SETTLING = conditions_pb2.HOLD_SETTLING
    RESTING = conditions_pb2.HOLD_RESTING

    @property
    def wire_name(self) -> str:
        """Name in the wire contract, such as ``low_battery``."""
        return self.name.lower()

    def explained(self, conditions: Conditions) -> str:
        """Return the reason in words with the sensors' values, for the owner."""
        match self:
            case Hold.PAUSED:
                return "paused by the owner; go on with 'fwdllm-client resume'"
            case Hold.UNPLUGGED if conditions.charging is None:
                return "not known to be charging; on a phone, install Termux:API, the app and the package termux-api"
            case Hold.UNPLUGGED:
                return "not charging"
            case Hold.LOW_BATTERY:
                return f"the battery is at {conditions.battery_percent:.0f} %"
            case Hold.METERED if conditions.metered is None:
                return "the network is not known to be unmetered"
            case Hold.METERED:
                return "the network is metered"
            case Hold.HOT:
                return f"too hot ({conditions.thermal.name.lower() if conditions.thermal else 'unknown'})"
            case Hold.SETTLING:
                return "the conditions are met again, but not for long enough yet"
            case Hold.RESTING:
                return "resting after a session"
