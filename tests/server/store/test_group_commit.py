"""Work that waits together is committed together, and fails alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from fwdllm_common.errors import BadInputError, StorageError
from fwdllm_server.store import devices
from fwdllm_server.store.database import Database
from fwdllm_server.store.group_commit import GroupCommit


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def group(database: Database, executor: ThreadPoolExecutor) -> GroupCommit:
    return GroupCommit(database, executor)


class Gate:
    """Holds the store's thread, so that work collects behind it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._open = threading.Event()
        executor.submit(self._open.wait)

    def open(self) -> None:
        self._open.set()


def add(name: str) -> object:
    def work(connection: Connection) -> str:
        return devices.add(connection, f"dev-{name}", name, f"key-{name}", 1.0).name

    return work


def names(database: Database) -> set[str]:
    with database.transaction() as connection:
        return {device.name for device in devices.all_devices(connection)} - {"ann", "bob", "cid"}


async def run_together(group: GroupCommit, gate: Gate, *work: object) -> list[object]:
    tasks = [asyncio.ensure_future(group.run(each)) for each in work]
    await asyncio.sleep(0)  # all have asked
    gate.open()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_each_gets_its_own_answer(group: GroupCommit, executor: ThreadPoolExecutor, database: Database) -> None:
    wanted = [f"d{number}" for number in range(600)]
    assert await run_together(group, Gate(executor), *map(add, wanted)) == wanted
    assert names(database) == set(wanted)


async def test_what_waits_together_is_one_transaction(
    group: GroupCommit, executor: ThreadPoolExecutor, database: Database
) -> None:
    commits = []
    event.listen(database._engine, "commit", commits.append)
    await run_together(group, Gate(executor), *(add(f"d{number}") for number in range(50)))
    # The first goes alone, since nothing waited with it.
    assert len(commits) == 2


async def test_work_that_raises_is_undone_alone(
    group: GroupCommit, executor: ThreadPoolExecutor, database: Database
) -> None:
    def fails(connection: Connection) -> None:
        devices.add(connection, "dev-bad", "bad", "key-bad", 1.0)
        raise BadInputError("no")

    outcomes = await run_together(group, Gate(executor), add("a"), add("b"), fails, add("c"))
    assert outcomes[:2] == ["a", "b"]
    assert isinstance(outcomes[2], BadInputError)
    assert outcomes[3] == "c"
    assert names(database) == {"a", "b", "c"}


async def test_a_statement_that_fails_does_not_spoil_the_others(
    group: GroupCommit, executor: ThreadPoolExecutor, database: Database
) -> None:
    outcomes = await run_together(group, Gate(executor), add("x"), add("a"), add("a"), add("b"))
    assert [type(outcome).__name__ for outcome in outcomes] == ["str", "str", "IntegrityError", "str"]
    assert names(database) == {"x", "a", "b"}


async def test_a_commit_that_fails_is_everybodys_failure(
    group: GroupCommit, executor: ThreadPoolExecutor, database: Database
) -> None:
    def full(_connection: Connection) -> None:
        raise StorageError("the disk is full")

    gate = Gate(executor)
    tasks = [asyncio.ensure_future(group.run(add(name))) for name in ("x", "a", "b")]
    await asyncio.sleep(0)
    event.listen(database._engine, "commit", full)
    gate.open()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StorageError}
    event.remove(database._engine, "commit", full)
    assert names(database) == set()
    assert await group.run(add("later")) == "later"


async def test_a_disk_that_fills_up_in_the_middle_is_everybodys_failure(
    executor: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """SQLite may have undone the whole transaction by then: nobody may be told that his part of it was done."""
    database = Database(f"sqlite:///{tmp_path / 'small.db'}")
    group = GroupCommit(database, executor)

    def fills_up(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 5}")
        for number in range(10_000):
            devices.add(connection, f"dev-{number}", "full" * 100, f"key-{number}", 1.0)

    outcomes = await run_together(group, Gate(executor), add("x"), add("a"), fills_up, add("b"))
    assert [type(outcome) for outcome in outcomes] == [str, StorageError, StorageError, StorageError]
    assert names(database) == {"x"}
    database.close()


async def test_a_caller_that_goes_away_holds_up_nobody(
    group: GroupCommit, executor: ThreadPoolExecutor, database: Database
) -> None:
    gate = Gate(executor)
    tasks = [asyncio.ensure_future(group.run(add(name))) for name in ("x", "a", "b")]
    await asyncio.sleep(0)
    tasks[1].cancel()
    gate.open()
    assert await tasks[0] == "x"
    assert await tasks[2] == "b"
    assert await group.run(add("later")) == "later"


async def test_a_batch_is_done_together_and_its_failures_one_by_one(
    group: GroupCommit, executor: ThreadPoolExecutor, database: Database
) -> None:
    batches = []

    def batch(connection: Connection, wanted: Sequence[str]) -> Sequence[str | Exception]:
        batches.append(list(wanted))
        for name in wanted:
            if name == "bad":
                raise BadInputError("no")
            devices.add(connection, f"dev-{name}", name, f"key-{name}", 1.0)
        return [BadInputError("refused") if name == "refused" else name for name in wanted]

    async def run(*wanted: str) -> list[object]:
        gate = Gate(executor)
        tasks = [asyncio.ensure_future(group.run_batched(batch, name)) for name in wanted]
        await asyncio.sleep(0)
        gate.open()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = await run("first", "a", "refused", "b")
    assert [str(outcome) for outcome in outcomes] == ["first", "a", "refused", "b"]
    assert isinstance(outcomes[2], BadInputError)
    assert batches == [["first"], ["a", "refused", "b"]]  # the first went alone, since nothing waited with it

    batches.clear()
    outcomes = await run("c", "d", "bad", "e")
    assert [str(outcome) for outcome in outcomes] == ["c", "d", "no", "e"]
    assert batches == [["c"], ["d", "bad", "e"], ["d"], ["bad"], ["e"]]
    assert names(database) == {"first", "a", "refused", "b", "c", "d", "e"}
