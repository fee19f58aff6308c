"""A clock is ten minutes off, on either side: it is said, and nothing is lost, expired or refused for it.

What one side's clock is ahead, the other's is behind: devices go by the true one here, certificates and rounds by the
coordinator's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from chaos import clocked
from helpers.federation import free_ports
from helpers.journaled_device import JournaledDevice
from helpers.modelless import home_with_job, work_until_done
from helpers.serving import serving
from helpers.shared_store import another, share
from structlog.testing import capture_logs

from fwdllm_client.connection.home import ClientHome
from fwdllm_server.config.home import ServerHome

NAMES = ("one", "two")
TEN_MINUTES = 600
SHORTER = {"count": 6, "accept_s": 100, "deadline_s": 300, "assignment_s": 60}
PATIENCE_S = 90.0
WAS_SET = "the machine's clock was set"


async def calm(folder: Path) -> list[bytes]:
    """The ledger of the same job where all clocks are right."""
    async with serving(home_with_job(folder / "calm" / "server", **SHORTER)) as server:
        await server.join(*NAMES)
        await work_until_done(server, *[await server.device(name) for name in NAMES])
        return server.ledger()


def set_clock(file: Path, seconds: int) -> None:
    """The clock of the process that looks at this file is so far ahead."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(file)


@contextmanager
def coordinator(home: ServerHome, clock: Path, port: int, log: Path) -> Iterator[None]:
    """A process with a clock of its own, killed in the end."""
    environment = {**os.environ, "FWDLLM_LISTEN__DEVICE": f"127.0.0.1:{port}"}
    command = [sys.executable, clocked.__file__, clock, "serve", home.folder]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def at_work(*homes: ClientHome) -> Iterator[None]:
    """Devices in threads of their own, until the block ends."""
    devices = [JournaledDevice(home, per_message=4) for home in homes]
    threads = [Thread(target=device.run) for device in devices]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for device in devices:
            device.stop()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("ahead", [TEN_MINUTES, -TEN_MINUTES])
async def test_it_is_off_then_set_while_the_coordinator_runs_and_nothing_is_lost(ahead, tmp_path, monkeypatch):
    clock, log, (port,) = tmp_path / "clock", tmp_path / "server.log", free_ports(1)

    def committed() -> int:
        return log.read_text().count('"round committed"')

    def until(condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.02)

    true = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: true() + ahead)  # the authority's certificate begins by it
        home = home_with_job(tmp_path / "server", **SHORTER)
    monkeypatch.setenv("FWDLLM_LISTEN__DEVICE", f"127.0.0.1:{port}")
    async with serving(home, lambda: true() + ahead) as server:
        await server.join(*NAMES)
        homes = [server.client_home(name) for name in NAMES]
    set_clock(clock, ahead)
    with capture_logs() as said, at_work(*homes):
        with coordinator(home, clock, port, log):
            until(lambda: committed() >= 1)
            set_clock(clock, 0)
            until(lambda: WAS_SET in log.read_text())
            until(lambda: committed() >= 2)
        with coordinator(home, clock, port, log):
            until(lambda: committed() >= SHORTER["count"])

    async with serving(home) as server:
        found, job = server.ledger(), await server.job()
    assert found == await calm(tmp_path)
    assert job.scalars_late == job.scalars_unusable == 0
    assert sum("the clocks differ" in line["event"] for line in said) == len(NAMES)


async def test_coordinators_of_one_database_go_by_its_clock(postgres, tmp_path):
    home = home_with_job(tmp_path / "server", **SHORTER)
    async with serving(home) as server:
        await server.join(*NAMES)
    share(home, postgres.create_database())
    ahead, behind = (lambda seconds=seconds: time.time() + seconds for seconds in (TEN_MINUTES, -TEN_MINUTES))
    async with AsyncExitStack() as stack:
        said = stack.enter_context(capture_logs())
        one = await stack.enter_async_context(serving(home, ahead))
        two = await stack.enter_async_context(serving(another(home, tmp_path / "second"), behind))
        assert abs(one.runtime.clock() - two.runtime.clock()) < 30
        await work_until_done(one, await one.device(NAMES[0]), await two.device(NAMES[1]))
        found = one.ledger()

    assert found == await calm(tmp_path)
    assert sum("differs from the database's" in line["event"] for line in said) == 2
