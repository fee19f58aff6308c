"""Our agent through a shortened day: a coordinator without a job, an agent, and the counting proxy between them.

A day is shortened by dividing everything that takes its time: the windows to come back in, and the silence after which
a coordinator closes a connection. What passes is what passes in a whole day, in the same messages over as many
connections.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.idle.memory import memory_of
from benchmarks.idle.proxy import CountingProxy, Traffic
from fwdllm_client.agent.session import HELD_WINDOW
from fwdllm_client.connection.sent_log import SentLog
from fwdllm_server.cli.demo.cluster import Cluster
from fwdllm_server.config.server_config import CheckInSection

DAY_S = 86_400
SERVER_IDLE_S = 600
"""``grpc.max_connection_idle_ms`` of the coordinator."""
_ROWS = 200
_STALLED_S = 120
_POLL_S = 0.2


@dataclass(frozen=True)
class Schedule:
    """When a device comes back, milliseconds, and by how much that is divided here."""

    title: str
    min_ms: int
    max_ms: int
    shortened: int

    @property
    def check_ins_a_day(self) -> int:
        """On the average of the window."""
        return round(2000 * DAY_S / (self.min_ms + self.max_ms))


SCHEDULES: Mapping[str, Schedule] = {
    "idle": Schedule("free to work, no job", CheckInSection().idle_min_ms, CheckInSection().idle_max_ms, shortened=400),
    "held": Schedule("may not work", HELD_WINDOW.min_ms, HELD_WINDOW.max_ms, shortened=1000),
}


def measured(schedule: Schedule, folder: Path, share: float = 1.0) -> dict[str, Any]:
    """Measure a ``share`` of a day: traffic in bytes scaled to a whole day, and the memory at its end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_rows(folder / "device.csv")
    with Cluster(folder) as cluster:
        os.environ["FWDLLM_CHECK_IN__IDLE_MIN_MS"] = str(schedule.min_ms // schedule.shortened)
        os.environ["FWDLLM_CHECK_IN__IDLE_MAX_MS"] = str(schedule.max_ms // schedule.shortened)
        cluster.start_server()
        host, port = os.environ["FWDLLM_LISTEN__DEVICE"].split(":")
        with CountingProxy((host, int(port)), SERVER_IDLE_S / schedule.shortened) as proxy:
            pid = _start_agent(cluster, folder, proxy.port)
            wanted = max(2, round(share * schedule.check_ins_a_day))
            check_ins = _after_check_ins(folder / "device", wanted)
            traffic, memory = proxy.traffic, memory_of(pid)
            cluster.check()
    return {
        "check_ins": check_ins,
        "check_ins_a_day": schedule.check_ins_a_day,
        "connections": traffic.connections,
        "bytes_a_day": _a_day(traffic, check_ins, schedule),
        "tls_bytes_a_day": round((traffic.sent + traffic.received) * schedule.check_ins_a_day / check_ins),
        "shortened": schedule.shortened,
        "resident_bytes": memory["Rss"],
        "anonymous_bytes": memory["Anonymous"],
    }


def _a_day(traffic: Traffic, check_ins: int, schedule: Schedule) -> int:
    return round(traffic.bytes_on_the_network * schedule.check_ins_a_day / check_ins)


def _start_agent(cluster: Cluster, folder: Path, port: int) -> int:
    """Start an agent that takes the proxy for its coordinator, and return its process's id."""
    identity = cluster.join("device") / "identity.json"
    identity.write_text(json.dumps(json.loads(identity.read_text()) | {"device_address": f"localhost:{port}"}))
    return cluster.start_agent("device", folder / "device.csv", threads=1)


def _after_check_ins(home: Path, wanted: int) -> int:
    """Wait for so many check-ins, and return how many there were by then."""
    count, moved = 0, time.monotonic()
    while count < wanted:
        time.sleep(_POLL_S)
        before, count = count, _check_ins(home)
        moved = time.monotonic() if count > before else moved
        if time.monotonic() - moved > _STALLED_S:
            raise SystemExit(f"error: the agent in {home} stopped checking in after {count}")
    return count


def _check_ins(home: Path) -> int:
    if not (home / "sent.sqlite").exists():
        return 0
    with closing(SentLog(home / "sent.sqlite")) as log:
        return int(sum(line.messages for line in log.lines() if line.what.startswith("check-in")))


def _write_rows(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows((f"a text of some words, number {row}", "ab"[row % 2]) for row in range(_ROWS))
