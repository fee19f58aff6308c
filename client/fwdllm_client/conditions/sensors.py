"""The sensors of a device: their interface, the choice for this machine, and those of a system without their own."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Protocol

from fwdllm_client.conditions.command import run
from fwdllm_client.conditions.conditions import Conditions
from fwdllm_client.conditions.linux import LinuxSensors
from fwdllm_client.conditions.termux import COMMANDS, TermuxSensors


class Sensors(Protocol):
    """A source of a device's conditions."""

    def read(self) -> Conditions:
        """Read the conditions now; unknown ones are None. Never raises, and takes seconds at most."""


class PsutilSensors:
    """A computer that runs neither Linux nor Android: only the battery is known, by psutil if it is installed.

    Such systems report neither heat nor metered networks; their networks count as unmetered.
    """

    def read(self) -> Conditions:
        """Read the conditions now; unknown ones are None."""
        try:
            import psutil
        except ImportError:
            return Conditions(metered=False)
        battery = psutil.sensors_battery()
        if battery is None:
            return Conditions(charging=True, metered=False, mains=True)
        return Conditions(charging=battery.power_plugged, battery_percent=float(battery.percent), metered=False)


def sensors_of_this_machine() -> Sensors:
    """Choose the sensors of a phone (also in a Linux distribution on one), of a Linux machine, or of another system."""
    if "ANDROID_ROOT" in os.environ or any(map(shutil.which, COMMANDS)):
        return TermuxSensors(run)
    return LinuxSensors(run) if sys.platform == "linux" else PsutilSensors()
