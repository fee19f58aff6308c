"""A PostgreSQL server of the tests' own: made empty, reached by a Unix socket, stopped and started at will."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")
_OWNERS = ("postgres", "nobody")  # PostgreSQL refuses to run as root


def program(name: str) -> Path | None:
    """Where a program of PostgreSQL is; Debian keeps it out of the path."""
    found = shutil.which(name)
    kept = sorted(_DEBIAN.glob(f"*/bin/{name}"))
    return Path(found) if found else kept[-1] if kept else None


def owner() -> str | None:
    """The user that a server is to run as: another one where we are root."""
    return next(filter(_exists, _OWNERS)) if os.geteuid() == 0 else None


class Postgres:
    """A context manager; while it is open, the server runs. Its data is not flushed: the machine does not crash."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._user = owner()

    def __enter__(self) -> Postgres:
        # A path short enough for a socket, in a folder that another user may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="fwdllm-postgres-", dir="/tmp"))
        if self._user:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "--auth=trust", "--username=fwdllm", "--no-sync", "--encoding=UTF8", "--locale=C")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-c listen_addresses= -c unix_socket_directories={self._folder} -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--options", options, "--log", str(self._folder / "log"))

    def stop(self) -> None:
        """Stop the server as a crash would: connections break and what was not committed is gone."""
        self._run("pg_ctl", "stop", "--mode", "immediate")

    def create_database(self, options: str = "") -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self._numbers)}"
        statement = f"CREATE DATABASE {name} {options}"
        self._run("psql", "--host", str(self._folder), "--username=fwdllm", "postgres", "-c", statement)
        return f"postgresql+psycopg://fwdllm@/{name}?host={self._folder}"

    def _run(self, name: str, *arguments: str) -> None:
        path = program(name)
        assert path is not None
        environment = {**os.environ, "PGDATA": str(self._folder / "data")}
        # Output goes to a file and not to a pipe, which the server would inherit and keep open.
        with (self._folder / "commands").open("a+") as output:
            # Not with user=, for which Python forks: gRPC's handlers of forks break a child now and then.
            as_user = [] if self._user is None else ["setpriv", f"--reuid={self._user}"]
            done = subprocess.run(
                [*as_user, path, *arguments],
                env=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
            output.seek(0)
            assert done.returncode == 0, output.read()


def _exists(user: str) -> bool:
    return subprocess.run(["id", user], capture_output=True, check=False).returncode == 0
