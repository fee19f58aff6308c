from __future__ import annotations

from structlog.testing import capture_logs

from fwdllm_server.coordinator.clock import SteadyClock


class Machine:
    """A machine's clock, which may be set, and the seconds that pass."""

    def __init__(self) -> None:
        self.says, self.elapsed = 1e9, 50.0

    def pass_s(self, seconds: float) -> None:
        self.says += seconds
        self.elapsed += seconds


def test_it_goes_on_evenly_when_the_machines_clock_is_set():
    machine = Machine()
    clock = SteadyClock(lambda: machine.says, lambda: machine.elapsed)
    with capture_logs() as lines:
        assert clock() == 1e9
        machine.pass_s(5)
        machine.says += 600
        assert clock() == 1e9 + 5
        machine.pass_s(1)
        assert clock() == 1e9 + 6
        machine.says -= 1200
        assert clock() == 1e9 + 6

    assert [line["seconds"] for line in lines] == [600, -1200]
    assert "restart" in lines[0]["event"]


def test_small_corrections_are_not_worth_a_line():
    machine = Machine()
    clock = SteadyClock(lambda: machine.says, lambda: machine.elapsed)
    with capture_logs() as lines:
        for _ in range(10):
            machine.says += 5
            clock()
    assert lines == []


def test_it_starts_with_the_machines_clock():
    first = SteadyClock()()
    assert first <= SteadyClock()() < first + 60
