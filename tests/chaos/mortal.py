"""A coordinator that is killed wherever it has not been killed before, and started again at once.

    python mortal.py SERVER_FOLDER NOTES_FOLDER DEATHS

It is ``fwdllm-server serve``, forked off a process that has imported everything, so that a life begins in no time. It
dies (kill -9) ``DEATHS`` times at each point that it comes to; with 0 it lives and only notes the points. Nothing of
the server is changed, and no list of points is kept anywhere. They are found by listening:

* before and after the commit of each line that writes to the store, by SQLAlchemy's events: a new phase or transition
  is a new point;
* before every statement of a migration;
* before a file of the server's is opened for writing, renamed, linked or removed, by Python's audit events;
* between two messages of a stream of answers.

``NOTES_FOLDER/points`` has a line for each death (or point), ``NOTES_FOLDER/clock`` the seconds by which the server's
clock is ahead.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_HELPERS = ("files.py", "lock.py", "artifacts.py")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_STATEMENTS = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")
_FILE_EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "shutil.copyfile")


class Death:
    """Comes at a point that has not been met often enough."""

    def __init__(self, notes: Path, times: int) -> None:
        self._notes = (notes / "points").open("a+", encoding="utf-8")
        self._notes.seek(0)
        self._met = Counter(self._notes.read().splitlines())
        self._times = times
        self._lock = threading.Lock()

    def comes_to(self, *points: str) -> None:
        """Die here, if it is the turn of one of these points, which are one place."""
        with self._lock:
            new = [point for point in dict.fromkeys(points) if self._met[point] < max(1, self._times)]
            self._met.update(new)
            self._notes.writelines(f"{point}\n" for point in new)
            self._notes.flush()
            if new and self._times:
                os.kill(os.getpid(), signal.SIGKILL)


def place(*passed_over: str) -> str | None:
    """The innermost line of the product's on the stack, but for files whose path contains one of ``passed_over``."""
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        for package in ("fwdllm_server", "fwdllm_common"):
            _, found, relative = file.rpartition(f"/{package}/")
            if found and not any(part in file for part in passed_over):
                return f"{package}/{relative}:{frame.f_lineno}"
        frame = frame.f_back
    return None


class Transactions(threading.local):
    """What each transaction has written so far, and what was in the one that has just been committed, by thread."""

    def __init__(self, death: Death) -> None:
        self._death = death
        self._open: list[list[str]] = []
        self._units: list[list[str]] = []
        self._committed: list[list[str]] = []

    def listen(self) -> None:
        from sqlalchemy import Engine, Pool, event

        event.listen(Engine, "begin", lambda _connection: self._begin())
        event.listen(Engine, "savepoint", lambda *_: self._open.append([]))
        event.listen(Engine, "release_savepoint", lambda *_: self._close())
        event.listen(Engine, "rollback_savepoint", lambda *_: self._open.pop())
        event.listen(Engine, "before_cursor_execute", self._execute)
        event.listen(Engine, "commit", lambda _connection: self._commit())
        event.listen(Engine, "rollback", lambda _connection: self._begin())
        event.listen(Pool, "reset", lambda *_: self._is_over())  # the connection goes back: the commit has returned

    def _begin(self) -> None:
        self._open, self._units = [[]], []

    def _close(self) -> None:
        self._units.append(self._open.pop())

    def _execute(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.lstrip().upper().startswith(_STATEMENTS):
            return
        migration = place("/env.py")
        if migration and "/migrations/versions/" in migration:
            self._death.comes_to(f"before the statement of {migration}")
        line = place("/store/")
        if line and self._open:
            self._open[-1].append(line)

    def _commit(self) -> None:
        self._close()
        for unit in self._units:
            self._death.comes_to(*(f"before the commit of {line}" for line in unit))
        self._committed = self._units

    def _is_over(self) -> None:
        units, self._committed = self._committed, []
        for unit in units:
            self._death.comes_to(*(f"after the commit of {line}" for line in unit))


def listen_to_files(death: Death, folder: Path) -> None:
    root = str(folder.absolute())

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not arguments[2] & _WRITES:
            return
        if event in _FILE_EVENTS and str(arguments[0]).startswith(root):
            death.comes_to(f"before {event} of {place(*_HELPERS)}")

    sys.addaudithook(heard)


def listen_to_streams(death: Death) -> None:
    from fwdllm_server.rpc.device_service import DeviceService

    for name, method in inspect.getmembers(DeviceService, inspect.isasyncgenfunction):
        setattr(DeviceService, name, _broken_off(method, death))


def _broken_off(method: Callable[..., AsyncIterator[Any]], death: Death) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(method)
    async def stream(*arguments: Any) -> AsyncIterator[Any]:
        async for answer in method(*arguments):
            yield answer
            death.comes_to(f"in the stream of {method.__qualname__}")

    return stream


def shift_clock(notes: Path) -> None:
    """Before anything of the server is imported: it keeps the function that it finds."""
    clock, clocks = notes / "clock", (time.time, time.clock_gettime)
    time.time = lambda: clocks[0]() + float(clock.read_text())
    time.clock_gettime = lambda which: clocks[1](which) + float(clock.read_text())


def live(server: Path, notes: Path, deaths: int) -> None:
    """One life, in a process of its own."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from fwdllm_server.cli import run

    death = Death(notes, deaths)
    Transactions(death).listen()
    listen_to_streams(death)
    listen_to_files(death, server)
    sys.exit(run(["serve", str(server)]))


def main() -> None:
    server, notes, deaths = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    shift_clock(notes)
    import fwdllm_server.cli
    import fwdllm_server.cli.serving  # noqa: F401 - what every life needs
    from fwdllm_server.store import leases

    # PostgreSQL's clock is the coordinators' when they start: a life is not to begin before the end of the last.
    by_the_database, ahead = leases.database_time, notes / "clock"
    leases.database_time = lambda connection: by_the_database(connection) + float(ahead.read_text())

    while True:
        child = os.fork()
        if child == 0:
            live(server, notes, deaths)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
