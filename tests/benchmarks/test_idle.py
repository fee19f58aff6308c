"""``python -m benchmarks.idle``: what is counted is what passed."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from benchmarks.idle.__main__ import all_figures, report
from benchmarks.idle.agent import SCHEDULES, measured
from benchmarks.idle.memory import memory_of
from benchmarks.idle.proxy import HEADER_BYTES, CountingProxy

DAY = {"check_ins_a_day": 720, "bytes_a_day": 500_000, "tls_bytes_a_day": 400_000}
MEMORY = {"resident_bytes": 50_000_000, "anonymous_bytes": 20_000_000}


@pytest.fixture
def echo() -> tuple[str, int]:
    """A server that says everything twice, one connection after the other."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = listening.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data + data)

    threading.Thread(target=serve, daemon=True).start()
    host, port = listening.getsockname()
    return host, port


def exchange(port: int, size: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(bytes(size))
    left = 2 * size
    while left:
        left -= len(connection.recv(left))
    return connection


def test_bytes_both_ways_and_segments_are_counted(echo: tuple[str, int]) -> None:
    with CountingProxy(echo) as proxy:
        exchange(proxy.port, 1000).close()
        before = proxy.traffic
        connection = exchange(proxy.port, 500)
        passed = proxy.traffic.since(before)
        connection.close()
    assert (passed.sent, passed.received, passed.connections) == (500, 1000, 1)
    assert passed.segments >= 4, "a handshake, and data both ways"
    assert passed.bytes_on_the_network == 1500 + HEADER_BYTES * passed.segments


def test_a_silent_connection_is_closed(echo: tuple[str, int]) -> None:
    with CountingProxy(echo, idle_s=0.2) as proxy:
        connection = exchange(proxy.port, 10)
        connection.settimeout(10)
        assert connection.recv(1) == b""
        connection.close()


def test_memory_is_of_a_process_and_its_children() -> None:
    alone = memory_of(os.getpid())
    assert alone["Rss"] > alone["Anonymous"] > 0
    assert alone["Rss"] >= alone["Pss"]


def test_figures_are_of_the_day_that_takes_most() -> None:
    found = {
        "idle": {**DAY, **MEMORY},
        "held": {**DAY, **MEMORY, "bytes_a_day": 600_000},
        "flower": {**DAY, **MEMORY, "version": "1", "bytes_a_day": 9_000_000},
    }
    by_name = {figure["name"]: figure for figure in all_figures(found)}
    assert by_name["idle_mb_per_day"]["value"] == 0.6
    assert by_name["idle_mb_per_day"]["peer"] == {"flower": 9.0}
    assert by_name["idle_rss_mb"]["value"] == 50
    assert "| fwdllm-client, may not work" in "\n".join(report(found))


@pytest.mark.parametrize(("name", "share"), [("idle", 0.01), ("held", 0.05)])
@pytest.mark.usefixtures("environment")
def test_an_agent_is_counted_through_a_part_of_its_day(name: str, share: float, tmp_path: Path) -> None:
    found = measured(SCHEDULES[name], tmp_path / "day", share)
    assert found["check_ins"] >= share * SCHEDULES[name].check_ins_a_day - 1
    assert 0 < found["connections"] <= found["check_ins"]
    if name == "held":
        assert found["connections"] > 1, "silence closes the connection"
    assert found["tls_bytes_a_day"] < found["bytes_a_day"]
    assert found["anonymous_bytes"] < found["resident_bytes"]
