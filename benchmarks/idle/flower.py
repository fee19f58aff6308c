"""Flower's idle SuperNode, from the package ``flwr`` in an environment of its own: it pins other versions than ours.

Its SuperLink has no run; the node's traffic is counted in real time and scaled to a day. Without TLS, which its quick
start leaves out too: with it there would be more bytes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.coordinator.flower import VERSION, install
from benchmarks.coordinator.processes import free_port
from benchmarks.idle.agent import DAY_S
from benchmarks.idle.memory import memory_of
from benchmarks.idle.proxy import CountingProxy

_SETTLED_S = 30
_END_S = 20


def measured(folder: Path, seconds: float) -> dict[str, Any]:
    """Measure a settled node for so many ``seconds``: traffic in bytes scaled to a day, and memory."""
    programs = install(folder / "environment") / "bin"
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}  # they start one another
    environment.pop("PYTHONPATH", None)
    link_port, node_port = free_port(), free_port()
    with (folder / "log").open("wb") as log:
        command = [str(programs / "flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(link_port)]
        superlink = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait_for(link_port)
            with CountingProxy(("127.0.0.1", link_port)) as proxy:
                node = subprocess.Popen(
                    [
                        programs / "flower-supernode",
                        "--insecure",
                        *("--superlink", f"127.0.0.1:{proxy.port}"),
                        *("--port", str(node_port)),
                    ],
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
                try:
                    time.sleep(_SETTLED_S)
                    before, began = proxy.traffic, time.monotonic()
                    time.sleep(seconds)
                    passed, took = proxy.traffic.since(before), time.monotonic() - began
                    if node.poll() is not None or not passed.sent:
                        raise SystemExit(f"error: Flower's SuperNode does not run; see {folder}/log")
                    memory = memory_of(node.pid)
                finally:
                    _end(node)
        finally:
            _end(superlink)
    return {
        "version": VERSION,
        "seconds": took,
        "bytes_a_day": round(passed.bytes_on_the_network * DAY_S / took),
        "tls_bytes_a_day": round((passed.sent + passed.received) * DAY_S / took),
        "resident_bytes": memory["Rss"],
        "anonymous_bytes": memory["Anonymous"],
    }


def _wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("error: Flower's SuperLink does not listen")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
