"""The processes of the benchmark: servers that are measured from outside, and the load generator's."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environment import REPOSITORY

_START_S = 120.0


class Measured:
    """A server process with all that it started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = psutil.Process(process.pid)
        self._cpu, self._at = self.cpu_seconds, time.perf_counter()

    @property
    def cpu_seconds(self) -> float:
        """Used so far."""
        return float(sum(times.user + times.system for times in (process.cpu_times() for process in self._all())))

    @property
    def rss_bytes(self) -> int:
        """Resident memory now."""
        return int(sum(process.memory_info().rss for process in self._all()))

    @property
    def descriptors(self) -> int:
        """Open files and sockets now."""
        return int(self._process.num_fds())

    def cores(self) -> float:
        """Processor seconds a second since this was last asked."""
        cpu, at = self.cpu_seconds, time.perf_counter()
        used = (cpu - self._cpu) / (at - self._at)
        self._cpu, self._at = cpu, at
        return used

    def _all(self) -> Sequence[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]


@contextmanager
def coordinator(folder: Path, port: int, log: Path, environment: Mapping[str, str] = {}) -> Iterator[Measured]:
    """``fwdllm-server serve`` on a directory, with the device port given."""
    command = [sys.executable, "-c", "from fwdllm_server.cli import main; main()", "serve", str(folder)]
    # Without its pages, whose ports another server may have.
    pages = {"FWDLLM_LISTEN__DASHBOARD": "", "FWDLLM_LISTEN__METRICS": ""}
    settings = {"FWDLLM_LISTEN__DEVICE": f"127.0.0.1:{port}", **pages, **environment}
    with running(command, port, log, settings) as process:
        yield Measured(process)


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] = {}, user: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server process: yield it once its port is open, stop it at the end. ``log`` gets its output.

    :raises SystemExit: it does not start.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            user=user,
            preexec_fn=raise_limit,
        )
    try:
        _wait_for(process, port, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a loopback port on which no process listens now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def raise_limit() -> None:
    """Let a process open as many files as it may: every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.perf_counter() + _START_S
    while time.perf_counter() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"error: {process.args!r} did not start\n{log.read_text(errors='replace')[-4000:]}")


class Generators:
    """The processes of the load generator, each with its part of the clients."""

    def __init__(self, processes: int, clients: int, settings: Mapping[str, Any]) -> None:
        bounds = [clients * part // processes for part in range(processes + 1)]
        first = settings.get("first", 0)
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.coordinator.load",
                    json.dumps({**settings, **own}),
                ],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=raise_limit,
            )
            for own in ({"first": first + start, "count": end - start} for start, end in pairwise(bounds))
        ]

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the generator's processes."""
        return sum(psutil.Process(process.pid).memory_info().rss for process in self._processes)

    def ask(self, do: str, **parts: int | float) -> list[dict[str, Any]]:
        """All processes obey a command at the same time; whole numbers are divided among them."""
        count = len(self._processes)
        for index, process in enumerate(self._processes):
            own = {
                name: value // count + (index < value % count)
                if isinstance(value, int) and name != "per_message"
                else value
                for name, value in parts.items()
            }
            assert process.stdin is not None
            process.stdin.write(json.dumps({"do": do, **own}) + "\n")
            process.stdin.flush()
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"error: a load generator ended with status {process.wait()}")
            answers.append(json.loads(line))
        return answers
