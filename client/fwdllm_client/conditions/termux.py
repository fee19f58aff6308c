"""Sensors of a phone: the commands of Termux:API (the package ``termux-api`` and the app of the same name)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from fwdllm_client.conditions.command import Run
from fwdllm_client.conditions.conditions import Conditions, Thermal

_WARMER_THAN = ((50.0, Thermal.CRITICAL), (45.0, Thermal.SEVERE), (40.0, Thermal.MODERATE), (37.0, Thermal.LIGHT))
"""Battery temperatures in °C, which follow the surface of the phone; most phones stop charging at about 45 °C."""

_LEAST_WATTS, _MOST_WATTS = 0.05, 50.0
"""Plausible power of a computing phone; a lower value means that the current is in another unit."""


class TermuxSensors:
    """Reads battery and Wi-Fi, about 0.1 s each.

    A phone's thermal zones are not read: many are closed to apps, and the meaning of the others varies by phone.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def read(self) -> Conditions:
        """Read the conditions now; unknown ones are None."""
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
        """Run a command and parse its JSON object; empty if it fails or prints anything else."""
        try:
            answer = json.loads(self._run((command,)) or "")
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}


def _charging(battery: Mapping[str, Any]) -> bool | None:
    if battery.get("present") is False:  # such as a television box
        return True
    plugged, status = battery.get("plugged"), battery.get("status")
    if status == "DISCHARGING" or plugged == "UNPLUGGED":
        return False
    if isinstance(plugged, str) and plugged.startswith("PLUGGED"):
        return True  # also when full, or kept below full to spare the battery
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
    """Return the power from microamperes and millivolts; None if implausible, as on phones that report milliamperes."""
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
    """Count Wi-Fi as unmetered and anything else as mobile data; another phone's hotspot is not recognisable."""
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
"""The commands of the package that are needed."""
