"""kill -9 of the coordinator that drives the rounds, or a pause of it: another goes on, and not a bit is different."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
from helpers.federation import FAST, PROGRAMS, free_ports
from helpers.modelless import JOB_ID, home_with_job, work_until_done
from helpers.postgres import Postgres
from helpers.scripted_device import Acknowledgements, ScriptedDevice
from helpers.serving import serving
from helpers.shared_store import another, share
from helpers.tiny_job import LABELS
from sqlalchemy import select

from fwdllm_server.config.home import ServerHome
from fwdllm_server.store import jobs, ledger, rounds, schema
from fwdllm_server.store.database import Database
from fwdllm_server.store.jobs import JobState

DEVICES = ("device-1", "device-2")
ROUNDS = 6
KILLS = 5
PATIENCE_S = 90.0


class Coordinators:
    """Two processes on one PostgreSQL; devices know the ports of both."""

    def __init__(self, home: ServerHome, url: str, stack: ExitStack) -> None:
        self.folder = home.folder.parent
        share(home, url)
        self.database = Database(url)
        stack.callback(self.database.close)
        self._homes = [home, another(home, self.folder / "second")]
        self._ports = free_ports(2)
        self._stack = stack
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        """Start one, and wait until it serves."""
        listen = {"FWDLLM_LISTEN__DEVICE": f"127.0.0.1:{self._ports[number]}"}
        with self._log(number).open("ab") as log:
            process = subprocess.Popen(
                [PROGRAMS / "fwdllm-server", "serve", self._homes[number].folder],
                env={**os.environ, **FAST, **listen},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self._processes[number] = process
        served = self.log(number).count('"serving"')
        until(lambda: self.log(number).count('"serving"') > served, self)

    def send(self, number: int, which: signal.Signals) -> None:
        self._processes[number].send_signal(which)

    def kill(self, number: int) -> None:
        self.send(number, signal.SIGKILL)
        self._processes[number].wait()

    def start_both(self) -> None:
        """The first drives the job."""
        self.start(0)
        until(lambda: self.driver() == 0, self)
        self.start(1)

    def _log(self, number: int) -> Path:
        return self.folder / f"coordinator-{number}.log"

    def log(self, number: int) -> str:
        return self._log(number).read_text()

    def driver(self) -> int | None:
        """The number of the one that has taken the job's lease."""
        with self.database.transaction() as connection:
            holder = connection.execute(select(schema.leases.c.holder)).scalar_one_or_none()
        names = [str(home.folder) for home in self._homes]
        return names.index(holder.partition(":")[2]) if holder else None

    def is_running(self) -> bool:
        with self.database.transaction() as connection:
            (record,) = jobs.in_state(connection)
        return record.state == JobState.RUNNING

    def version(self) -> int:
        with self.database.transaction() as connection:
            current = rounds.latest(connection, JOB_ID)
        return current.version if current else 0

    def ledger(self) -> list[bytes]:
        with self.database.transaction() as connection:
            return list(ledger.entries(connection, JOB_ID, after=0))

    @contextmanager
    def devices(self, *first: int) -> Iterator[Acknowledgements]:
        """Both devices at work; each asks the coordinator of this number first, and the other when that is gone."""
        acknowledgements = Acknowledgements()
        with ExitStack() as stack:
            for name, number in zip(DEVICES, first, strict=True):
                ports = self._ports if number == 0 else self._ports[::-1]
                device = ScriptedDevice(self.folder / name, acknowledgements.add, ports, LABELS)
                stack.callback(device.stop)
                device.start()
            yield acknowledgements


def until(condition: Callable[[], bool], coordinators: Coordinators) -> float:
    """Seconds until it is so."""
    since = time.monotonic()
    while not condition():
        assert time.monotonic() - since < PATIENCE_S, [coordinators.log(number) for number in (0, 1)]
        time.sleep(0.02)
    return time.monotonic() - since


async def undisturbed(folder: Path, count: int) -> list[bytes]:
    """The ledger of the same job where there is one coordinator, which nothing happens to."""
    async with serving(home_with_job(folder / "server", count=count)) as server:
        await server.join(*DEVICES)
        await work_until_done(server, *[await server.device(name) for name in DEVICES])
        return server.ledger()


@pytest.fixture
async def start(tmp_path: Path, postgres: Postgres) -> AsyncIterator[Callable[[int], object]]:
    """Starts two coordinators on a job of so many rounds, for which both devices have joined."""
    async with AsyncExitStack() as stack:

        async def two(count: int = ROUNDS) -> Coordinators:
            home = home_with_job(tmp_path / "shared" / "server", count=count)
            async with serving(home) as server:
                await server.join(*DEVICES)
            coordinators = Coordinators(home, postgres.create_database(), stack.enter_context(ExitStack()))
            coordinators.start_both()
            return coordinators

        yield two


async def test_kill_of_the_driver_moves_the_round_to_another_and_changes_no_bit(start, tmp_path):
    coordinators = await start()
    with coordinators.devices(0, 1) as acknowledgements:
        acknowledgements.wait_for(9)  # a round is four messages
        coordinators.kill(0)
        until(lambda: not coordinators.is_running(), coordinators)

    assert coordinators.driver() == 1
    assert coordinators.ledger() == await undisturbed(tmp_path / "undisturbed", ROUNDS)


@pytest.mark.nightly
async def test_a_driver_that_was_paused_finds_another_in_its_place(start, tmp_path):
    coordinators = await start()
    with coordinators.devices(1, 1) as acknowledgements:
        acknowledgements.wait_for(5)
        coordinators.send(0, signal.SIGSTOP)
        until(lambda: coordinators.driver() == 1, coordinators)
        coordinators.send(0, signal.SIGCONT)
        until(lambda: not coordinators.is_running(), coordinators)
        # The one, or that the database has ended its transaction.
        words = ("not driven here any more", "waits for the store")
        until(lambda: any(word in coordinators.log(0) for word in words), coordinators)

    assert coordinators.driver() == 1
    assert coordinators.ledger() == await undisturbed(tmp_path / "undisturbed", ROUNDS)


@pytest.mark.nightly
async def test_how_soon_a_killed_drivers_rounds_go_on(start, tmp_path):
    """Prints how long it took until the other had committed a version; docs/coordinators.md shows it."""
    count = 60
    coordinators = await start(count)
    taken, committed = [], []
    for _ in range(KILLS):
        with coordinators.devices(0, 1) as acknowledgements:
            acknowledgements.wait_for(5)  # a round is four messages
            killed_at, driver = time.monotonic(), coordinators.driver()
            coordinators.kill(driver)
            version = coordinators.version()
            until(lambda driver=driver: coordinators.driver() != driver, coordinators)
            taken.append(time.monotonic() - killed_at)
            until(lambda version=version: coordinators.version() > version, coordinators)
            committed.append(time.monotonic() - killed_at)
        coordinators.start(driver)
    with coordinators.devices(0, 1):
        until(lambda: not coordinators.is_running(), coordinators)

    print("seconds from kill -9 of the driver until another")
    for what, seconds in (("has the lease", taken), ("has committed a version", committed)):
        print(f"{what:>24}: {', '.join(f'{each:.1f}' for each in sorted(seconds))}")
    assert coordinators.ledger() == await undisturbed(tmp_path / "undisturbed", count)
