"""A federation of real processes for end-to-end tests: started, killed and watched, never slept for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.undemanding import ask_for_nothing
from sqlalchemy import Connection

from fwdllm.v1.operator_pb2 import GetJobRequest, Job, ListJobsRequest
from fwdllm_common.ledger import RunHeader
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.store import jobs, ledger
from fwdllm_server.store.database import Database

PROGRAMS = Path(sys.executable).parent
READY_S = 60.0
FAST = {
    "FWDLLM_CHECK_IN__BUSY_MIN_MS": "5",
    "FWDLLM_CHECK_IN__BUSY_MAX_MS": "20",
    "FWDLLM_CHECK_IN__IDLE_MIN_MS": "5",
    "FWDLLM_CHECK_IN__IDLE_MAX_MS": "20",
    "FWDLLM_LIMITS__CALLS_PER_S": "1000000",  # who comes back at once calls often
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


class Federation:
    """The server in ``folder/server`` and any agents beside it; a context manager that leaves no process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server_folder = folder / "server"
        names = ("DEVICE", "ENROLMENT", "DASHBOARD", "METRICS")
        self.addresses = dict(zip(names, free_ports(len(names)), strict=True))
        self._environment = FAST | {
            f"FWDLLM_LISTEN__{name}": f"127.0.0.1:{port}" for name, port in self.addresses.items()
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Federation:
        os.environ.update(self._environment)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name)
        for name in self._environment:
            del os.environ[name]

    def command(self, program: str, *arguments: str, expect: int = 0, timeout_s: float = 120) -> str:
        """Run a command to its end, see its exit code and return what it printed (standard error if it failed)."""
        done = subprocess.run(
            [PROGRAMS / program, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s
        )
        assert done.returncode == expect, f"{program} {arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout if expect == 0 else done.stderr

    def server(self, *arguments: str, expect: int = 0, timeout_s: float = 120) -> str:
        """Run an operator's command on this server."""
        folder = str(self.server_folder)
        return self.command("fwdllm-server", *arguments, "--dir", folder, expect=expect, timeout_s=timeout_s)

    def start_server(self) -> None:
        """Start ``fwdllm-server serve`` and wait until it answers."""
        self.start("server", PROGRAMS / "fwdllm-server", "serve", str(self.server_folder))
        with operator_service(self.server_folder) as service:
            service.ListJobs(ListJobsRequest(), timeout=READY_S, wait_for_ready=True)

    def join(self, name: str, programs: Path = PROGRAMS) -> Path:
        """Enrol and join a device; returns its home."""
        token = json.loads(self.server("enroll", "--name", name, "--json"))["join_token"]
        home = self.folder / name
        subprocess.run([programs / "fwdllm-client", "join", token, "--home", home], check=True, timeout=60)
        ask_for_nothing(home)
        return home

    def move_devices(self, names: Iterable[str]) -> None:
        """Tell devices that joined another copy of this federation where this one listens."""
        for name in names:
            identity = self.folder / name / "identity.json"
            value = json.loads(identity.read_text())
            value["device_address"] = f"localhost:{self.addresses['DEVICE']}"
            identity.write_text(json.dumps(value))

    def start_agent(self, name: str, data: Path, programs: Path = PROGRAMS) -> None:
        """Start ``fwdllm-client run`` in the home that ``join`` made."""
        home = self.folder / name
        self.start(name, programs / "fwdllm-client", "run", "--data", data, "--home", home, "--threads", "1")

    def start(self, name: str, program: Path, *arguments: str | Path) -> None:
        """Start a process under a name; its output goes to ``name.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def pid(self, name: str) -> int:
        """The id of a process that was started under this name."""
        return self._processes[name].pid

    def kill(self, name: str, which: signal.Signals = signal.SIGKILL) -> int:
        """Send a process a signal and return its exit code."""
        process = self._processes.pop(name)
        process.send_signal(which)
        return process.wait(30)

    def watch(self, job: str) -> Iterator[Job]:
        """The job at every change."""
        with operator_service(self.server_folder) as service:
            yield from service.WatchJob(GetJobRequest(job=job), timeout=120)

    def until(self, job: str, condition: Callable[[Job], bool]) -> Job:
        """The first state of the job that meets a condition."""
        for found in self.watch(job):
            if condition(found):
                return found
        raise AssertionError(f"the job ended first: {found}\n{self.logs()}")

    def ledger(self) -> list[bytes]:
        """Every committed entry of the oldest job, from the store itself."""
        with self._store() as connection:
            return list(ledger.entries(connection, jobs.in_state(connection)[-1].id, after=0))

    def run_header(self) -> RunHeader:
        """The header of the oldest job's run."""
        with self._store() as connection:
            header = jobs.in_state(connection)[-1].header
        assert header is not None
        return RunHeader.from_bytes(header)

    @contextmanager
    def _store(self) -> Iterator[Connection]:
        database = Database(f"sqlite:///{self.server_folder / 'fwdllm.db'}")
        try:
            with database.transaction() as connection:
                yield connection
        finally:
            database.close()

    def logs(self) -> str:
        """What every process has printed."""
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))


def copy_federation(source: Path, folder: Path) -> None:
    """Copy what a federation left; the socket of a killed server is no file that could be."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.sock"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports
