"""What fleets of a thousand to a hundred million devices need, computed from measured costs: ``make scaling``.

Every cost of a call, a connection, a scalar or a byte is a measured one of ``benchmarks/results``. The prices are
assumed and can be given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.environment import REPOSITORY
from benchmarks.markdown import table, write_results
from fwdllm_server.config.server_config import CheckInSection

SIZES = tuple(10**power for power in range(3, 9))
DAY_S = 86_400.0


@dataclass(frozen=True)
class Assumed:
    """What is not measured: prices in dollars, and the link of a coordinator."""

    core_hour: float = 0.04
    gigabyte: float = 0.09
    link_gbit_s: float = 1.0


@dataclass(frozen=True)
class Costs:
    """Measured unit costs: of a coordinator on SQLite, and of a device.

    Rates are per second. ``check_in_cpu_s`` includes the TLS handshake of a device that closes its connection between
    check-ins, ``check_in_bytes`` all bytes of both, headers of TCP and IP included. ``model_bytes`` are downloaded
    once, ``run_bytes`` sent and received by one device of a run of ``rounds`` rounds, ``run_scalars`` are those of all.
    """

    check_ins: float
    scalars: float
    connection_bytes: float
    check_in_cpu_s: float
    check_in_bytes: float
    model_bytes: float
    run_bytes: float
    run_scalars: float
    rounds: int


def measured() -> Costs:
    """Read the costs from the repository's results."""
    coordinator, idle, demo = (_result(name) for name in ("coordinator", "idle", "demo"))
    figures = {each["name"]: each["value"] for each in coordinator["figures"]}
    store = coordinator["measurements"]["stores"]["sqlite"]
    # The run whose rate is the figure: the median of the repetitions.
    calls = sorted(store["check_ins"], key=lambda run: run["calls_per_s"])[len(store["check_ins"]) // 2]
    alone = idle["measurements"]["held"]
    return Costs(
        check_ins=figures["durable_checkins_per_s"],
        scalars=figures["durable_scalars_per_s"],
        connection_bytes=1000 * figures["rss_kb_per_device"],
        check_in_cpu_s=store["handshake_cpu_ms"] / 1000 + calls["server_cores"] / calls["calls_per_s"],
        check_in_bytes=alone["bytes_a_day"] / alone["check_ins_a_day"],
        model_bytes=demo["model_bytes_per_device"],
        run_bytes=demo["bytes_up_per_device"] + demo["bytes_down_per_device"],
        run_scalars=demo["directions"],
        rounds=demo["rounds"],
    )


@dataclass(frozen=True)
class Fleet:
    """What a fleet of ``devices`` asks of one coordinator with its default check-in windows."""

    devices: int
    costs: Costs
    assumed: Assumed

    @property
    def returns_s(self) -> float:
        """Seconds between the check-ins of an idle device: the configured window, or what ``rate`` leaves."""
        window = CheckInSection()
        return max((window.idle_min_ms + window.idle_max_ms) / 2000, self.devices / window.rate)

    @property
    def check_ins(self) -> float:
        """Check-ins a second."""
        return self.devices / self.returns_s

    @property
    def hourly_coordinators(self) -> float:
        """Coordinators' worth of durable check-ins if every device is to be back within an hour."""
        return self.devices / 3600 / self.costs.check_ins

    @property
    def cores(self) -> float:
        """Cores that check-ins keep busy, a connection for each."""
        return self.check_ins * self.costs.check_in_cpu_s

    @property
    def check_in_gb_a_day(self) -> float:
        """Gigabytes of check-ins a day."""
        return self.check_ins * DAY_S * self.costs.check_in_bytes / 1e9

    @property
    def held_gb(self) -> float:
        """Gigabytes of memory if every device held its connection."""
        return self.devices * self.costs.connection_bytes / 1e9

    @property
    def model_tb(self) -> float:
        """Terabytes that are downloaded if every device takes part once."""
        return self.devices * self.costs.model_bytes / 1e12

    @property
    def model_days(self) -> float:
        """Days in which the coordinator's link sends them."""
        return self.model_tb * 8e12 / (self.assumed.link_gbit_s * 1e9) / DAY_S

    @property
    def dollars_a_month(self) -> float:
        """Dollars a month of idling: cores, and half of the bytes, since only those that are sent are paid for."""
        cores = self.cores * 24 * 30 * self.assumed.core_hour
        return cores + self.check_in_gb_a_day / 2 * 30 * self.assumed.gigabyte

    @property
    def model_dollars(self) -> float:
        """Dollars for the bytes of a model that every device downloads once from the coordinator."""
        return self.model_tb * 1000 * self.assumed.gigabyte


def lines(assumed: Assumed) -> Iterator[str]:
    """Yield the page's tables, in Markdown."""
    costs = measured()
    fleets = [Fleet(size, costs, assumed) for size in SIZES]
    yield from table(
        ("devices", *(f"{size:,}" for size in SIZES)),
        [
            ("an idle device is back after", *(_duration(fleet.returns_s) for fleet in fleets)),
            ("check-ins a second", *(_number(fleet.check_ins) for fleet in fleets)),
            ("share of one coordinator's check-ins", *(_share(fleet.check_ins / costs.check_ins) for fleet in fleets)),
            ("cores, connections included", *(_number(fleet.cores) for fleet in fleets)),
            ("GB a day of check-ins", *(_number(fleet.check_in_gb_a_day) for fleet in fleets)),
            ("dollars a month of idling", *(_number(fleet.dollars_a_month) for fleet in fleets)),
            ("coordinators for a return within the hour", *(_number(fleet.hourly_coordinators) for fleet in fleets)),
            ("GB of memory with all connections held", *(_number(fleet.held_gb) for fleet in fleets)),
            ("TB of model files, each device once", *(_number(fleet.model_tb) for fleet in fleets)),
            (f"days on a link of {assumed.link_gbit_s:g} Gbit/s", *(_number(fleet.model_days) for fleet in fleets)),
            ("dollars for these bytes", *(_number(fleet.model_dollars) for fleet in fleets)),
        ],
    )
    yield ""
    yield from table(
        ("measured", "value", "result"),
        [
            ("durable check-ins a second", f"{costs.check_ins:,.0f}", "coordinator.json"),
            ("CPU ms of a check-in with its TLS handshake", f"{costs.check_in_cpu_s * 1000:.2f}", "coordinator.json"),
            ("durable scalars a second", f"{costs.scalars:,.0f}", "coordinator.json"),
            ("kB of memory of a held connection", f"{costs.connection_bytes / 1000:.0f}", "coordinator.json"),
            ("kB of a check-in with its connection", f"{costs.check_in_bytes / 1000:.1f}", "idle.json"),
            ("MB of a model, float32 MiniLM", f"{costs.model_bytes / 1e6:.0f}", "demo.json"),
            (f"MB of a device in a run of {costs.rounds} rounds", f"{costs.run_bytes / 1e6:.2f}", "demo.json"),
            ("scalars of such a run", f"{costs.run_scalars:,}", "demo.json"),
            ("seconds that storing these takes", f"{costs.run_scalars / costs.scalars:.0f}", "the two above"),
        ],
    )


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REPOSITORY / "benchmarks" / "results" / f"{name}.json").read_text())
    return found


def _duration(seconds: float) -> str:
    for unit, length in (("d", DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def main() -> None:
    """Write the tables into ``docs/scaling.md``."""
    parser = argparse.ArgumentParser(prog="make scaling", description=__doc__)
    parser.add_argument("--core-hour", type=float, default=Assumed.core_hour, help="dollars an hour of a core")
    parser.add_argument("--gigabyte", type=float, default=Assumed.gigabyte, help="dollars a gigabyte sent")
    arguments = parser.parse_args()
    text = "\n".join(lines(Assumed(arguments.core_hour, arguments.gigabyte)))
    write_results(REPOSITORY / "docs" / "scaling.md", "make scaling", text)
    print(text)


if __name__ == "__main__":
    main()
