"""A phone, through the commands of Termux:API (the package ``termux-api`` and the app of the same name)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from fwdllm_client.conditions.command import Run
from fwdllm_client.conditions.conditions import Conditions, Thermal

_WARMER_THAN = ((50.0, Thermal.CRITICAL), (45.0, Thermal.SEVERE), (40.0, Thermal.MODERATE), (37.0, Thermal.LIGHT))
"""°C of the battery, which follows the skin of the phone; charging stops at about 45 on most."""

_LEAST_WATTS, _MOST_WATTS = 0.05, 50.0
"""What a phone that computes may draw: less than the least is a current in another unit."""


class TermuxSensors:
    """Asks for battery and Wi-Fi, about a tenth of a second each.

    A phone's thermal zones are not read: many are closed to apps, and what the others mean differs from phone to phone.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def read(self) -> Conditions:
        """See :class:`fwdllm_client.conditions.sensors.Sensors`."""
        battery = self._ask("termux-battery-status")
        charging = _charging(battery)
        return Conditions(
            charging=charging,
            battery_percent=_percent(battery),
            metered=_metered(self._ask("termux-wifi-connectioninfo")),
            thermal=_thermal(battery),
            watts=_watts(battery) if charging is False else None,
        )

    def _ask(self, command: str) -> Mapping[str, Any]:
        """What a command says; nothing if it says nothing, an error, or no JSON object."""
        try:
            answer = json.loads(self._run((command,)) or "")
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}


def _charging(battery: Mapping[str, Any]) -> bool | None:
    if battery.get("present") is False:  # a box for a television
        return True
    plugged, status = battery.get("plugged"), battery.get("status")
    if status == "DISCHARGING" or plugged == "UNPLUGGED":
        return False
    if isinstance(plugged, str) and plugged.startswith("PLUGGED"):
        return True  # also when full, or held below full to spare the battery
    return _known(status, {"CHARGING": True, "FULL": True, "NOT_CHARGING": False})


def _percent(battery: Mapping[str, Any]) -> float | None:
    if battery.get("present") is False:
        return None
    percent = _number(battery.get("percentage"))
    level, scale = _number(battery.get("level")), _number(battery.get("scale"))
    if percent is None and level is not None and scale:
        percent = 100 * level / scale
    return percent if percent is not None and 0 <= percent <= 100 else None


def _watts(battery: Mapping[str, Any]) -> float | None:
    """Microamperes times millivolts; some phones give milliamperes, and then it is not known."""
    current, voltage = _number(battery.get("current")), _number(battery.get("voltage"))
    if current is None or voltage is None:
        return None
    watts = abs(current) * voltage / 1e9
    return watts if _LEAST_WATTS <= watts <= _MOST_WATTS else None


def _thermal(battery: Mapping[str, Any]) -> Thermal | None:
    celsius = _number(battery.get("temperature"))
    found = None
    if celsius is not None and -40 <= celsius <= 150:
        found = next((state for limit, state in _WARMER_THAN if celsius >= limit), Thermal.NONE)
    if battery.get("health") == "OVERHEAT":
        return max(found or Thermal.NONE, Thermal.SEVERE)
    return found


def _metered(wifi: Mapping[str, Any]) -> bool | None:
    """Wi-Fi counts as unmetered, anything else as mobile data; that a Wi-Fi is another phone's is not to be seen."""
    state = wifi.get("supplicant_state")
    if not isinstance(state, str):
        return None
    return not (state == "COMPLETED" and wifi.get("ip") not in (None, "", "0.0.0.0"))  # noqa: S104 - no address yet


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def _known(word: object, meanings: Mapping[str, bool]) -> bool | None:
    return meanings.get(word) if isinstance(word, str) else None


COMMANDS: Sequence[str] = ("termux-battery-status", "termux-wifi-connectioninfo")
"""What the package must have put in place."""
