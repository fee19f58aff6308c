"""The store fails under a running coordinator and comes back: it says so, and nothing that it acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from helpers.modelless import JOB_ID, home_with_job, use_store, work_until_done
from helpers.serving import ScriptedDevice, Serving, derivative, refusal, seeds_of, serving
from helpers.stored import seeds_of_round
from helpers.tiny_job import LABELS
from server.rpc.loopback import make_home
from sqlalchemy import Connection, event

from fwdllm.v1.device_pb2 import Assignment
from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, CreateJoinTokenRequest, ListJobsRequest
from fwdllm_common.errors import BusyError, StorageError
from fwdllm_common.protocol import Reason
from fwdllm_server.cli import run
from fwdllm_server.config.home import ServerHome
from fwdllm_server.coordinator import coordinator as coordinator_module

NAMES = ("one", "two")


@pytest.fixture(autouse=True)
def _look_again_at_once(monkeypatch):
    monkeypatch.setattr(coordinator_module, "_STORE_RETRY_S", 0.01)
    monkeypatch.setenv("FWDLLM_LIMITS__CALLS_PER_S", "1000000")


async def devices_of(server: Serving) -> list[ScriptedDevice]:
    await server.join(*NAMES)
    return [await server.device(name) for name in NAMES]


async def first_assignment(server: Serving, *devices: ScriptedDevice) -> Assignment:
    """What the first of the devices gets, after it has reported the first half of it."""
    for _ in range(1000):
        for device in devices:
            answer = await device.check_in(labels=LABELS)
            if device is devices[0] and answer.HasField("assignment"):
                seeds = seeds_of(answer.assignment)
                await device.report(answer.assignment.assignment_id, list(map(derivative, seeds[: len(seeds) // 2])))
                return answer.assignment
    raise AssertionError("no work")


def stored(server: Serving) -> frozenset[int]:
    with server.runtime.database.transaction() as connection:
        return seeds_of_round(connection, JOB_ID, 1)


async def calm(folder: Path) -> list[bytes]:
    """The ledger of the same job where nothing fails."""
    async with serving(home_with_job(folder / "calm" / "server")) as server:
        await work_until_done(server, *await devices_of(server))
        return server.ledger()


async def interrupted(
    home: ServerHome, fail: Callable[[Serving], object], mend: Callable[[Serving], object]
) -> tuple[str, list[bytes]]:
    """What a device is told when the store fails in the middle of its report, and the ledger of the run in the end."""
    async with serving(home) as server:
        devices = await devices_of(server)
        work = await first_assignment(server, *devices)
        before = await asyncio.to_thread(stored, server)
        second_half = list(map(derivative, seeds_of(work)))
        await server.runtime.in_store(fail, server)
        try:
            await until_it_fails(devices[0])
            code, reason, message = await refusal(devices[0].report(work.assignment_id, second_half))
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, Reason.STORAGE)
            assert (await refusal(server.operator.CreateJoinToken(CreateJoinTokenRequest(name="three"))))[1] == reason
        finally:
            await server.runtime.in_store(mend, server)
        await until_answered(server)
        assert await asyncio.to_thread(stored, server) == before
        answer = await devices[0].report(work.assignment_id, second_half)
        assert (answer.accepted, answer.repeated) == (len(second_half) - len(before), len(before))
        job = await work_until_done(server, *devices)
        assert job.state == JOB_STATE_DONE
        return message, server.ledger()


async def until_it_fails(device: ScriptedDevice) -> None:
    """A disk that is full has room for a few check-ins in the files that are there."""
    for _ in range(10_000):
        try:
            await device.check_in(labels=LABELS)
        except grpc.aio.AioRpcError:
            return
    raise AssertionError("the store does not fail")


async def until_answered(server: Serving) -> None:
    """The connections that broke are noticed by those who try them first."""
    for _ in range(100):
        try:
            await server.operator.ListJobs(ListJobsRequest(), timeout=10)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError("the store does not come back")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, to be filled or made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root's rights")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb") as file:
        size = 1 << 20
        while size:
            try:
                os.write(file.fileno(), bytes(size))
            except OSError:
                size //= 2


async def test_a_disk_that_fills_up(small_disk, tmp_path):
    home = home_with_job(small_disk / "server")
    message, found = await interrupted(home, lambda _: fill(small_disk), lambda _: (small_disk / "filler").unlink())
    assert "full" in message
    assert "nothing that was acknowledged is lost" in message
    assert found == await calm(tmp_path)


def test_a_server_does_not_start_on_a_full_disk(small_disk, capfd):
    home = home_with_job(small_disk / "server")
    capfd.readouterr()
    fill(small_disk)
    assert run(["serve", str(home.folder)]) == StorageError.exit_code
    assert "no space left" in capfd.readouterr().err


def test_a_server_does_not_start_on_a_read_only_disk(small_disk, capfd):
    home = home_with_job(small_disk / "server")
    capfd.readouterr()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert run(["serve", str(home.folder)]) == StorageError.exit_code
    assert "Read-only file system" in capfd.readouterr().err


def refuse_to_write(connection: Connection) -> None:
    """What SQLite does when the device fails; a file system with files open to write cannot be remounted."""
    connection.exec_driver_sql("PRAGMA query_only = ON")


def write_again(server: Serving) -> None:
    event.remove(server.runtime.database._engine, "begin", refuse_to_write)
    server.runtime.database._engine.dispose()


async def test_a_disk_that_becomes_read_only(tmp_path):
    message, found = await interrupted(
        home_with_job(tmp_path / "server"),
        lambda server: event.listen(server.runtime.database._engine, "begin", refuse_to_write, insert=True),
        write_again,
    )
    assert "check its disk and permissions" in message
    assert found == await calm(tmp_path)


async def test_a_database_that_goes_and_comes_back(postgres, tmp_path):
    home = home_with_job(tmp_path / "server", postgres.create_database())
    message, found = await interrupted(home, lambda _: postgres.stop(), lambda _: postgres.start())
    assert "the database cannot be used" in message
    assert found == await calm(tmp_path)


def test_a_server_does_not_start_without_its_database(postgres, tmp_path, capfd):
    home = home_with_job(tmp_path / "server", postgres.create_database())
    capfd.readouterr()
    postgres.stop()
    try:
        assert run(["serve", str(home.folder)]) == StorageError.exit_code
    finally:
        postgres.start()
    assert "the database cannot be used" in capfd.readouterr().err


def test_a_second_server_on_the_same_database_is_refused(tmp_path, capfd):
    home = home_with_job(tmp_path / "server")
    other = make_home(tmp_path / "other")
    use_store(other, f"sqlite:///{home.database}")
    program = Path(sys.executable).parent / "fwdllm-server"
    with subprocess.Popen([program, "serve", home.folder], stderr=subprocess.PIPE) as first:
        while b'"serving"' not in first.stderr.readline():
            assert first.poll() is None
        assert run(["serve", str(other.folder)]) == BusyError.exit_code
        first.kill()
        first.communicate()
    assert f"another fwdllm-server uses {home.database}; stop it first" in capfd.readouterr().err
