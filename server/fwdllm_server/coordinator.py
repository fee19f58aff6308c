"""The coordinator's jobs: submitted, prepared, each driven by its own loop, stopped and resumed."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from uuid import uuid4

import structlog

from fwdllm_common.errors import BadInputError, FwdllmError, StorageError
from fwdllm_server.evaluation import check_held_out, held_out_texts
from fwdllm_server.export_process import export_in_process
from fwdllm_server.job import JobSpec
from fwdllm_server.job_loop import JobLoop
from fwdllm_server.prepare import JobFolder, PreparedModel, adopt, save_prepared
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.runtime import Runtime
from fwdllm_server.store import assignments, jobs, rounds
from fwdllm_server.store.jobs import JobRecord, JobState
from fwdllm_server.toml_model import parse_toml

_log = structlog.get_logger()

_STORE_RETRY_S = 5.0


class Coordinator:
    """Every job of one server; ``training`` holds those whose rounds are being driven."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.training: dict[str, TrainingJob] = {}
        self._loops: dict[str, JobLoop] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._commands = asyncio.Lock()  # an operator's stop or resume at a time

    async def start(self) -> None:
        """Go on with every job that was not finished."""
        records = await self.runtime.in_store(self._unfinished)
        for record in records:
            self._drive(record.id)
        # Devices that call while their job is being loaded would be sent away: be ready before they can.
        prepared = [record.id for record in records if record.manifest_sha256 is not None]
        while any(job_id not in self.training and not self._tasks[job_id].done() for job_id in prepared):
            await self.runtime.change(0.1)

    async def close(self) -> None:
        """Stop the loops; what is on disk is where the next start goes on."""
        for job_id in list(self._tasks):
            await self._cancel(job_id)

    async def submit(self, spec_toml: str, base_folder: Path) -> str:
        """Check a job file and begin to prepare its model; returns the job's id.

        :raises BadInputError: the job file or the held-out file is wrong.
        """
        spec = parse_toml(spec_toml, JobSpec, "job file")
        await asyncio.to_thread(check_held_out, spec, base_folder)
        job_id = uuid4().hex[:12]
        await self.runtime.in_store(self._add_job, job_id, spec, spec_toml, base_folder)
        self._drive(job_id)
        return job_id

    async def stop(self, record: JobRecord) -> None:
        """Stop a job where it is; what it has collected stays.

        :raises BadInputError: it has ended.
        """
        if record.state not in (JobState.PREPARING, JobState.RUNNING):
            raise BadInputError(f"job {record.name} is {record.state}; only a running job can be stopped")
        async with self._commands:
            await self._cancel(record.id)
            await self.runtime.in_store(self._set_stopped, record.id)
        await self.runtime.notify()

    async def resume(self, record: JobRecord) -> None:
        """Go on with a job where it was stopped or failed.

        :raises BadInputError: it runs or is done.
        """
        async with self._commands:
            await self.runtime.in_store(self._set_resumed, record.id)
            await self._cancel(record.id)  # what is left of the loop that failed
            self._drive(record.id)
        await self.runtime.notify()

    def wake(self, job_id: str | None = None) -> None:
        """Something happened that a round (of any job, if none is named) may wait for."""
        for known, loop in self._loops.items():
            if job_id in (None, known):
                loop.wake()

    def folder(self, job_id: str) -> JobFolder:
        """Where a job keeps its model."""
        return JobFolder(self.runtime.home.jobs / job_id)

    def _drive(self, job_id: str) -> None:
        self._tasks[job_id] = asyncio.create_task(self._run(job_id), name=f"job {job_id}")

    async def _cancel(self, job_id: str) -> None:
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, job_id: str) -> None:
        """A job from wherever it is to its end; where the store cannot be written, it waits until it can."""
        while True:
            try:
                await self._run_once(job_id)
            except StorageError as error:
                _log.warning(
                    "job waits for the store", job=job_id, code=error.code, reason=str(error), seconds=_STORE_RETRY_S
                )
                await asyncio.sleep(_STORE_RETRY_S)
            else:
                return

    async def _run_once(self, job_id: str) -> None:
        try:
            record = await self.runtime.in_store(self._job, job_id)
            if record.manifest_sha256 is None:
                await self._prepare(record)
            job = await self.runtime.in_store(self._load, job_id)
            loop = JobLoop(self.runtime, job, self.folder(job_id), Path(record.base_folder))
            self.training[job_id], self._loops[job_id] = job, loop
            await loop.run()
        except StorageError:
            raise
        except FwdllmError as error:
            _log.warning("job failed", job=job_id, code=error.code, reason=str(error))
            await self.runtime.in_store(self._set_state, job_id, JobState.FAILED, f"[{error.code}] {error}")
        except Exception:
            _log.exception("job failed", job=job_id)
            message = "an internal error, see the coordinator's log; resume the job to try again"
            await self.runtime.in_store(self._set_state, job_id, JobState.FAILED, message)
        finally:
            self.training.pop(job_id, None)
            self._loops.pop(job_id, None)
            await self.runtime.notify()

    async def _prepare(self, record: JobRecord) -> None:
        spec = parse_toml(record.spec_toml, JobSpec, record.name)
        folder = self.folder(record.id)
        source = spec.model.resolved_source(Path(record.base_folder))
        _log.info("preparing the model", job=record.name, source=source)
        texts = await asyncio.to_thread(held_out_texts, spec, Path(record.base_folder))
        await export_in_process(spec, source, folder, texts)
        prepared = await asyncio.to_thread(adopt, spec, folder, self.runtime.artifacts)
        await self.runtime.in_store(self._save_prepared, record.id, prepared)
        _log.info(
            "model exported" if prepared.draft else "model ready",
            job=record.name,
            trainable_parameters=prepared.state.layout.size,
        )

    def _unfinished(self) -> list[JobRecord]:
        with self.runtime.database.transaction() as connection:
            return list(jobs.in_state(connection, JobState.PREPARING, JobState.RUNNING))

    def _job(self, job_id: str) -> JobRecord:
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, job_id)
        assert record is not None
        return record

    def _add_job(self, job_id: str, spec: JobSpec, spec_toml: str, base_folder: Path) -> None:
        now = self.runtime.clock()
        with self.runtime.database.transaction() as connection:
            jobs.add(connection, job_id, spec.job.name, spec_toml, str(base_folder), spec.rounds.count, now)

    def _set_state(self, job_id: str, state: JobState, message: str) -> None:
        with self.runtime.database.transaction() as connection:
            jobs.set_state(connection, job_id, state, message, self.runtime.clock())

    def _set_stopped(self, job_id: str) -> None:
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, job_id)
            # A step that was under way when the loop was cancelled may have ended the job.
            if record is not None and record.state in (JobState.PREPARING, JobState.RUNNING):
                jobs.set_state(connection, job_id, JobState.STOPPED, "stopped by an operator", self.runtime.clock())

    def _set_resumed(self, job_id: str) -> None:
        """The job runs again; its round and assignments get back the time in which it stood still."""
        now = self.runtime.clock()
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, job_id)
            assert record is not None
            # Asked here and not of what was read before: another operator may have been faster.
            if record.state not in (JobState.STOPPED, JobState.FAILED):
                raise BadInputError(f"job {record.name} is {record.state}; only a stopped or failed job can be resumed")
            state = JobState.PREPARING if record.header is None else JobState.RUNNING
            jobs.set_state(connection, job_id, state, "", now)
            current = rounds.latest(connection, job_id)
            if current is None:
                return
            pause = now - (record.ended_at or now)
            rounds.enter(connection, current, current.phase, current.phase_since + pause, current.reason)
            for work in assignments.of_round(connection, job_id, current.number):
                assignments.prolong(connection, work.id, work.expires_at + pause)

    def _save_prepared(self, job_id: str, prepared: PreparedModel) -> None:
        with self.runtime.database.transaction() as connection:
            save_prepared(connection, self.runtime.artifacts, job_id, prepared)

    def _load(self, job_id: str) -> TrainingJob:
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, job_id)
            assert record is not None
            return TrainingJob.load(connection, self.runtime.artifacts, record)
