"""The peer: a Flower SuperLink with SQLite state, installed into an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.coordinator.processes import Measured, free_port, running
from fwdllm_server.config.home import ServerHome
from fwdllm_server.security.ca import CertificateAuthority

VERSION = "1.42.0"
CALLS = ("send-node-heartbeat", "pull-messages")
"""What a SuperNode says every 30 s, which is written to the state; and what it asks every 3 s, which reads it."""


def install(folder: Path) -> Path:
    """Make the environment with Flower if it does not exist, and return its folder."""
    program = folder / "bin" / "flower-superlink"
    if not program.exists():
        print(f"installing flwr {VERSION}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", f"flwr=={VERSION}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder


@contextmanager
def superlink(environment: Path, home: ServerHome, folder: Path) -> Iterator[tuple[Measured, int]]:
    """Run a SuperLink with TLS from our own authority; yield the process and its port."""
    authority = CertificateAuthority.load(home.ca_certificate, home.ca_key)
    key, chain = authority.issue_server(["localhost", "127.0.0.1"], time.time())
    (folder / "server.key").write_bytes(key)
    (folder / "server.pem").write_bytes(chain)
    port = free_port()
    command = [
        str(environment / "bin" / "flower-superlink"),
        *("--ssl-certfile", str(folder / "server.pem")),
        *("--ssl-keyfile", str(folder / "server.key")),
        *("--ssl-ca-certfile", str(home.ca_certificate)),
        *("--database", str(folder / "flower.db")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--isolation", "process"),  # it starts nothing else
    ]
    settings = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(folder / "flwr-home")}
    with running(command, port, folder / "flower.log", settings) as process:
        yield Measured(process), port
