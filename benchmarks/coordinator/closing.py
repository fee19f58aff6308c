"""Closing a round: from its last scalar to the next version of θ on disk, and what the others feel of it meanwhile.

A process of its own: the coordinator's event loop with a job whose round lacks one scalar. A ticker in the loop shows
how late the loop is, and another writes small transactions, as check-ins do.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy import Connection

from benchmarks.coordinator.population import JOB, add_devices, add_job, device_id, job_toml, make_home
from benchmarks.coordinator.work import scalar_of
from fwdllm.v1 import device_pb2
from fwdllm_server.config.home import ServerHome
from fwdllm_server.coordinator.coordinator import Coordinator
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rounds import reporting
from fwdllm_server.rounds.delivery import fetch
from fwdllm_server.rounds.presence import Present
from fwdllm_server.rounds.reporting import Report
from fwdllm_server.store import assignments, ledger
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database

_TICK_S = 0.001
_DEVICES = 20


async def close_round(home: ServerHome, directions: int) -> dict[str, float]:
    """Let devices report all but the last scalar, then that; seconds, and milliseconds of the worst lags."""
    runtime = Runtime(home, home.config())
    coordinator = Coordinator(runtime)
    await coordinator.start()
    try:
        await _assign(runtime, coordinator)
        last = await _report_all_but_one(runtime, coordinator, directions)
        lags: list[float] = []
        commits: list[float] = []
        tickers = [
            asyncio.create_task(_every_tick(lags, lambda: asyncio.sleep(0))),
            asyncio.create_task(_every_tick(commits, lambda: runtime.commit(_small_work))),
        ]
        await asyncio.sleep(0.1)
        idle_lag = max(lags)
        lags.clear()
        commits.clear()
        started, cpu = time.perf_counter(), time.process_time()
        await last()
        while coordinator.training[JOB].state.version == 0:
            await asyncio.sleep(_TICK_S)
        seconds = time.perf_counter() - started
        for ticker in tickers:
            ticker.cancel()
        return {
            "seconds": seconds,
            "cpu_seconds": time.process_time() - cpu,
            "loop_lag_ms": 1000 * max(lags),
            "idle_loop_lag_ms": 1000 * idle_lag,
            "commit_ms": 1000 * max(commits, default=0.0),
        }
    finally:
        await coordinator.close()
        runtime.close()


async def _assign(runtime: Runtime, coordinator: Coordinator) -> None:
    """Wait until the round has all devices, and let all fetch their work."""
    for number in range(_DEVICES):
        runtime.presence.seen(Present(device_id(number), runtime.clock(), frozenset({"no", "yes"})))
    coordinator.wake()
    while True:
        work = await runtime.commit(lambda connection: assignments.of_round(connection, JOB, 1))
        if len(work) == _DEVICES:
            break
        await runtime.change(0.05)
    job = coordinator.training[JOB]

    def take(connection: Connection) -> None:
        for each in work:
            fetch(connection, each, job, runtime.clock())

    await runtime.commit(take)


async def _report_all_but_one(
    runtime: Runtime, coordinator: Coordinator, directions: int
) -> Callable[[], Awaitable[None]]:
    work = await runtime.commit(lambda connection: assignments.of_round(connection, JOB, 1))

    async def report(assignment: assignments.AssignmentRecord, first: int, count: int) -> None:
        seeds = assignment.seeds[first : first + count]
        request = device_pb2.ReportRequest(
            assignment_id=assignment.id, first_index=first, derivatives=[scalar_of(seed) for seed in seeds]
        )
        await runtime.commit(reporting.record, [Report(assignment, request, 60.0)], runtime.clock())
        coordinator.wake(JOB)

    assert sum(len(each.seeds) for each in work) == directions
    for each in work[:-1]:
        await report(each, 0, len(each.seeds))
    final = work[-1]
    rest = len(final.seeds) - 1
    await report(final, 0, rest)

    async def last() -> None:
        await report(final, rest, 1)

    return last


async def _every_tick(found: list[float], work: Callable[[], Awaitable[object]]) -> None:
    """Do something small again and again; how long it took, with how late its turn came."""
    while True:
        due = time.perf_counter() + _TICK_S
        await asyncio.sleep(_TICK_S)
        await work()
        found.append(time.perf_counter() - due)


def _small_work(connection: Connection) -> int:
    return ledger.totals(connection, JOB)[0]


def main() -> None:
    """``python -m benchmarks.coordinator.closing WEIGHTS DIRECTIONS FOLDER``: one JSON line."""
    weights, directions = map(int, sys.argv[1:3])
    with tempfile.TemporaryDirectory(dir=sys.argv[3]) as folder:
        home = make_home(Path(folder) / "server")
        database = Database(home.database_url(home.config()))
        add_devices(database, _DEVICES)
        rounds = f"min_devices = {_DEVICES}\nmax_devices = {_DEVICES}\ngather_s = 0"
        add_job(database, ArtifactStore(home.artifacts), job_toml(directions, rounds), weights)
        database.close()
        print(json.dumps(asyncio.run(close_round(home, directions))))


if __name__ == "__main__":
    main()
