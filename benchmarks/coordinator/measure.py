"""The measurements, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from benchmarks.coordinator.population import add_job, job_toml, join_devices, make_home
from benchmarks.coordinator.processes import Generators, Measured, coordinator, free_port
from benchmarks.coordinator.stores import store
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database


class Size(NamedTuple):
    """How much is measured; ``in_flight`` calls wait at a time, ``workers`` devices have work.

    They have it for ``working_seconds``, several rounds long; calls of others are made for ``seconds``.
    """

    devices: int
    processes: int
    in_flight: int
    seconds: float
    working_seconds: float
    repetitions: int
    workers: int
    scalars_per_device: int
    scalars_per_message: int
    ask_again_s: float
    serving_weights: int
    weights: int
    directions: int
    ledger_rounds: int


FULL = Size(10_000, 2, 64, 5.0, 20.0, 3, 64, 256, 16, 0.25, 4096, 450_000, 1000, 10_000)
QUICK = Size(40, 2, 8, 6.0, 6.0, 1, 8, 32, 16, 0.05, 64, 2000, 40, 50)
_WARM = 64
"""Devices that connect before memory is first looked at: what the first calls load is not theirs."""


def serve_store(kind: str, size: Size, folder: Path, between: Callable[[], None]) -> dict[str, Any]:
    """Everything about a coordinator on one kind of store; ``between`` is measured in turns with its check-ins."""
    folder.mkdir()
    with store(kind, folder) as url:
        home = make_home(folder / "server")
        database = Database(url or home.database_url(home.config()))
        print(f"{kind}: {size.devices} devices join", flush=True)
        join_devices(home, database, folder / "devices", size.devices)
        bounds = {
            "min_devices": max(1, size.workers // 4),
            "max_devices": size.workers,
            "gather_s": 0.5,
            "accept_s": 5.0,
            "assignment_s": 10.0,
        }
        toml = job_toml(size.workers * size.scalars_per_device, "\n".join(f"{k} = {v}" for k, v in bounds.items()))
        add_job(database, ArtifactStore(home.artifacts), toml, size.serving_weights)
        database.close()
        port = free_port()
        settings = {"FWDLLM_STORE__URL": url} if url else {}
        load = {"folder": str(folder / "devices"), "port": port, "fleet": "devices"}
        with (
            coordinator(home.folder, port, folder / "coordinator.log", settings) as server,
            Generators(size.processes, size.devices, load) as devices,
        ):
            found = _connect(kind, server, devices, size)
            found["check_ins"] = []
            for repetition in range(size.repetitions):
                print(f"{kind}: check-ins, {repetition + 1} of {size.repetitions}", flush=True)
                found["check_ins"].append(_check_ins(server, devices, size))
                between()
            found["scalars"] = []
            for repetition in range(size.repetitions):
                print(f"{kind}: scalars, {repetition + 1} of {size.repetitions}", flush=True)
                found["scalars"].append(_scalars(server, devices, size))
            found["rss_mb_at_the_end"] = server.rss_bytes / 1e6
        return found


def flower_calls(nodes: Generators, size: Size) -> dict[str, float]:
    """Make calls of SuperNodes, as many at a time as our devices make, after idle connections are opened again."""
    nodes.ask("connect", at_most=size.in_flight)
    answers = nodes.ask("check_ins", in_flight=size.in_flight, seconds=size.seconds)
    return _rate(answers, "latencies_ms")


def _connect(kind: str, server: Measured, devices: Generators, size: Size) -> dict[str, Any]:
    """Everyone connects and checks in once; what that takes."""
    devices.ask("connect", at_most=min(_WARM, size.devices // 2))
    devices.ask("roll_call")
    before, generator_before, cpu = server.rss_bytes, devices.rss_bytes, server.cpu_seconds
    print(f"{kind}: all connect", flush=True)
    warm = min(_WARM, size.devices // 2)
    connected = devices.ask("connect", at_most=size.devices)
    new = sum(answer["open"] for answer in connected) - warm
    handshakes = server.cpu_seconds - cpu
    shaken = server.rss_bytes
    called = devices.ask("roll_call")
    return {
        "connected_devices": sum(answer["open"] for answer in connected),
        "connections_failed": sum(answer["failed"] for answer in connected),
        "connect_seconds": max(answer["seconds"] for answer in connected),
        "handshake_cpu_ms": 1000 * handshakes / new,
        "rss_mb_without_devices": before / 1e6,
        "connection_kb_per_device": (shaken - before) / 1000 / new,
        "rss_kb_per_device": (server.rss_bytes - before) / 1000 / new,
        "generator_kb_per_device": (devices.rss_bytes - generator_before) / 1000 / new,
        "roll_call": _rate(called, "latencies_ms"),
        "descriptors": server.descriptors,
    }


def _check_ins(server: Measured, devices: Generators, size: Size) -> dict[str, float]:
    server.cores()
    answers = devices.ask("check_ins", in_flight=size.in_flight, seconds=size.seconds)
    return {**_rate(answers, "latencies_ms"), "server_cores": server.cores()}


def _scalars(server: Measured, devices: Generators, size: Size) -> dict[str, float]:
    server.cores()
    answers = devices.ask(
        "work",
        devices=size.workers,
        seconds=size.working_seconds,
        per_message=size.scalars_per_message,
        ask_again_s=size.ask_again_s,
    )
    found = _rate(answers, "latencies_ms")
    scalars = sum(answer["scalars"] for answer in answers)
    return {**found, "scalars_per_s": scalars / size.working_seconds, "server_cores": server.cores()}


def _rate(answers: Sequence[dict[str, Any]], field: str) -> dict[str, float]:
    """Return calls a second of all processes together, and latencies in milliseconds."""
    latencies = sorted(latency for answer in answers for latency in answer[field])
    seconds = max(answer["seconds"] for answer in answers)
    cuts = quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else [0.0] * 99
    return {
        "calls_per_s": len(latencies) / seconds,
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "failed": sum(answer["failed"] for answer in answers),
        "generator_cores": sum(answer["cpu_seconds"] for answer in answers) / seconds,
    }
