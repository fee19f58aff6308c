"""What every implementation of the sensors must do, and what is special in each."""

import json
import os
import sys
import time

import pytest
from client.conditions.fake_devices import DEVICES, NONSENSE, Box, Phone

from fwdllm_client.conditions import Conditions, Thermal, sensors_of_this_machine
from fwdllm_client.conditions.command import run
from fwdllm_client.conditions.linux import LinuxSensors
from fwdllm_client.conditions.termux import TermuxSensors


@pytest.fixture(params=DEVICES, ids=lambda kind: kind.__name__.lower())
def device(request, tmp_path, monkeypatch):
    return request.param(tmp_path, monkeypatch)


@pytest.fixture
def phone(tmp_path, monkeypatch):
    return Phone(tmp_path, monkeypatch)


@pytest.fixture
def box(tmp_path, monkeypatch):
    return Box(tmp_path, monkeypatch)


# every implementation


def test_all_is_well(device):
    found = device.sensors().read()

    assert (found.charging, found.battery_percent, found.metered) == (True, 80.0, False)
    assert found.thermal == (Thermal.NONE if "thermal" in device.tells else None)


@pytest.mark.parametrize("charging", [True, False])
def test_whether_it_charges(device, charging):
    device.set_charging(charging)
    assert device.sensors().read().charging is charging


@pytest.mark.parametrize("percent", [0, 29, 100])
def test_how_full_the_battery_is(device, percent):
    device.set_battery_percent(percent)
    assert device.sensors().read().battery_percent == percent


@pytest.mark.parametrize("metered", [True, False])
def test_whether_the_network_is_paid_for(device, metered):
    if "metered" in device.tells:
        device.set_metered(metered)
        assert device.sensors().read().metered is metered


@pytest.mark.parametrize("thermal", list(Thermal))
def test_how_hot_it_is(device, thermal):
    if "thermal" in device.tells:
        device.set_thermal(thermal)
        assert device.sensors().read().thermal is thermal


def test_what_is_drawn_from_the_battery_is_not_known_while_it_charges(device):
    assert device.sensors().read().watts is None


def test_what_a_phone_draws_from_its_battery(phone):
    phone.set_charging(False)
    phone.battery["current"] = -512_000  # of the phones that count what flows out as negative
    assert phone.sensors().read().watts == pytest.approx(0.512 * 4.321)
    phone.battery["current"] = -512  # milliamperes
    assert phone.sensors().read().watts is None


@pytest.mark.parametrize(
    "told", [{"power_now": "6500000"}, {"current_now": "500000", "voltage_now": "13000000"}], ids=["power", "current"]
)
def test_what_a_box_draws_from_its_batteries(box, told):
    box.set_charging(False)
    assert box.sensors().read().watts is None
    for name, text in told.items():
        box.write(f"sys/class/power_supply/BAT0/{name}", text)
    assert box.sensors().read().watts == pytest.approx(6.5)
    box.write("sys/class/power_supply/BAT1/type", "Battery")
    assert box.sensors().read().watts is None, "the other one does not tell"


def test_a_device_without_a_battery_is_on_mains(device):
    device.remove_battery()
    found = device.sensors().read()

    assert (found.charging, found.battery_percent) == (True, None)


def test_the_same_sensors_see_a_change(device):
    sensors = device.sensors()
    sensors.read()
    device.set_charging(False)

    assert sensors.read().charging is False


def test_silence_is_not_known(device):
    device.silence()
    found = device.sensors().read()

    assert (found.charging is not False, found.battery_percent, found.thermal) == (True, None, None)


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_not_known_either(device, nonsense):
    device.say(nonsense)
    assert device.sensors().read().charging in (None, True)


# phones


def test_silent_commands_leave_everything_unknown(phone):
    phone.silence()
    assert phone.sensors().read() == Conditions()


@pytest.mark.parametrize(
    ("plugged", "status", "charging"),
    [
        ("PLUGGED_WIRELESS", "FULL", True),
        ("PLUGGED_AC", "NOT_CHARGING", True),
        ("PLUGGED_USB", "DISCHARGING", False),
        ("UNPLUGGED", "FULL", False),
        (None, "CHARGING", True),
        (None, "NOT_CHARGING", False),
        (None, "UNKNOWN", None),
        (None, None, None),
        ("PLUGGED_DOCK", None, True),
    ],
)
def test_plugged_in_and_not_drained_is_charging(phone, plugged, status, charging):
    phone.battery = {key: word for key, word in (("plugged", plugged), ("status", status)) if word}
    assert phone.sensors().read().charging is charging


def test_a_percentage_that_is_not_said_follows_from_the_level(phone):
    del phone.battery["percentage"]
    phone.battery |= {"level": 50, "scale": 200}

    assert phone.sensors().read().battery_percent == 25


@pytest.mark.parametrize("percent", [True, "80", 101, -1, None, float("nan")])
def test_an_impossible_percentage_is_not_known(phone, percent):
    phone.battery = {"percentage": percent}
    assert phone.sensors().read().battery_percent is None


def test_a_battery_that_says_so_is_too_hot_at_any_temperature(phone):
    phone.battery["health"] = "OVERHEAT"
    assert phone.sensors().read().thermal is Thermal.SEVERE


def test_an_error_of_the_wifi_is_not_known(phone):
    phone.wifi = {"API_ERROR": "Failed to get connection info"}
    assert phone.sensors().read().metered is None


# Linux


@pytest.mark.parametrize(
    ("said", "metered"), [("yes", True), ("no", False), ("yes (guessed)", True), ("no (guessed)", False)]
)
def test_network_manager_has_the_last_word(box, said, metered):
    asked = []
    box.set_metered(not metered)
    box.set_route("wwan0" if not metered else "eth0")
    box.nmcli = lambda command: asked.append(command) or f"GENERAL.METERED:{said}\n"

    assert box.sensors().read().metered is metered
    assert asked[0][-1] == ("eth0" if metered else "wwan0")


def test_what_network_manager_does_not_know_goes_by_the_interface(box):
    box.nmcli = lambda command: "GENERAL.METERED:unknown\n"
    assert box.sensors().read().metered is False
    box.write("sys/class/net/eth0/uevent", "DEVTYPE=wwan\nINTERFACE=eth0")
    assert box.sensors().read().metered is True


def test_the_way_out_is_the_default_route_of_smallest_metric(box):
    box.set_route("eth0", "wwan0")
    assert box.sensors().read().metered is False
    box.set_route("wwan0", "eth0")
    assert box.sensors().read().metered is True


def test_a_machine_without_a_way_out_pays_for_nothing(box):
    box.set_route()
    assert box.sensors().read().metered is False


def test_routes_of_ipv6_alone(box):
    box.set_route()
    zeros = "0" * 32
    box.write(
        "proc/net/ipv6_route",
        f"{zeros} 00 {zeros} 00 {zeros} 0400 1 0 0003 ppp0\n{zeros} 00 {zeros} 00 {zeros} 1 1 0 2 lo",
    )
    assert box.sensors().read().metered is True


def test_nothing_below_sys_is_a_machine_on_mains_of_unknown_heat(tmp_path):
    assert LinuxSensors(lambda _: None, tmp_path).read() == Conditions(charging=True, mains=True)


def test_a_charger_that_is_too_weak_is_none(box):
    box.write("sys/class/power_supply/BAT0/status", "Discharging")
    assert box.sensors().read().charging is False


def test_a_battery_that_is_held_below_full_is_plugged_in(box):
    box.write("sys/class/power_supply/AC/online", "0")
    box.write("sys/class/power_supply/BAT0/status", "Not charging")
    assert box.sensors().read().charging is True


def test_two_batteries_are_as_full_as_both_together(box):
    box.write("sys/class/power_supply/BAT1/type", "Battery")
    box.write("sys/class/power_supply/BAT1/capacity", "20")
    assert box.sensors().read().battery_percent == 50


def test_the_hottest_zone_counts(box):
    box.write("sys/class/thermal/thermal_zone1/temp", "86000")  # with no limits of its own
    assert box.sensors().read().thermal is Thermal.MODERATE


def test_a_zone_that_names_only_its_critical_limit(box):
    box.write("sys/class/thermal/thermal_zone1/trip_point_0_type", "critical")
    box.write("sys/class/thermal/thermal_zone1/trip_point_0_temp", "110000")
    box.write("sys/class/thermal/thermal_zone1/temp", "90500")
    assert box.sensors().read().thermal is Thermal.MODERATE


def test_a_limit_against_cold_is_none_against_heat(box):
    box.write("sys/class/thermal/thermal_zone1/trip_point_0_type", "passive")
    box.write("sys/class/thermal/thermal_zone1/trip_point_0_temp", "5000")
    box.write("sys/class/thermal/thermal_zone1/temp", "60000")
    assert box.sensors().read().thermal is Thermal.NONE


# commands


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    hanging = script(tmp_path / "hangs", f"sleep 600 & echo $! > {pid}; wait")
    began = time.monotonic()

    assert run((hanging,), limit_s=0.5) is None
    assert time.monotonic() - began < 5
    for _ in range(1000):
        if not is_alive(int(pid.read_text())):
            return
    pytest.fail("the child is still there")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_a_command_that_fails_or_is_missing_says_nothing(tmp_path):
    assert run((script(tmp_path / "fails", "echo half; exit 1"),)) is None
    assert run((str(tmp_path / "none"),)) is None


def test_the_phones_commands_are_those_of_the_package(tmp_path, monkeypatch):
    """The whole way: programs on the path, JSON as they print it."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    battery = {"health": "GOOD", "percentage": 55, "plugged": "PLUGGED_AC", "status": "CHARGING", "temperature": 30.1}
    wifi = {"ip": "10.0.0.2", "supplicant_state": "COMPLETED"}
    script(tmp_path / "termux-battery-status", f"echo '{json.dumps(battery)}'")
    script(tmp_path / "termux-wifi-connectioninfo", f"echo '{json.dumps(wifi)}'")
    sensors = sensors_of_this_machine()

    assert isinstance(sensors, TermuxSensors)
    assert sensors.read() == Conditions(True, 55.0, False, Thermal.NONE)


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_a_linux_machine_reads_its_files(monkeypatch):
    monkeypatch.delenv("ANDROID_ROOT", raising=False)
    sensors = sensors_of_this_machine()

    assert isinstance(sensors, LinuxSensors)
    assert isinstance(sensors.read(), Conditions)
