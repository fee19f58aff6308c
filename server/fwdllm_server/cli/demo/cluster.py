"""A federation on one machine: the server and its agents as processes of their own, over mTLS on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fwdllm.v1.operator_pb2 import ListJobsRequest
from fwdllm_common.errors import FwdllmError
from fwdllm_server.cli.calls import operator_service

_PROGRAMS = Path(sys.executable).parent
_READY_S = 180
_STOP_S = 20
_INTERRUPTING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
_SETTINGS = {
    # Four agents and a server share one machine, and nobody's data plan: come back at once.
    "FWDLLM_CHECK_IN__BUSY_MIN_MS": "20",
    "FWDLLM_CHECK_IN__BUSY_MAX_MS": "100",
    "FWDLLM_CHECK_IN__IDLE_MIN_MS": "200",
    "FWDLLM_CHECK_IN__IDLE_MAX_MS": "500",
    "HF_HUB_OFFLINE": "1",
}
_UNDEMANDING = Path(__file__).with_name("client.toml")


class Cluster:
    """Server and agents in ``folder``; a context manager that ends every process it started.

    What a former cluster left in ``folder`` is used again: a job goes on where it was.
    """

    def __init__(self, folder: Path) -> None:
        self.server_folder = folder / "server"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        # For the programs that we start, and for our own calls of the server.
        os.environ.update(self._addresses())
        os.environ.update(_SETTINGS)

    def __enter__(self) -> Cluster:
        # A terminal that is closed must not leave processes behind either.
        for which in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(which, _interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An impatient second Ctrl-C must not leave processes behind.
        before = {which: signal.signal(which, signal.SIG_IGN) for which in _INTERRUPTING}
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if kind is None:
            for which, handler in before.items():
                signal.signal(which, handler)

    def start_server(self) -> None:
        """Make the server's directory if need be, start ``fwdllm-server serve``, and return when it answers."""
        if not self.server_folder.exists():
            self.run("fwdllm-server", "init", str(self.server_folder), "--host", "localhost")
        self._start("server", "fwdllm-server", "serve", str(self.server_folder))
        with operator_service(self.server_folder) as service:
            service.ListJobs(ListJobsRequest(), timeout=_READY_S, wait_for_ready=True)

    def join(self, name: str) -> Path:
        """Enrol and join a device if need be, and return its home."""
        home = self._folder / name
        if not home.exists():
            enrolled = self.run("fwdllm-server", "enroll", "--name", name, "--dir", str(self.server_folder), "--json")
            self.run("fwdllm-client", "join", json.loads(enrolled)["join_token"], "--home", str(home))
            shutil.copy(_UNDEMANDING, home / "client.toml")
        return home

    def start_agent(self, name: str, data: Path, threads: int) -> int:
        """Join if need be, start ``fwdllm-client run``, and return the process's id."""
        arguments = ("run", "--data", str(data), "--home", str(self.join(name)), "--threads", str(threads))
        return self._start(name, "fwdllm-client", *arguments)

    def run(self, program: str, *arguments: str) -> str:
        """Run a command to its end and return what it prints.

        :raises FwdllmError: it fails.
        """
        command = [str(_PROGRAMS / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own programs
        if done.returncode:
            raise FwdllmError(f"{program} {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def check(self) -> None:
        """See that every process still runs.

        :raises FwdllmError: one has ended.
        """
        for process in self._processes:
            if process.poll() is not None:
                raise FwdllmError(f"a process ended with code {process.returncode}; see {self._folder}/*.log")

    def _start(self, name: str, program: str, *arguments: str) -> int:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(  # noqa: S603 - our own programs
                    [_PROGRAMS / program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C is for us; we then end the others in order.
                    start_new_session=True,
                )
            )
        return self._processes[-1].pid

    def _addresses(self) -> dict[str, str]:
        """Two free ports, the same again when the cluster is started again."""
        file = self._folder / "ports.json"
        if not file.exists():
            file.write_text(json.dumps(_free_ports(2)))
        device, enrolment, *_ = json.loads(file.read_text())
        return {
            "FWDLLM_LISTEN__DEVICE": f"127.0.0.1:{device}",
            "FWDLLM_LISTEN__ENROLMENT": f"127.0.0.1:{enrolment}",
        } | {f"FWDLLM_LISTEN__{name}": "127.0.0.1:0" for name in ("DASHBOARD", "METRICS")}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports
