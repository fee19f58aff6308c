"""Where a device's conditions come from."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Protocol

from fwdllm_client.conditions.command import run
from fwdllm_client.conditions.conditions import Conditions
from fwdllm_client.conditions.elsewhere import PsutilSensors
from fwdllm_client.conditions.linux import LinuxSensors
from fwdllm_client.conditions.termux import COMMANDS, TermuxSensors


class Sensors(Protocol):
    """Knows a device's state."""

    def read(self) -> Conditions:
        """The state now; never raises and never takes long: what cannot be known is None."""


def sensors_of_this_machine() -> Sensors:
    """Those of a phone, also in a Linux distribution on one; of a Linux machine; or of any other."""
    if "ANDROID_ROOT" in os.environ or any(map(shutil.which, COMMANDS)):
        return TermuxSensors(run)
    return LinuxSensors(run) if sys.platform == "linux" else PsutilSensors()
