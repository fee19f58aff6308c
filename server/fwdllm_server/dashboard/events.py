"""The live stream: server-sent events with the changes, until the viewer disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from fwdllm_common.errors import FwdllmError
from fwdllm_server.dashboard import documents
from fwdllm_server.dashboard.documents import Facts
from fwdllm_server.dashboard.reading import FRESH_S, Reading
from fwdllm_server.metrics.live import VIEWERS
from fwdllm_server.store import jobs

MAX_VIEWERS = 64
_AT_LEAST_EVERY_S = 2.0
"""Longest interval in seconds between two checks for changes, so that durations stay current."""
_RETRY_MS = 2000
"""Milliseconds after which a browser reconnects."""


class EventStream:
    """The stream to one viewer: first the whole state, then the changes."""

    def __init__(self, reading: Reading, job_id: str | None, problem: Callable[[], str]) -> None:
        self._reading = reading
        self._job_id = job_id
        self._problem = problem
        self._sent: dict[str, Any] = {}
        self._evaluations: Sequence[Facts] = ()
        self._version = 0

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Send events until the viewer disconnects or the server stops."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        await response.write(f"retry: {_RETRY_MS}\n\n".encode())
        with VIEWERS.track_inprogress():
            while True:
                try:
                    news = await self._news()
                except FwdllmError:  # the store cannot be read; the viewer reconnects and gets the error
                    return response
                for name, data in news:
                    await response.write(f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode())
                await asyncio.sleep(FRESH_S)
                await self._reading.runtime.change(_AT_LEAST_EVERY_S)
                # A comment keeps the connection alive, for the browser and for proxies.
                await response.write(b": \n\n")

    async def _news(self) -> Sequence[tuple[str, Facts]]:
        runtime = self._reading.runtime
        now = runtime.clock()
        config = runtime.config.check_in
        found = await self._reading.shared("overview", lambda connection: documents.overview(connection, config, now))
        news = [("overview", {**found, "problem": self._problem()})]
        if self._job_id is not None:
            news += await self._news_of_job(self._job_id, now)
        changed = [(name, data) for name, data in news if self._sent.get(name) != data]
        self._sent.update(changed)
        return [(name, {**data, "now": now}) for name, data in changed]

    async def _news_of_job(self, job_id: str, now: float) -> Sequence[tuple[str, Facts]]:
        found = await self._reading.shared(("job", job_id), lambda connection: _job(connection, job_id, now))
        if found is None:
            return [("gone", {"job_id": job_id})]
        job, evaluations = found
        rounds: Sequence[Facts] = ()
        if job["version"] > self._version:
            rounds = await self._reading.runtime.transact(documents.committed_rounds, job_id, self._version)
        same = 0
        while same < min(len(evaluations), len(self._evaluations)) and evaluations[same] == self._evaluations[same]:
            same += 1
        news = [("job", job)]
        if rounds or same < len(evaluations):
            after = {"evaluations_from": same, "rounds_from": self._version}
            news.append(("curve", {**after, "evaluations": evaluations[same:], "rounds": rounds}))
        self._evaluations = evaluations
        self._version = rounds[-1]["version"] if rounds else self._version
        return news


def _job(connection: Any, job_id: str, now: float) -> tuple[Facts, Sequence[Facts]] | None:
    record = jobs.get(connection, job_id)
    if record is None:
        return None
    return documents.job(connection, record, now), documents.evaluations(connection, job_id)
