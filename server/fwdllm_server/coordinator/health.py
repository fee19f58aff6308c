"""The health of the coordinator: its store can be written, and its event loop is on time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from sqlalchemy import Connection, text

from fwdllm_common.errors import FwdllmError
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.metrics.live import LOOP_LAG_SECONDS, SERVING, STORE_WRITABLE
from fwdllm_server.rounds.stalled import why_stalled
from fwdllm_server.store import jobs

WRITE_EVERY_S = 10.0
"""The seconds between two test writes."""
PATIENCE_S = 5.0
"""The seconds after which a store that does not answer counts as not writable."""
LATE_S = 1.0
"""The seconds that the event loop may be late; calls of devices wait as long."""
LATE_FOR = 10.0
"""The multiple of that time after which a loop that was late no more counts as on time again."""
_TICK_S = 0.25

_log = structlog.get_logger()


class Health:
    """Whether the coordinator serves; :attr:`problem` is the reason if it does not, else empty."""

    def __init__(
        self,
        runtime: Runtime,
        write_every_s: float = WRITE_EVERY_S,
        patience_s: float = PATIENCE_S,
        late_s: float = LATE_S,
    ) -> None:
        self._runtime = runtime
        self._write_every_s = write_every_s
        self._patience_s = patience_s
        self._late_s = late_s
        self._problems: dict[str, str] = {"start": "the coordinator is starting"}
        self._changed = asyncio.Event()

    @property
    def problem(self) -> str:
        """The reason why the coordinator does not serve, in one line; empty if it serves."""
        return "; ".join(self._problems.values())

    @property
    def store_works(self) -> bool:
        """Whether the last test write succeeded."""
        return "store" not in self._problems

    @property
    def changed(self) -> asyncio.Event:
        """The event that is set at the next change of :attr:`problem`."""
        return self._changed

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Check the store and the event loop until the block ends; afterwards the coordinator does not serve."""
        tasks = [asyncio.create_task(self._watch_store()), asyncio.create_task(self._watch_loop())]
        self._set("start", "")
        try:
            yield
        finally:
            self._set("stop", "the coordinator is stopping")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch_store(self) -> None:
        while True:
            write = asyncio.ensure_future(self._runtime.commit(_write))
            await asyncio.wait({write}, timeout=self._patience_s)
            if not write.done():
                self._set_store(f"the store has not answered for {self._patience_s:g} s")
                await asyncio.wait({write})
            error = write.exception()
            if error is not None and not isinstance(error, FwdllmError):
                _log.error("test write failed", error=repr(error))
            self._set_store("" if error is None else f"the store cannot be written: {error}")
            await asyncio.sleep(self._write_every_s)

    def _set_store(self, problem: str) -> None:
        STORE_WRITABLE.set(not problem)
        self._set("store", problem)

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        late_until = 0.0
        while True:
            due = loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            lag = max(0.0, loop.time() - due)
            LOOP_LAG_SECONDS.observe(lag)
            if lag > self._late_s:
                late_until = loop.time() + LATE_FOR * self._late_s
                self._set("loop", f"the event loop was {lag:.1f} s late")
            elif loop.time() > late_until:
                self._set("loop", "")

    def _set(self, name: str, problem: str) -> None:
        before = self.problem
        if problem:
            self._problems[name] = problem
        else:
            self._problems.pop(name, None)
        if self.problem == before:
            return
        SERVING.set(not self.problem)
        if self.problem:
            _log.warning("not serving", reason=self.problem)
        else:
            _log.info("healthy")
        self._changed.set()
        self._changed = asyncio.Event()


async def stalled(runtime: Runtime) -> Sequence[tuple[str, str]]:
    """Return the name of each job that is stalled, and why; the coordinator is healthy all the same."""
    try:
        return await runtime.commit(_stalled, runtime.clock())
    except FwdllmError:  # of the store, which its own check reports
        return []


def _stalled(connection: Connection, now: float) -> Sequence[tuple[str, str]]:
    found = [(job.name, why_stalled(connection, job, now)) for job in jobs.in_state(connection, *jobs.UNFINISHED)]
    return [(name, why) for name, why in found if why]


def _write(connection: Connection) -> None:
    # This changes nothing, and still has to reach the disk.
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
