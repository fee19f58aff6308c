"""The databases of the benchmark: SQLite in the server's directory, or a PostgreSQL of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.coordinator.processes import free_port, running


@contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database; "" stands for SQLite."""
    if kind == "sqlite":
        yield ""
        return
    with _postgres(folder) as url:
        yield url


def available(kind: str) -> bool:
    """Whether this machine has what a kind of store needs."""
    return kind == "sqlite" or _program("initdb") is not None


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL with its defaults: a commit is flushed to the disk before it returns."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        raise SystemExit("error: PostgreSQL is not installed here; leave it out with --stores sqlite")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    data = folder / "postgres"
    data.mkdir(parents=True)
    if user is not None:
        owner = pwd.getpwnam(user)
        os.chown(data, owner.pw_uid, owner.pw_gid)
    name = "postgres"
    command = [initdb, "-D", str(data), "-U", name, "-A", "trust", "-E", "UTF8", "--locale", "C"]
    subprocess.run(command, user=user, cwd=data, check=True, capture_output=True)
    port = free_port()
    serve = [postgres, "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(data)]
    with running(serve, port, folder / "postgres.log", user=user):
        yield f"postgresql+psycopg://{name}@127.0.0.1:{port}/postgres"


def _program(name: str) -> str | None:
    """Where a program of PostgreSQL is; Debian keeps most of them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)
