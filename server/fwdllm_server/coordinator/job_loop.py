"""One job's loop: drives its rounds and evaluates its versions beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from sqlalchemy import Connection

from fwdllm_common.errors import JobFailedError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.replay import ModelState
from fwdllm_server.coordinator.grpc_fleet import GrpcFleet
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.preparation.evaluation import HeldOutEvaluator
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.rounds import diverged
from fwdllm_server.rounds.fleet import drive
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.stalled import STALLED_S, StallLog, why_stalled
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import jobs, leases, ledger
from fwdllm_server.store.leases import Lease
from fwdllm_server.store.ledger import EvaluationRecord

_log = structlog.get_logger()


class JobLoop:
    """Asks the round machine to go on whenever something happened or a time is up."""

    def __init__(
        self,
        runtime: Runtime,
        job: TrainingJob,
        lease: Lease,
        folder: JobFolder,
        base_folder: Path,
        jobs: Callable[[], Mapping[str, TrainingJob]],
    ) -> None:
        self._runtime = runtime
        self._job = job
        self._lease = lease
        self._folder = folder
        self._base_folder = base_folder
        self._machine = RoundMachine(runtime.database, runtime.artifacts, runtime.presence, job, lease, jobs)
        self._fleet = GrpcFleet(runtime)
        self._due: dict[int, Float32Vector] = {}
        self._evaluation_due = asyncio.Event()

    def wake(self) -> None:
        """Something happened that the round may wait for."""
        self._fleet.wake()

    async def run(self) -> None:
        """Drive the job until it has ended.

        :raises FwdllmError: it cannot go on.
        """
        if not self._job.is_draft:
            await self._request_evaluation(self._job.state)
        rounds = asyncio.create_task(drive(self._machine, self._fleet, self._committed))
        evaluations = asyncio.create_task(self._evaluate_versions())
        stalls = asyncio.create_task(self._log_stalls())
        tasks = (rounds, evaluations, stalls)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _log_stalls(self) -> None:
        """Look now and then whether the job waits for what may never come."""
        log = StallLog(self._job.name)
        while True:
            await asyncio.sleep(STALLED_S / 3)
            log.tell(await self._runtime.commit(self._why_stalled, self._runtime.clock()))

    def _why_stalled(self, connection: Connection, now: float) -> str:
        record = jobs.get(connection, self._job.id)
        return why_stalled(connection, record, now) if record is not None else ""

    async def _committed(self, state: ModelState) -> None:
        _log.info("round committed" if state.version else "head initialised", job=self._job.name, version=state.version)
        await self._request_evaluation(state)

    async def _request_evaluation(self, state: ModelState) -> None:
        version = state.version
        if self._job.spec.rounds.evaluates(version) and version not in await self._runtime.in_store(self._evaluated):
            # Versions that found no time are left out, but never the first: "accuracy before" is its.
            self._due = {due: theta for due, theta in self._due.items() if due == 0}
            self._due[version] = state.theta
            self._evaluation_due.set()

    async def _evaluate_versions(self) -> None:
        evaluator: HeldOutEvaluator | None = None
        while True:
            await self._evaluation_due.wait()
            version = min(self._due)
            theta = self._due.pop(version)
            if not self._due:
                self._evaluation_due.clear()
            if evaluator is None:
                evaluator = await asyncio.to_thread(self._make_evaluator)
            record = await asyncio.to_thread(evaluator.evaluate, version, theta)
            failure = await self._runtime.in_store(self._save, record)
            _log.info("evaluated", job=self._job.name, version=version, accuracy=record.accuracy, loss=record.loss)
            if failure:
                raise JobFailedError(failure)
            self.wake()
            await self._runtime.notify()

    def _make_evaluator(self) -> HeldOutEvaluator:
        return HeldOutEvaluator(
            self._job.spec,
            self._base_folder,
            self._folder.bundle,
            self._job.manifest,
            self._runtime.home.jobs / self._job.id / "cache",
        )

    def _evaluated(self) -> frozenset[int]:
        with self._runtime.database.transaction() as connection:
            return frozenset(record.version for record in ledger.evaluations_of(connection, self._job.id))

    def _save(self, record: EvaluationRecord) -> str:
        """Returns why the job has failed, if the loss says so."""
        with self._runtime.database.transaction() as connection:
            leases.check(connection, self._lease)
            if diverged.absurd_loss(record):
                return diverged.note_loss(connection, self._job, record, self._runtime.clock())
            ledger.add_evaluation(connection, self._job.id, record)
        return ""
