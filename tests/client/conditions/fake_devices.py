"""Devices for sensors to look at: each is brought into a state, falls silent or talks nonsense."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from fwdllm_client.conditions.conditions import Thermal
from fwdllm_client.conditions.linux import LinuxSensors
from fwdllm_client.conditions.sensors import PsutilSensors
from fwdllm_client.conditions.termux import TermuxSensors

NONSENSE = ["", "\0", "no such thing", "[]", "null", "-1e999", "{", '{"percentage": "x", "plugged": 7, "status": []}']


class Phone:
    """Termux:API's answers, as its source writes them."""

    tells = frozenset({"charging", "battery_percent", "metered", "thermal"})

    def __init__(self, folder, monkeypatch):
        self.battery = {
            "present": True,
            "technology": "Li-ion",
            "health": "GOOD",
            "plugged": "PLUGGED_AC",
            "status": "CHARGING",
            "temperature": 29.8,
            "voltage": 4321,
            "current": 512000,
            "percentage": 80,
            "level": 80,
            "scale": 100,
        }
        self.wifi = {}
        self.answers = {}
        self.set_metered(False)

    def sensors(self):
        return TermuxSensors(self._run)

    def _run(self, command):
        (name,) = command
        found = {"termux-battery-status": self.battery, "termux-wifi-connectioninfo": self.wifi}[name]
        return self.answers.get(name, json.dumps(found, indent=2))

    def set_charging(self, charging):
        self.battery["plugged"] = "PLUGGED_USB" if charging else "UNPLUGGED"
        self.battery["status"] = "CHARGING" if charging else "DISCHARGING"

    def set_battery_percent(self, percent):
        self.battery["percentage"] = self.battery["level"] = percent

    def set_metered(self, metered):
        self.wifi = {
            "ip": "0.0.0.0" if metered else "192.168.1.7",
            "ssid": "<unknown ssid>",
            "supplicant_state": "DISCONNECTED" if metered else "COMPLETED",
        }

    def set_thermal(self, thermal):
        self.battery["temperature"] = {1: 25.0, 2: 38.5, 3: 41.0, 4: 46.0, 5: 55.0}[thermal]

    def remove_battery(self):
        self.battery = {"present": False, "plugged": "PLUGGED_AC", "status": "UNKNOWN"}

    def silence(self):
        self.answers = dict.fromkeys(("termux-battery-status", "termux-wifi-connectioninfo"))

    def say(self, nonsense):
        self.answers = dict.fromkeys(("termux-battery-status", "termux-wifi-connectioninfo"), nonsense)


class Box:
    """The files of a Linux laptop below ``folder``, without NetworkManager."""

    tells = Phone.tells

    def __init__(self, folder, monkeypatch):
        self.root = Path(folder)
        self.nmcli = None
        self.write("sys/class/power_supply/AC/type", "Mains")
        self.write("sys/class/power_supply/BAT0/type", "Battery")
        self.write("sys/class/power_supply/BAT0/capacity", "80")
        self.write("sys/class/power_supply/mouse/type", "Battery")
        self.write("sys/class/power_supply/mouse/scope", "Device")
        self.write("sys/class/power_supply/mouse/capacity", "3")
        zone = "sys/class/thermal/thermal_zone0"
        for index, (kind, limit) in enumerate((("critical", 105000), ("passive", 90000), ("hot", 98000))):
            self.write(f"{zone}/trip_point_{index}_type", kind)
            self.write(f"{zone}/trip_point_{index}_temp", str(limit))
        self.write("sys/class/thermal/cooling_device0/type", "Fan")
        self.set_charging(True)
        self.set_metered(False)
        self.set_thermal(Thermal.NONE)

    def sensors(self):
        return LinuxSensors(lambda command: self.nmcli and self.nmcli(command), self.root)

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text + "\n")

    def set_charging(self, charging):
        self.write("sys/class/power_supply/AC/online", str(int(charging)))
        self.write("sys/class/power_supply/BAT0/status", "Charging" if charging else "Discharging")

    def set_battery_percent(self, percent):
        self.write("sys/class/power_supply/BAT0/capacity", str(percent))

    def set_metered(self, metered):
        self.set_route("wwan0" if metered else "eth0")

    def set_route(self, *interfaces):
        rows = [f"{name} 00000000 010200C0 0003 0 0 {100 + i} 00000000 0 0 0" for i, name in enumerate(interfaces)]
        local = "eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0"
        self.write("proc/net/route", "\n".join(["Iface Destination Gateway Flags", *rows[::-1], local]))

    def set_thermal(self, thermal):
        self.write(
            "sys/class/thermal/thermal_zone0/temp",
            {1: "45000", 2: "82000", 3: "91000", 4: "99000", 5: "110000"}[thermal],
        )

    def remove_battery(self):
        self.write("sys/class/power_supply/BAT0/present", "0")

    def files(self):
        return [path for path in self.root.rglob("*") if path.is_file()]

    def silence(self):
        for path in self.files():
            path.unlink()
            path.mkdir()  # there, and not to be read

    def say(self, nonsense):
        for path in self.files():
            path.write_text(nonsense)
        self.nmcli = lambda command: nonsense


class Computer:
    """What psutil says of a computer that is neither."""

    tells = frozenset({"charging", "battery_percent"})

    def __init__(self, folder, monkeypatch):
        self.battery = SimpleNamespace(percent=80, power_plugged=True)
        psutil = ModuleType("psutil")
        psutil.sensors_battery = lambda: self.battery
        self._silence = lambda: monkeypatch.setitem(sys.modules, "psutil", None)
        monkeypatch.setitem(sys.modules, "psutil", psutil)

    def sensors(self):
        return PsutilSensors()

    def set_charging(self, charging):
        self.battery.power_plugged = charging

    def set_battery_percent(self, percent):
        self.battery.percent = percent

    def remove_battery(self):
        self.battery = None

    def silence(self):
        self._silence()

    def say(self, nonsense):
        self.battery = SimpleNamespace(percent=0.0, power_plugged=None)


DEVICES = (Phone, Box, Computer)
