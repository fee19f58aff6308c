"""Sensors of a Linux machine: /sys, /proc, and NetworkManager where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from fwdllm_client.conditions.command import Run
from fwdllm_client.conditions.conditions import Conditions
from fwdllm_client.conditions.files import names_in, number_in, text_of
from fwdllm_client.conditions.thermal_zones import thermal_state

_MOBILE = ("wwan", "wwp", "ppp", "rmnet")
"""Prefixes of the names of mobile network interfaces."""


class LinuxSensors:
    """Reads the files below ``root``, and asks NetworkManager by ``run``."""

    def __init__(self, run: Run, root: Path = Path("/")) -> None:
        self._run = run
        self._root = root

    def read(self) -> Conditions:
        """Read the conditions now; unknown ones are None."""
        charging, percent, mains, watts = self._power()
        thermal = thermal_state(self._root / "sys/class/thermal")
        return Conditions(charging, percent, self._metered(), thermal, mains, watts)

    def _power(self) -> tuple[bool | None, float | None, bool, float | None]:
        """Return whether it charges, the charge in percent, whether it has no battery, and the power drawn in watts."""
        folder = self._root / "sys/class/power_supply"
        names = names_in(folder)
        if names is None:
            return None, None, False, None
        supplies = [folder / name for name in names]
        batteries = [supply for supply in supplies if _is_own_battery(supply)]
        if not batteries:
            return True, None, True, None
        levels = [level for battery in batteries if (level := number_in(battery / "capacity")) is not None]
        percent = fmean(levels) if levels and all(0 <= level <= 100 for level in levels) else None
        charging = self._charging(supplies, batteries)
        return charging, percent, False, _watts(batteries) if charging is False else None

    def _charging(self, supplies: list[Path], batteries: list[Path]) -> bool | None:
        statuses = {text_of(battery / "status") for battery in batteries}
        if statuses == {"Discharging"}:  # also if the charger is too weak
            return False
        if any(text_of(supply / "type") != "Battery" and number_in(supply / "online") for supply in supplies):
            return True
        if statuses & {"Charging", "Full", "Not charging"}:  # the last one: plugged in and charged enough
            return True
        return None

    def _metered(self) -> bool | None:
        """Return whether a default route is metered: by NetworkManager, else by the kind of interface."""
        interfaces = self._default_interfaces()
        if interfaces is None:
            return None
        return any(map(self._is_metered, interfaces))  # without a default route nothing is metered

    def _is_metered(self, interface: str) -> bool:
        answer = self._run(("nmcli", "-t", "-f", "GENERAL.METERED", "dev", "show", interface)) or ""
        word = answer.strip().removeprefix("GENERAL.METERED:").partition(" ")[0]  # "yes", "no (guessed)", "unknown"
        if word in ("yes", "no"):
            return word == "yes"
        described = text_of(self._root / "sys/class/net" / interface / "uevent") or ""
        return interface.startswith(_MOBILE) or "DEVTYPE=wwan" in described.split()

    def _default_interfaces(self) -> set[str] | None:
        """Return the interfaces of the default routes; for IPv4, the one with the smallest metric."""
        four, six = text_of(self._root / "proc/net/route"), text_of(self._root / "proc/net/ipv6_route")
        if four is None and six is None:
            return None
        routes = sorted(_default_routes(four or ""))
        found = {routes[0][1]} if routes else set()
        return found or {line.split()[-1] for line in (six or "").splitlines() if _is_default_of_ipv6(line)}


def _is_own_battery(supply: Path) -> bool:
    """Return whether the machine runs on this battery: not a peripheral's, and not an empty bay."""
    if text_of(supply / "type") != "Battery":
        return False
    return text_of(supply / "scope") != "Device" and text_of(supply / "present") != "0"


def _watts(batteries: list[Path]) -> float | None:
    """Return the power drawn from all batteries, watts; None if one of them is unknown."""
    drawn = [_watts_of(battery) for battery in batteries]
    return sum(watts for watts in drawn if watts is not None) if None not in drawn else None


def _watts_of(battery: Path) -> float | None:
    microwatts = number_in(battery / "power_now")
    if microwatts is not None:
        return abs(microwatts) / 1e6
    microamperes, microvolts = number_in(battery / "current_now"), number_in(battery / "voltage_now")
    if microamperes is None or microvolts is None:
        return None
    return abs(microamperes) * microvolts / 1e12  # some drivers report a negative current during discharge


def _default_routes(table: str) -> Iterator[tuple[int, str]]:
    """Yield metric and interface of each default route in /proc/net/route."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 8 and fields[1] == fields[7] == "00000000" and fields[6].isdecimal():
            yield int(fields[6]), fields[0]


def _is_default_of_ipv6(line: str) -> bool:
    fields = line.split()
    return len(fields) == 10 and fields[0] == "0" * 32 and fields[1] == "00" and fields[-1] != "lo"
