"""A process of the load generator: ``python -m benchmarks.coordinator.load``.

Commands come one JSON line each on standard input and are answered by one on standard output; between them the
connections stay open and the process answers the server's pings.
"""

from __future__ import annotations

import json
import resource
import select
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.coordinator.connections import Connection, Loop
from benchmarks.coordinator.fleets import Devices, Fleet, FlowerNodes
from benchmarks.coordinator.work import Worker

_SHAKING_AT_ONCE = 32
_PATIENCE_S = 120.0


class Generator:
    """The clients ``first`` to ``first + count - 1``."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.loop = Loop()
        folder, address = Path(settings["folder"]), ("127.0.0.1", int(settings["port"]))
        first = int(settings["first"])
        self._fleet: Fleet
        self._devices: Devices | None = None
        if settings["fleet"] == "devices":
            self._fleet = self._devices = Devices(self.loop, address, folder, first)
        else:
            self._fleet = FlowerNodes(self.loop, address, folder, settings["fleet"])
        self._connections: dict[int, Connection] = {}
        self._numbers = range(int(settings["count"]))

    def connect(self, at_most: int) -> dict[str, Any]:
        """Open what is not open, up to so many."""
        missing = [number for number in self._numbers if not self._is_open(number)][:at_most]
        waiting, failed, under_way = iter(missing), 0, 0
        started = time.perf_counter()

        def one_more() -> None:
            nonlocal under_way
            number = next(waiting, None)
            if number is None:
                return
            under_way += 1
            self._connections[number] = self._fleet.connect(number, opened)

        def opened(answer: bytes | None) -> None:
            nonlocal failed, under_way
            under_way -= 1
            failed += answer is None
            one_more()

        for _ in range(_SHAKING_AT_ONCE):
            one_more()
        self.loop.run_until(lambda: under_way == 0, time.perf_counter() + _PATIENCE_S)
        return {
            "open": sum(map(self._is_open, self._numbers)),
            "opened": len(missing) - failed,
            "failed": failed,
            "seconds": time.perf_counter() - started,
        }

    def roll_call(self) -> dict[str, Any]:
        """Everyone checks in once."""
        return self._call(iter([n for n in self._numbers if self._is_open(n)]), 16, float("inf"))

    def check_ins(self, in_flight: int, seconds: float) -> dict[str, Any]:
        """Clients check in one after the other, so many at a time, for so long."""
        return self._call(cycle([n for n in self._numbers if self._is_open(n)]), in_flight, seconds)

    def work(self, devices: int, seconds: float, per_message: int, ask_again_s: float) -> dict[str, Any]:
        """So many devices do the work they are given, for so long."""
        assert self._devices is not None
        end = time.perf_counter() + seconds
        workers = [
            Worker(self.loop, self._connections[number], self._devices.ready, per_message, ask_again_s, end)
            for number in self._numbers[:devices]
        ]
        for worker in workers:
            worker.ask()
        self.loop.run_until(lambda: all(worker.done for worker in workers), end + _PATIENCE_S)
        return {
            "scalars": sum(worker.scalars for worker in workers),
            "failed": sum(worker.failed for worker in workers),
            "latencies_ms": [latency for worker in workers for latency in worker.latencies_ms],
            "seconds": seconds,
        }

    def _call(self, numbers: Iterator[int], in_flight: int, seconds: float) -> dict[str, Any]:
        started = time.perf_counter()
        end = started + seconds
        latencies: list[float] = []
        failed = under_way = 0

        def one_more() -> None:
            nonlocal under_way
            number = next(numbers, None)
            if number is None or time.perf_counter() >= end:
                return
            under_way += 1
            asked = time.perf_counter()

            def answered(answer: bytes | None) -> None:
                nonlocal failed, under_way
                under_way -= 1
                now = time.perf_counter()
                if answer is None:
                    failed += 1
                elif now <= end:
                    latencies.append(1000 * (now - asked))
                one_more()

            connection = self._connections[number]
            if connection.open:
                self._fleet.check_in(number, connection, answered)
            else:
                self.loop.later(0.01, lambda: answered(None))

        for _ in range(in_flight):
            one_more()
        self.loop.run_until(lambda: under_way == 0, started + min(seconds, _PATIENCE_S) + _PATIENCE_S)
        taken = min(seconds, time.perf_counter() - started)
        return {"latencies_ms": latencies, "failed": failed, "seconds": taken}

    def _is_open(self, number: int) -> bool:
        return number in self._connections and self._connections[number].open


def main() -> None:
    """Do as standard input says until it ends."""
    _raise_limit()
    generator = Generator(json.loads(sys.argv[1]))
    generator.loop.add(sys.stdin.fileno(), lambda: None)
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "connect": generator.connect,
        "roll_call": generator.roll_call,
        "check_ins": generator.check_ins,
        "work": generator.work,
    }
    while True:
        generator.loop.run_until(lambda: bool(select.select([sys.stdin], [], [], 0)[0]))
        line = sys.stdin.readline()
        if not line:
            return
        generator.loop.remove(sys.stdin.fileno())  # else a second command would keep the loop awake
        command = json.loads(line)
        before = time.process_time()
        answer = commands[command.pop("do")](**command)
        print(json.dumps({**answer, "cpu_seconds": time.process_time() - before}), flush=True)
        generator.loop.add(sys.stdin.fileno(), lambda: None)


def _raise_limit() -> None:
    """Let the process open as many files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
