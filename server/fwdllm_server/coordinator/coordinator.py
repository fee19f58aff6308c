"""The coordinator's jobs: submitted, prepared, each driven by its own loop, stopped and resumed.

Where several coordinators share a database, each job is driven by the one that holds its lease, and the others follow:
they replay its ledger, to serve its devices and to go on with it when the driver is heard of no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from uuid import uuid4

import structlog

from fwdllm_common.errors import BadInputError, FwdllmError, StorageError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.coordinator.first_ended import first_ended
from fwdllm_server.coordinator.grpc_fleet import POLL_S
from fwdllm_server.coordinator.job_loop import JobLoop
from fwdllm_server.coordinator.lease_keeper import LeaseKeeper
from fwdllm_server.coordinator.peers import Peers
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.model.source import check_source
from fwdllm_server.preparation.adoption import PreparedModel, adopt, save_prepared
from fwdllm_server.preparation.evaluation import check_held_out, held_out_texts
from fwdllm_server.preparation.export_process import export_in_process
from fwdllm_server.preparation.job_files import JobFiles
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.rounds.failover import resume_after_failover
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import jobs, leases, ledger, locks
from fwdllm_server.store.artifacts import is_whole
from fwdllm_server.store.jobs import JobRecord, JobState
from fwdllm_server.store.leases import Lease, LeaseLostError

_log = structlog.get_logger()

LEAST_ROOM = 1000
_STORE_RETRY_S = 5.0
_DOUBT_S = 60.0


class Coordinator:
    """Every job of one server; ``training`` holds those that run, whoever drives their rounds."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.peers = Peers(runtime)
        self.training: dict[str, TrainingJob] = {}
        self._loops: dict[str, JobLoop] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._doubts: dict[str, asyncio.Event] = {}
        self._believed_until: dict[str, float] = {}
        self._checking = asyncio.Lock()
        self._commands = asyncio.Lock()  # an operator's stop or resume at a time
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go on with every job that was not finished."""
        records = await self._look()
        if self.runtime.database.shared:
            self._watch = asyncio.create_task(self._look_on(), name="other coordinators")
        # Devices that call while their job is being loaded would be sent away: be ready before they can.
        prepared = [record.id for record in records if record.manifest_sha256 is not None]
        # A job that has ended meanwhile, such as one whose files are damaged, has no task any more.
        while any(job_id not in self.training and job_id in self._tasks for job_id in prepared):
            await self.runtime.change(0.1)

    async def close(self) -> None:
        """Stop the loops; what is on disk is where the next start goes on."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for job_id in list(self._tasks):
            await self._cancel(job_id)

    async def submit(self, spec_toml: str, base_folder: Path) -> str:
        """Check a job file and begin to prepare its model; returns the job's id.

        :raises BadInputError: the job file or the held-out file is wrong, there is no such model, or an unfinished job
            has the same name.
        """
        spec = parse_toml(spec_toml, JobSpec, "job file")
        await asyncio.to_thread(check_held_out, spec, base_folder)
        await asyncio.to_thread(check_source, spec.model.resolved_source(base_folder))
        job_id = uuid4().hex[:12]
        await self.runtime.in_store(self._add_job, job_id, spec, spec_toml, base_folder)
        self._attend(job_id)
        return job_id

    async def stop(self, record: JobRecord) -> None:
        """Stop a job where it is; what it has collected stays.

        :raises BadInputError: it has ended.
        """
        if record.state not in jobs.UNFINISHED:
            raise BadInputError(f"job {record.name} is {record.state}; only a running job can be stopped")
        async with self._commands:
            await self._cancel(record.id)
            await self.runtime.in_store(self._set_stopped, record.id)
        await self.runtime.notify()

    async def pause(self, record: JobRecord) -> None:
        """Let a job end its round and begin no other.

        :raises BadInputError: it has ended.
        """
        if record.state not in jobs.UNFINISHED:
            raise BadInputError(f"job {record.name} is {record.state}; only a running job can be paused")
        await self.runtime.commit(jobs.set_paused, record.id, True)
        self.wake(record.id)
        await self.runtime.notify()

    async def set_priority(self, record: JobRecord, priority: int) -> None:
        """Put a job before those of lower priority, from its next round on."""
        await self.runtime.commit(jobs.set_priority, record.id, priority)
        self.wake()
        await self.runtime.notify()

    async def resume(self, record: JobRecord) -> None:
        """Go on with a job where it was paused or stopped, or failed.

        :raises BadInputError: it runs or is done.
        """
        async with self._commands:
            if record.paused and record.state in jobs.UNFINISHED:
                await self.runtime.commit(jobs.set_paused, record.id, False)
                self.wake(record.id)
            else:
                await self.runtime.in_store(self._set_resumed, record.id)
                await self._cancel(record.id)  # what is left of the loop that failed
                self._attend(record.id)
        await self.runtime.notify()

    async def can_serve(self, sha256: str, jobs: Collection[str], *, doubted: bool) -> bool:
        """Whether an artifact of running jobs is there, and whole if a device has ``doubted`` it; else it is restored.

        However many devices doubt it, it is read once in :data:`_DOUBT_S`.
        """
        path = self.runtime.artifacts.path(sha256)
        served = path.is_file()
        if served and doubted:
            async with self._checking:
                if time.monotonic() >= self._believed_until.get(sha256, 0.0):
                    served = await asyncio.to_thread(is_whole, path, sha256)
                    self._believed_until[sha256] = time.monotonic() + _DOUBT_S if served else 0.0
        if not served:
            for job_id in jobs:
                if doubt := self._doubts.get(job_id):
                    doubt.set()
        return served

    @property
    def room(self) -> int:
        """How many devices may wait for a round at a time: a few to choose from."""
        return max(LEAST_ROOM, 2 * sum(job.spec.rounds.max_devices for job in list(self.training.values())))

    def wake(self, job_id: str | None = None) -> None:
        """Something happened that a round (of any job, if none is named) may wait for."""
        for known, loop in self._loops.items():
            if job_id in (None, known):
                loop.wake()

    def folder(self, job_id: str) -> JobFolder:
        """Where a job keeps its model."""
        return JobFolder(self.runtime.jobs_folder / job_id)

    async def _look(self) -> Sequence[JobRecord]:
        """Attend to the jobs that are not finished, and return them."""
        records = await self.runtime.in_store(self._unfinished)
        for record in records:
            if record.id not in self._tasks:
                self._attend(record.id)
        return records

    async def _look_on(self) -> None:
        """See what other coordinators have done."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._look()
                await self.runtime.commit(self.peers.hear, self.room)
            except StorageError as error:
                _log.warning("other coordinators are not heard", code=error.code, reason=str(error))
                continue
            self.wake()
            await self.runtime.notify()

    def _attend(self, job_id: str) -> None:
        self._tasks[job_id] = asyncio.create_task(self._run(job_id), name=f"job {job_id}")

    async def _cancel(self, job_id: str) -> None:
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, job_id: str) -> None:
        """A job from wherever it is to its end; where the store cannot be written, it waits until it can."""
        try:
            while await self._run_once(job_id):
                await asyncio.sleep(POLL_S)
        finally:
            if self._tasks.get(job_id) is asyncio.current_task():
                del self._tasks[job_id]
            self.training.pop(job_id, None)
            await self.runtime.notify()

    async def _run_once(self, job_id: str) -> bool:
        """Drive a job, or follow whoever does; returns whether it goes on."""
        try:
            lease = await self.runtime.in_store(self._take_lease, job_id)
            if lease is None:
                return await self._follow(job_id)
            await self._hold(lease)
        except LeaseLostError as error:
            _log.info("job is not driven here any more", job=job_id, reason=str(error))
        except StorageError as error:
            _log.warning(
                "job waits for the store", job=job_id, code=error.code, reason=str(error), seconds=_STORE_RETRY_S
            )
            await asyncio.sleep(_STORE_RETRY_S)
        except Exception:  # of a job that another coordinator drives, and fails if it cannot go on
            _log.exception("job cannot be followed", job=job_id, seconds=_STORE_RETRY_S)
            await asyncio.sleep(_STORE_RETRY_S)
        else:
            return False
        return True

    async def _hold(self, lease: Lease) -> None:
        """Drive a job to its end while its lease is renewed.

        :raises LeaseLostError: another has taken it, or an operator has stopped the job elsewhere.
        """
        keeper = LeaseKeeper(self.runtime.database, lease, self.runtime.config.store.lease_s)
        beside = [keeper.renew()] if self.runtime.database.shared else []
        try:
            await first_ended(self._drive(lease), *beside)
        finally:
            await keeper.release()

    async def _follow(self, job_id: str) -> bool:
        """Keep up with a job that another coordinator drives; returns whether it goes on."""
        record, job = await self.runtime.in_store(self._catch_up, job_id, self.training.get(job_id))
        if job is not None:
            self.training[job_id] = job
        return record.state in jobs.UNFINISHED

    async def _drive(self, lease: Lease) -> None:
        job_id = lease.job_id
        try:
            record = await self.runtime.in_store(self._job, job_id)
            if record.manifest_sha256 is None:
                await self._prepare(record, lease)
            files = await self.runtime.in_store(self._files, job_id)
            await files.make_whole(Path(record.base_folder))
            job = await self.runtime.in_store(self._take_over, lease)
            folder, base_folder = self.folder(job_id), Path(record.base_folder)
            loop = JobLoop(self.runtime, job, lease, folder, base_folder, lambda: dict(self.training))
            self.training[job_id], self._loops[job_id] = job, loop
            self._doubts[job_id] = asyncio.Event()
            await first_ended(loop.run(), self._keep_whole(files, Path(record.base_folder), self._doubts[job_id]))
        except (StorageError, LeaseLostError):
            raise
        except FwdllmError as error:
            _log.warning("job failed", job=job_id, code=error.code, reason=str(error))
            await self.runtime.in_store(self._set_failed, lease, f"[{error.code}] {error}")
        except Exception:
            _log.exception("job failed", job=job_id)
            message = "an internal error, see the coordinator's log; resume the job to try again"
            await self.runtime.in_store(self._set_failed, lease, message)
        finally:
            self._loops.pop(job_id, None)
            self._doubts.pop(job_id, None)

    async def _keep_whole(self, files: JobFiles, base_folder: Path, doubt: asyncio.Event) -> None:
        """Restore the files of a running job whenever one is found missing or damaged.

        :raises IntegrityError: that is not possible.
        """
        while True:
            await doubt.wait()
            await files.make_whole(base_folder)
            doubt.clear()

    async def _prepare(self, record: JobRecord, lease: Lease) -> None:
        spec = record.spec()
        folder = self.folder(record.id)
        source = spec.model.resolved_source(Path(record.base_folder))
        _log.info("preparing the model", job=record.name, source=source)
        texts = await asyncio.to_thread(held_out_texts, spec, Path(record.base_folder))

        async def told(step: str) -> None:
            await self.runtime.in_store(self._set_message, lease, step)
            await self.runtime.notify()

        await export_in_process(spec, source, folder, texts, told)
        prepared = await asyncio.to_thread(adopt, spec, folder, self.runtime.artifacts)
        await self.runtime.in_store(self._save_prepared, lease, prepared)
        _log.info(
            "model exported" if prepared.draft else "model ready",
            job=record.name,
            trainable_parameters=prepared.state.layout.size,
        )

    def _files(self, job_id: str) -> JobFiles:
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, job_id)
            found = ledger.snapshots_of(connection, job_id)
        assert record is not None
        assert record.manifest_sha256 is not None
        first = found[-1][1] if found else record.draft_sha256
        folder, first_version = self.folder(job_id), first or ""
        return JobFiles(self.runtime.artifacts, folder, record.spec(), record.manifest_sha256, first_version)

    def _unfinished(self) -> list[JobRecord]:
        with self.runtime.database.transaction() as connection:
            return list(jobs.in_state(connection, *jobs.UNFINISHED))

    def _take_lease(self, job_id: str) -> Lease | None:
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, job_id)
            if record is None or record.state not in jobs.UNFINISHED:
                return None
            return leases.take(connection, job_id, self.runtime.name, self.runtime.config.store.lease_s)

    def _catch_up(self, job_id: str, job: TrainingJob | None) -> tuple[JobRecord, TrainingJob | None]:
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, job_id)
            assert record is not None
            if record.state not in jobs.UNFINISHED or record.manifest_sha256 is None:
                return record, job
            if job is None or job.is_draft != (record.header is None):
                job = TrainingJob.load(connection, self.runtime.artifacts, record)
            entries = job.news(connection)
        job.replay(entries)  # it may take a while, and a transaction that idles is ended
        return record, job

    def _job(self, job_id: str) -> JobRecord:
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, job_id)
        assert record is not None
        return record

    def _add_job(self, job_id: str, spec: JobSpec, spec_toml: str, base_folder: Path) -> None:
        now = self.runtime.clock()
        with self.runtime.database.transaction() as connection:
            name = spec.job.name
            for same in jobs.unfinished_of_name(connection, name):
                raise BadInputError(
                    f"job {name} is {same.state} already ({same.id}); give this one another [job] name, "
                    f"or stop that one first with 'fwdllm-server job stop {same.id}'"
                )
            jobs.add(connection, job_id, spec, spec_toml, base_folder, now)
            # Others may not find the files that the job begins with.
            leases.take(connection, job_id, self.runtime.name, self.runtime.config.store.lease_s)

    def _set_failed(self, lease: Lease, message: str) -> None:
        with self.runtime.database.transaction() as connection:
            leases.check(connection, lease)
            locks.move_rounds(connection, lease.job_id)
            jobs.set_state(connection, lease.job_id, JobState.FAILED, message, self.runtime.clock())

    def _set_message(self, lease: Lease, message: str) -> None:
        with self.runtime.database.transaction() as connection:
            leases.check(connection, lease)
            jobs.set_message(connection, lease.job_id, message)

    def _set_stopped(self, job_id: str) -> None:
        with self.runtime.database.transaction() as connection:
            locks.move_rounds(connection, job_id)
            record = jobs.get(connection, job_id)
            # A step that was under way when the loop was cancelled may have ended the job.
            if record is not None and record.state in jobs.UNFINISHED:
                jobs.set_state(connection, job_id, JobState.STOPPED, "stopped by an operator", self.runtime.clock())

    def _set_resumed(self, job_id: str) -> None:
        """The job runs again, from where it was."""
        now = self.runtime.clock()
        with self.runtime.database.transaction() as connection:
            locks.move_rounds(connection, job_id)
            record = jobs.get(connection, job_id)
            assert record is not None
            # Asked here and not of what was read before: another operator may have been faster.
            if record.state not in (JobState.STOPPED, JobState.FAILED):
                raise BadInputError(f"job {record.name} is {record.state}; only a stopped or failed job can be resumed")
            jobs.set_paused(connection, job_id, False)
            state = JobState.PREPARING if record.header is None else JobState.RUNNING
            jobs.set_state(connection, job_id, state, "", now)

    def _save_prepared(self, lease: Lease, prepared: PreparedModel) -> None:
        with self.runtime.database.transaction() as connection:
            leases.check(connection, lease)
            save_prepared(connection, self.runtime.artifacts, lease.job_id, prepared)

    def _take_over(self, lease: Lease) -> TrainingJob:
        with self.runtime.database.transaction() as connection:
            record = jobs.get(connection, lease.job_id)
            assert record is not None
            job = TrainingJob.load(connection, self.runtime.artifacts, record)
            # Only now: a replay takes a while, and whoever reports elsewhere would wait for it.
            leases.check(connection, lease)
            locks.move_rounds(connection, lease.job_id)
            resume_after_failover(connection, job, self.runtime.clock())
            return job
