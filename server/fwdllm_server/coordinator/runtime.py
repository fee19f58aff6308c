"""The parts that the whole running coordinator shares: its store, its clock, and notifications of changes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection

from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import ServerConfig
from fwdllm_server.coordinator.clock import TOLERATED_S
from fwdllm_server.metrics.live import STORE_SECONDS
from fwdllm_server.rounds.presence import Presence
from fwdllm_server.store import devices, leases
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database
from fwdllm_server.store.group_commit import Batch, GroupCommit

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")

_log = structlog.get_logger()


class Runtime:
    """The store, the clock and the notifications of one coordinator.

    One thread uses the database, in the order of the calls; leases are renewed in another. ``name`` identifies this
    coordinator to others of the same database and survives restarts.
    """

    def __init__(self, home: ServerHome, config: ServerConfig, clock: Callable[[], float] = time.time) -> None:
        self.home = home
        self.config = config
        self.database = Database(home.database_url(config))
        folder = home.store_folder(config)
        self.artifacts = ArtifactStore(folder / home.artifacts.name)
        self.jobs_folder = folder / home.jobs.name
        self.name = f"{socket.gethostname()}:{home.folder}"
        self._clock, self._ahead_s = clock, 0.0
        if self.database.shared:
            with self.database.transaction() as connection:
                self._ahead_s = leases.database_time(connection) - clock()
            if abs(self._ahead_s) > TOLERATED_S:
                _log.warning(
                    "this machine's clock differs from the database's, which is used instead; set it",
                    seconds_behind=round(self._ahead_s),
                )
        # A device that has not checked in for two of its windows counts as gone.
        self.presence = Presence(2 * config.check_in.busy_max_ms / 1000 + 5)
        self._changed = asyncio.Condition()
        self._store = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._group_commit = GroupCommit(self.database, self._store)

    def clock(self) -> float:
        """Return the seconds since 1970, on which all coordinators of one database agree."""
        return self._clock() + self._ahead_s

    async def in_store(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in the store's thread; the transactions that it opens are on disk when this returns."""
        with STORE_SECONDS.time():
            return await asyncio.get_running_loop().run_in_executor(self._store, lambda: function(*args, **kwargs))

    async def transact(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in the store's thread, in a transaction of its own, which is on disk when this returns.

        For work that takes locks, as their order must not depend on what shares a transaction, and for work that shall
        neither delay nor undo that of devices.
        """

        def in_transaction() -> T:
            with self.database.transaction() as connection:
                return work(connection, *args, **kwargs)

        return await self.in_store(in_transaction)

    async def commit(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in the store's thread, in a transaction that it may share with other work.

        Its changes are on disk when this returns; if it raises, its changes alone are undone.
        """
        with STORE_SECONDS.time():
            return await self._group_commit.run(lambda connection: work(connection, *args, **kwargs))

    async def revoked_among(self, device_ids: Collection[str]) -> Collection[str]:
        """Which of these devices are revoked, by this coordinator or another on the same store."""
        return await self.commit(devices.revoked_among, device_ids)

    async def commit_batched(self, batch: Batch[A, T], item: A) -> T:
        """Run ``batch`` on ``item`` and on the other items that wait for it, in a transaction as :meth:`commit`'s."""
        with STORE_SECONDS.time():
            return await self._group_commit.run_batched(batch, item)

    async def notify(self) -> None:
        """Wake everyone who waits in :meth:`change`."""
        async with self._changed:
            self._changed.notify_all()

    async def change(self, timeout_s: float) -> None:
        """Wait for the next change, at most ``timeout_s`` seconds."""
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return

    def close(self) -> None:
        """Finish the store's current work and close the store."""
        self._store.shutdown()
        self.database.close()
