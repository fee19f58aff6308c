"""``make bench-coordinator QUICK=1``: real processes, mutual TLS, a store; whether it works, not how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.coordinator.wire import Event, Grpc, Http

REPOSITORY = Path(__file__).parents[2]


def bench(output: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.coordinator", "--quick", "--output", str(output), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((output / "coordinator.json").read_text())


@pytest.mark.timeout(900)
def test_devices_connect_check_in_and_report(tmp_path: Path) -> None:
    found = bench(tmp_path, "--stores", "sqlite", "--no-flower")
    store = found["measurements"]["stores"]["sqlite"]
    assert store["connected_devices"] == 40
    assert store["connections_failed"] == 0
    assert all(each["failed"] == 0 and each["calls_per_s"] > 0 for each in store["check_ins"])
    assert all(each["failed"] == 0 and each["scalars_per_s"] > 0 for each in store["scalars"])
    assert all(each["seconds"] > 0 for each in found["measurements"]["closing"])
    assert all(each["seconds"] > 0 for each in found["measurements"]["starting"])
    figures = {figure["name"]: figure["value"] for figure in found["figures"]}
    assert figures["connected_devices"] == 40
    assert figures["checkins_ratio_to_flower"] is None
    assert "| check-ins, SQLite" in (tmp_path / "coordinator.md").read_text()


@pytest.mark.timeout(300)
def test_rounds_pass_and_the_coordinator_is_looked_at(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.coordinator.soak",
        "--quick",
        "--rounds",
        "20",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["measurements"][-1]["rounds"] >= 20
    assert {figure["name"] for figure in found["figures"]} == {
        "soak_rounds",
        "soak_rss_growth_mb",
        "soak_descriptors_growth",
        "soak_bytes_per_round_ratio",
    }
    assert "| committed rounds |" in (tmp_path / "soak.md").read_text()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_flower_is_measured_beside(tmp_path: Path) -> None:
    found = bench(tmp_path, "--stores", "sqlite", "--flower", str(tmp_path / "flwr"))
    assert all(each["calls_per_s"] > 0 for calls in found["measurements"]["flower"].values() for each in calls)
    assert all(each["failed"] == 0 for calls in found["measurements"]["flower"].values() for each in calls)


def test_http_answers_are_read_however_they_are_cut() -> None:
    codec = Http("localhost:1", "x: y\r\n")
    call, _ = codec.open("/path")
    assert codec.message(call, b"hello", last=True).startswith(b"POST /path HTTP/1.1\r\nhost: localhost:1\r\n")
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
    events = [event for byte in answer for event in codec.feed(bytes((byte,)))]
    assert events == [Event(call, b"abc"), Event(call, None)]
    assert list(codec.feed(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n")) == [Event(call, None)]


def test_grpc_frames_are_read_however_they_are_cut() -> None:
    codec = Grpc("localhost:1")
    call, _ = codec.open("/service/method")
    # SETTINGS, PING, HEADERS, DATA with one message, HEADERS that end the stream.
    frames = (
        bytes.fromhex("000000040000000000")
        + bytes.fromhex("000008060000000000")
        + b"12345678"
        + bytes.fromhex("000001010400000001")
        + b"\x88"
        + bytes.fromhex("000008000000000001")
        + b"\0\0\0\0\3abc"
        + bytes.fromhex("000001010500000001")
        + b"\x88"
    )
    events = [event for byte in frames for event in codec.feed(bytes((byte,)))]
    assert events == [
        bytes.fromhex("000000040100000000"),
        bytes.fromhex("000008060100000000") + b"12345678",
        Event(call, b"abc"),
        Event(call, None),
    ]
    with pytest.raises(ConnectionError, match="enough"):
        list(codec.feed(bytes.fromhex("00000e070000000000") + bytes(8) + b"enough"))
