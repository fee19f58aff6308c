"""The loop of one job: it drives the rounds and evaluates versions at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from sqlalchemy import Connection

from fwdllm_common.errors import JobFailedError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.replay import ModelState
from fwdllm_server.coordinator.first_ended import first_ended
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
from fwdllm_server.tasks import task_named
from fwdllm_server.tracking.tracking import FOLDER, Tracking

_log = structlog.get_logger()


class JobLoop:
    """The loop that advances the round machine at every event and deadline."""

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
        """Wake the round: an event that it may wait for has happened."""
        self._fleet.wake()

    async def run(self) -> None:
        """Drive the job until it has ended.

        :raises FwdllmError: the job cannot continue.
        """
        if not self._job.head_uninitialised:
            await self._request_evaluation(self._job.state)
        rounds = drive(self._machine, self._fleet, self._committed)
        await first_ended(rounds, self._evaluate_versions(), self._log_stalls())

    async def _log_stalls(self) -> None:
        """Log when the job is stalled."""
        log = StallLog(self._job.name)
        while True:
            await asyncio.sleep(STALLED_S / 3)
            log.update(await self._runtime.commit(self._why_stalled, self._runtime.clock()))

    def _why_stalled(self, connection: Connection, now: float) -> str:
        record = jobs.get(connection, self._job.id)
        return why_stalled(connection, record, now) if record is not None else ""

    async def _committed(self, state: ModelState) -> None:
        _log.info("round committed" if state.version else "head initialised", job=self._job.name, version=state.version)
        await self._request_evaluation(state)

    async def _request_evaluation(self, state: ModelState) -> None:
        version = state.version
        if self._job.spec.rounds.evaluates(version) and version not in await self._evaluated():
            # A version whose turn has not come is skipped, except the first: it is the accuracy before training.
            self._due = {due: theta for due, theta in self._due.items() if due == 0}
            self._due[version] = state.theta
            self._evaluation_due.set()

    async def _evaluate_versions(self) -> None:
        evaluator: HeldOutEvaluator | None = None
        folder = self._runtime.home.folder / FOLDER / f"{self._job.name}-{self._job.id}"
        tracking = Tracking(self._job.spec.tracking, folder, task_named(self._job.spec.model.task).metrics[0])
        try:
            while True:
                await self._evaluation_due.wait()
                version = min(self._due)
                theta = self._due.pop(version)
                if not self._due:
                    self._evaluation_due.clear()
                if evaluator is None:
                    evaluator = await asyncio.to_thread(self._make_evaluator)
                record = await asyncio.to_thread(evaluator.evaluate, version, theta)
                failure = await self._runtime.transact(self._save, record, self._runtime.clock())
                _log.info("evaluated", job=self._job.name, version=version, accuracy=record.accuracy, loss=record.loss)
                await asyncio.to_thread(tracking.evaluated, record)
                if failure:
                    raise JobFailedError(failure)
                self.wake()
                await self._runtime.notify()
        finally:
            await asyncio.to_thread(tracking.close)

    def _make_evaluator(self) -> HeldOutEvaluator:
        return HeldOutEvaluator(
            self._job.spec,
            self._base_folder,
            self._folder.bundle,
            self._job.manifest,
            self._runtime.home.jobs / self._job.id / "cache",
        )

    async def _evaluated(self) -> frozenset[int]:
        found = await self._runtime.transact(ledger.evaluations_of, self._job.id)
        return frozenset(record.version for record in found)

    def _save(self, connection: Connection, record: EvaluationRecord, now: float) -> str:
        """Store an evaluation; if its loss shows that the job has diverged, fail the job instead and return why."""
        leases.check(connection, self._lease)
        if diverged.absurd_loss(record):
            return diverged.note_loss(connection, self._job, record, now)
        ledger.add_evaluation(connection, self._job.id, record)
        return ""
