"""Read from the store for the dashboard, once for all viewers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from sqlalchemy import Connection

from fwdllm_server.coordinator.runtime import Runtime

T = TypeVar("T")

FRESH_S = 0.5
"""Seconds for which a result is reused."""
_SHARE = 20
"""A result is reused for at least this many times the duration of its read, so that devices have precedence."""
_KEPT = 256


class Reading:
    """Reads from the store, with a short-lived cache of the results."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._known: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}

    async def shared(self, key: Hashable, function: Callable[[Connection], T]) -> T:
        """Run ``function`` in a transaction, or return the recent result for the same ``key``."""
        fresh_until, known = self._known.get(key, (0.0, None))
        if known is None or (known.done() and time.monotonic() >= fresh_until):
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = asyncio.ensure_future(self._measured(key, function))
            self._known[key] = (0.0, known)
        found: T = await asyncio.shield(known)
        return found

    async def _measured(self, key: Hashable, function: Callable[[Connection], T]) -> T:
        took = 0.0

        def measured(connection: Connection) -> T:
            nonlocal took
            began = time.monotonic()
            try:
                return function(connection)
            finally:
                took = time.monotonic() - began

        found = await self.runtime.transact(measured)
        task = asyncio.current_task()
        assert task is not None
        self._known[key] = (time.monotonic() + max(FRESH_S, _SHARE * took), task)
        return found
