"""The renewal of a lease while its job is driven here, however busy the store's thread is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec

import structlog
from sqlalchemy import Connection

from fwdllm_common.errors import StorageError
from fwdllm_server.store import leases
from fwdllm_server.store.database import Database
from fwdllm_server.store.leases import Lease

P = ParamSpec("P")

_log = structlog.get_logger()


class LeaseKeeper:
    """The renewals of a ``lease`` of ``seconds`` seconds, in a thread and on a connection of their own.

    In the store's thread a renewal would wait for other work, and the lease of a healthy driver could expire.
    """

    def __init__(self, database: Database, lease: Lease, seconds: float) -> None:
        self._database = database
        self._lease = lease
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")

    async def renew(self) -> None:
        """Renew the lease until cancelled.

        :raises LeaseLostError: another coordinator has taken it, or the job has ended.
        """
        while True:
            await asyncio.sleep(self._seconds / 3)
            try:
                await self._run(leases.renew, self._lease, self._seconds)
            except StorageError as error:
                _log.warning("lease not renewed", job=self._lease.job_id, code=error.code, reason=str(error))

    async def release(self) -> None:
        """Release the lease, so that another coordinator can take it at once; it is not renewed after that."""
        try:
            with contextlib.suppress(StorageError):
                await self._run(leases.release, self._lease)
        finally:  # also when this is cancelled: the database must not be closed during a transaction
            await asyncio.to_thread(self._thread.shutdown)

    async def _run(self, work: Callable[Concatenate[Connection, P], None], *args: P.args, **kwargs: P.kwargs) -> None:
        def transact() -> None:
            with self._database.transaction() as connection:
                work(connection, *args, **kwargs)

        await asyncio.get_running_loop().run_in_executor(self._thread, transact)
