"""The command line of ``make bench-soak``: thousands of rounds, and whether anything grows.

A coordinator in a process of its own, looked at from outside while devices of the load generator take part in one small
round after the other, over gRPC with mutual TLS.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.coordinator.population import add_job, job_toml, join_devices, make_home
from benchmarks.coordinator.processes import Generators, Measured, coordinator, free_port, raise_limit
from benchmarks.environment import environment
from benchmarks.markdown import table
from benchmarks.reporting import Figure, make_figure, output_folder, parser, rounded, write_report
from fwdllm_server.config.home import ServerHome
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database

_DEVICES, _DIRECTIONS, _WEIGHTS = 4, 16, 64
_SLICE_S = 1.0
_ASK_AGAIN_S = 0.01
_LOOKS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Parts of the run after which it is looked at; the first hundredth fills caches and pools."""
_BOUNDS = "\n".join(
    f"{key} = {value}"
    for key, value in {
        "min_devices": _DEVICES,
        "max_devices": _DEVICES,
        "gather_s": 0,
    }.items()
)


class Reading(NamedTuple):
    """What the coordinator uses when so many rounds are committed."""

    rounds: int
    rss_bytes: int
    descriptors: int
    database_bytes: int
    artifact_bytes: int


def main() -> None:
    """Let the rounds pass, look now and then, report."""
    options = parser("soak", __doc__, quick="a hundred rounds")
    options.add_argument("--rounds", type=int, help="how many (10,000)")
    arguments = options.parse_args()
    raise_limit()
    rounds = arguments.rounds or (100 if arguments.quick else 10_000)
    output = output_folder("soak", arguments)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="run-", dir=output) as folder:
        readings = _soak(Path(folder), rounds)
    seconds = time.perf_counter() - started
    value = {
        "environment": environment(),
        "made": {"command": "make bench-soak", "rounds": rounds, "devices": _DEVICES, "seconds": round(seconds)},
        "figures": figures(readings),
        "measurements": [reading._asdict() for reading in readings],
    }
    text = "\n".join(_table(readings))
    write_report("soak", "coordinator.md", None if arguments.keep else output, value, text)


def _soak(folder: Path, rounds: int) -> list[Reading]:
    home = make_home(folder / "server")
    database = Database(home.database_url(home.config()))
    join_devices(home, database, folder / "devices", _DEVICES)
    add_job(database, ArtifactStore(home.artifacts), job_toml(_DIRECTIONS, _BOUNDS), _WEIGHTS)
    database.close()
    port, load = free_port(), {"folder": str(folder / "devices"), "fleet": "devices"}
    settings = {"FWDLLM_LIMITS__CALLS_PER_S": "100000"}
    readings: list[Reading] = []
    with (
        coordinator(home.folder, port, folder / "coordinator.log", settings) as server,
        Generators(1, _DEVICES, load | {"port": port}) as devices,
    ):
        devices.ask("connect", at_most=_DEVICES)
        for wanted in (max(1, round(part * rounds)) for part in _LOOKS):
            readings.append(_work_until(wanted, home, server, devices))
            print(f"{readings[-1].rounds} rounds", flush=True)
    return readings


def _work_until(rounds: int, home: ServerHome, server: Measured, devices: Generators) -> Reading:
    before = -1
    while (now := _committed(home)) < rounds:
        if now == before:
            raise SystemExit(f"error: no round was committed in {_SLICE_S} s after {now}")
        before = now
        devices.ask("work", devices=_DEVICES, seconds=_SLICE_S, per_message=_DIRECTIONS, ask_again_s=_ASK_AGAIN_S)
    artifacts = sum(path.stat().st_size for path in home.artifacts.iterdir())
    return Reading(now, server.rss_bytes, server.descriptors, _query(home, "PRAGMA page_count") * 4096, artifacts)


def _committed(home: ServerHome) -> int:
    return _query(home, "SELECT coalesce(max(version), 0) FROM ledger")


def _query(home: ServerHome, statement: str) -> int:
    connection = sqlite3.connect(f"file:{home.database}?mode=ro", uri=True, timeout=30)
    try:
        return int(connection.execute(statement).fetchone()[0])
    finally:
        connection.close()


def figures(readings: Sequence[Reading]) -> list[Figure]:
    """Return what has grown between the first reading and the last, and by how much a round."""
    first, middle, last = readings[0], readings[len(readings) // 2], readings[-1]
    growth_mb = (last.rss_bytes - first.rss_bytes) / 1e6
    ratio = _bytes_per_round(middle, last) / max(1.0, _bytes_per_round(first, middle))
    return [
        make_figure("soak_rounds", last.rounds, "committed rounds", 10_000, "higher"),
        make_figure("soak_rss_growth_mb", rounded(growth_mb), "MB since the first hundredth", 16),
        make_figure("soak_descriptors_growth", last.descriptors - first.descriptors, "since the first hundredth", 0),
        make_figure("soak_bytes_per_round_ratio", rounded(ratio), "database bytes a round, second part by first", 1.1),
    ]


def _bytes_per_round(earlier: Reading, later: Reading) -> float:
    return (later.database_bytes - earlier.database_bytes) / max(1, later.rounds - earlier.rounds)


def _table(readings: Sequence[Reading]) -> list[str]:
    header = ["committed rounds", "resident MB", "open files", "database kB", "its bytes a round since", "artifacts kB"]
    rows = [
        [
            f"{each.rounds:,}",
            f"{each.rss_bytes / 1e6:.1f}",
            str(each.descriptors),
            f"{each.database_bytes / 1000:,.0f}",
            f"{_bytes_per_round(readings[index - 1], each):,.0f}" if index else "",
            f"{each.artifact_bytes / 1000:,.1f}",
        ]
        for index, each in enumerate(readings)
    ]
    return table(header, rows)


if __name__ == "__main__":
    main()
