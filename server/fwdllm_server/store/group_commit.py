"""Group commit: work that waits for the disk at the same time shares one transaction.

A commit costs a flush of the disk, some milliseconds whatever its size. Work that arrives during a commit is collected
and committed together in the next. Work of one kind can share its statements too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import structlog
from sqlalchemy import Connection

from fwdllm_common.errors import StorageError
from fwdllm_server.store.database import Database, storage_errors

A = TypeVar("A")
T = TypeVar("T")
Batch: TypeAlias = Callable[[Connection, Sequence[A]], Sequence[T | Exception]]
"""A function that does several pieces of work of one kind and returns, in order, the result or error of each."""
_MOST = 256
"""The most pieces of work in one transaction, which bounds the wait of the first."""

_log = structlog.get_logger()


class GroupCommit:
    """The queue of work for ``executor``, which has one thread; work in one transaction has no defined order."""

    def __init__(self, database: Database, executor: Executor) -> None:
        self._database = database
        self._executor = executor
        self._waiting: deque[tuple[Batch[Any, Any], Any, asyncio.Future[Any]]] = deque()
        self._committing = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` and return its result once its changes are on disk.

        Work that raises is undone alone; other work in its transaction stays, unless the store itself failed.

        :raises StorageError: the transaction could not be committed; nothing of it was done.
        """
        return await self.run_batched(_one_by_one, work)

    async def run_batched(self, batch: Batch[A, T], item: A) -> T:
        """Run ``batch`` on ``item`` and other items that wait for it; return the item's result once it is on disk.

        A batch that raises is undone and run again item by item, so that one item does not fail the others; therefore
        it may change nothing but the database.

        :raises StorageError: the transaction could not be committed; nothing of it was done.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, item, answer))
        if not self._committing:
            self._committing = True
            self._commit_next()
        return await answer

    def _commit_next(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
        answers: dict[Batch[Any, Any], list[asyncio.Future[Any]]] = {}
        batches: dict[Batch[Any, Any], list[Any]] = {}
        for batch, item, answer in group:
            batches.setdefault(batch, []).append(item)
            answers.setdefault(batch, []).append(answer)
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._executor, self._commit, batches)
        done.add_done_callback(lambda outcomes: self._answer(outcomes, list(chain.from_iterable(answers.values()))))

    def _commit(self, batches: Mapping[Batch[Any, Any], Sequence[Any]]) -> list[Any]:
        """Run the batches in the executor's thread; return the result or error of each item."""
        with self._database.transaction() as connection:
            return [outcome for batch, items in batches.items() for outcome in _outcomes(batch, items, connection)]

    def _answer(self, done: asyncio.Future[list[Any]], answers: list[asyncio.Future[Any]]) -> None:
        failure = done.exception()
        outcomes = [failure] * len(answers) if failure else done.result()
        for answer, outcome in zip(answers, outcomes, strict=True):
            if answer.cancelled():  # the caller has gone
                continue
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        self._committing = bool(self._waiting)
        if self._committing:
            self._commit_next()


def _outcomes(batch: Batch[Any, Any], items: Sequence[Any], connection: Connection) -> Sequence[Any]:
    if batch is _one_by_one:
        return _one_by_one(connection, items)
    together = _outcome(lambda connection: batch(connection, items), connection)
    if not isinstance(together, Exception):
        return together
    if len(items) == 1:
        return [together]
    _log.debug("batch retried one by one", items=len(items), error=str(together))
    return [outcome for item in items for outcome in _outcomes(batch, [item], connection)]


def _one_by_one(connection: Connection, items: Sequence[Callable[[Connection], T]]) -> Sequence[T | Exception]:
    return [_outcome(work, connection) for work in items]


def _outcome(work: Callable[[Connection], T], connection: Connection) -> T | Exception:
    try:
        with storage_errors(), connection.begin_nested():
            return work(connection)
    except StorageError:
        # Where the disk is full or the connection lost, the whole transaction may be undone already, with the changes
        # of other work: then none of it may be acknowledged.
        raise
    except Exception as error:  # raised to the caller of this work
        return error
