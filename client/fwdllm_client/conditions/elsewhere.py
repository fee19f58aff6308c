"""A computer that runs neither Linux nor Android, as far as psutil knows it."""

from __future__ import annotations

from fwdllm_client.conditions.conditions import Conditions


class PsutilSensors:
    """Only the battery: such systems tell neither heat nor metered networks, and their networks count as unmetered."""

    def read(self) -> Conditions:
        """See :class:`fwdllm_client.conditions.sensors.Sensors`."""
        try:
            import psutil
        except ImportError:
            return Conditions(metered=False)
        battery = psutil.sensors_battery()
        if battery is None:
            return Conditions(charging=True, metered=False, mains=True)
        return Conditions(charging=battery.power_plugged, battery_percent=float(battery.percent), metered=False)
