from __future__ import annotations

import pytest

from fwdllm_client.agent.cost import Cost
from fwdllm_client.agent.energy import BatteryEnergy, ProcessorEnergy, energy_of_this_machine
from fwdllm_client.agent.resource_usage import Meter


class Processor:
    """The counters of a machine with two packages, as the kernel writes them."""

    def __init__(self, root):
        self.root = root
        for zone, name in {"0": "package-0", "0:0": "core", "1": "package-1", "2": "psys"}.items():
            self._write(zone, "name", name)
            self._write(zone, "max_energy_range_uj", "1000000000")
            self.count(zone, 0)

    def count(self, zone, microjoules):
        self._write(zone, "energy_uj", str(microjoules))

    def forbid(self, zone):
        (self._zone(zone) / "energy_uj").unlink()

    def _zone(self, zone):
        return self.root / "sys/class/powercap" / f"intel-rapl:{zone}"

    def _write(self, zone, name, text):
        self._zone(zone).mkdir(parents=True, exist_ok=True)
        (self._zone(zone) / name).write_text(text + "\n")


@pytest.fixture
def processor(tmp_path):
    return Processor(tmp_path)


def test_packages_are_added_up_and_their_parts_are_not(processor):
    energy = ProcessorEnergy(processor.root)
    assert energy() == 0
    for zone, joules in {"0": 3, "0:0": 2, "1": 4, "2": 9}.items():
        processor.count(zone, joules * 1_000_000)
    assert energy() == pytest.approx(7)


def test_a_counter_that_begins_again_goes_on(processor):
    processor.count("0", 990_000_000)
    energy = ProcessorEnergy(processor.root)
    energy()
    processor.count("0", 5_000_000)
    assert energy() == pytest.approx(15)


def test_a_counter_that_only_root_may_read_is_not_known(processor):
    energy = ProcessorEnergy(processor.root)
    energy()
    processor.forbid("1")
    assert energy() is None


def test_the_battery_gives_watts_for_the_time_between():
    now, watts = [10.0], [5.0]
    energy = BatteryEnergy(lambda: watts[0], lambda: now[0])
    now[0] = 12.0
    assert energy() == pytest.approx(10)
    watts[0], now[0] = None, 20.0
    assert energy() is None
    watts[0], now[0] = 2.0, 21.0
    assert energy() == pytest.approx(12), "the time when it charged is not guessed at"


def test_the_processor_is_asked_before_the_battery(processor, tmp_path):
    assert isinstance(energy_of_this_machine(lambda: 5.0, processor.root), ProcessorEnergy)
    assert isinstance(energy_of_this_machine(lambda: 5.0, tmp_path / "other"), BatteryEnergy)


def test_a_meter_takes_differences_and_knows_no_energy_unless_both_ends_are_known():
    readings = iter([1.0, 3.5, None, 7.0, 8.0])
    seconds = iter([0.0, 2.0, 3.0, 4.0, 6.0])
    passes = iter([0.0, 10.0, 10.0, 11.0, 15.0])
    meter = Meter(lambda: next(seconds), lambda: next(passes), lambda: next(readings))
    assert [meter.take() for _ in range(4)] == [Cost(2, 10, 2.5), Cost(1, 0), Cost(1, 1), Cost(2, 4, 1.0)]
