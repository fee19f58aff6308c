"""Group commit: what waits for the disk together shares one transaction.

A commit costs a flush of the disk, some milliseconds whatever it holds. Work that arrives while one is under way is
collected and committed together with the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection

from fwdllm_common.errors import StorageError
from fwdllm_server.store.database import Database, storage_errors

T = TypeVar("T")
_Work: TypeAlias = Callable[[Connection], Any]
_MOST = 256
"""Pieces of work in one transaction, so that the first does not wait for ever."""


class GroupCommit:
    """Runs work in ``executor``, which has one thread, in the order of the calls."""

    def __init__(self, database: Database, executor: Executor) -> None:
        self._database = database
        self._executor = executor
        self._waiting: deque[tuple[_Work, asyncio.Future[Any]]] = deque()
        self._committing = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, once all that it did is on disk.

        Work that raises is undone alone; what shares its transaction stays, unless the store itself failed.

        :raises StorageError: the transaction could not be committed; nothing of it was done.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, answer))
        if not self._committing:
            self._committing = True
            self._commit_next()
        return await answer

    def _commit_next(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._executor, self._commit, [work for work, _ in group])
        done.add_done_callback(lambda outcomes: self._answer(outcomes, [answer for _, answer in group]))

    def _commit(self, group: list[_Work]) -> list[Any]:
        """In the executor's thread: what each returned or raised."""
        with self._database.transaction() as connection:
            return [_outcome(work, connection) for work in group]

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


def _outcome(work: _Work, connection: Connection) -> Any:
    try:
        with storage_errors(), connection.begin_nested():
            return work(connection)
    except StorageError:
        # Where the disk is full or the connection gone, the whole transaction may be undone already, what others have
        # done in it included: then nobody is told that it was done.
        raise
    except Exception as error:  # it goes to whoever asked
        return error
