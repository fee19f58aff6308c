"""The coordinator's jobs: submitted, prepared, each driven by its own loop, stopped and resumed.

Where several coordinators share a database, the one that holds a job's lease drives the job. The others follow: they
replay its ledger to serve its devices, and to continue the job when its lease expires.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from uuid import uuid4

import structlog
from sqlalchemy import Connection

from fwdllm_common.errors import BadInputError, FwdllmError, StorageError
from fwdllm_server.algorithm.accountant import check_accountant
from fwdllm_server.config.job import JobSpec
from fwdllm_server.coordinator.first_ended import first_ended
from fwdllm_server.coordinator.grpc_fleet import POLL_S
from fwdllm_server.coordinator.job_loop import JobLoop
from fwdllm_server.coordinator.lease_keeper import LeaseKeeper
from fwdllm_server.coordinator.peers import Peers
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.model.source import check_source
from fwdllm_server.preparation.adoption import PreparedModel, adopt, save_prepared
from fwdllm_server.preparation.evaluation import check_held_out, held_out_source, held_out_texts
from fwdllm_server.preparation.export_process import export_in_process
from fwdllm_server.preparation.job_file import read_job
from fwdllm_server.preparation.job_files import JobFiles
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.rounds.ended import end_aggregation
from fwdllm_server.rounds.failover import resume_after_failover
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import jobs, leases, ledger, locks
from fwdllm_server.store.artifacts import is_whole
from fwdllm_server.store.jobs import JobRecord, JobState
from fwdllm_server.store.leases import Lease, LeaseLostError
from fwdllm_server.tracking.tracking import check_trackers

_log = structlog.get_logger()

LEAST_ROOM = 1000
_STORE_RETRY_S = 5.0
_DOUBT_S = 60.0


class Coordinator:
    """All jobs of one server; ``training`` holds those that run, whichever coordinator drives them."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.peers = Peers(runtime)
        self.training: dict[str, TrainingJob] = {}
        self._loops: dict[str, JobLoop] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._doubts: dict[str, asyncio.Event] = {}
        self._checked_until: dict[str, float] = {}
        self._checking = asyncio.Lock()
        self._commands = asyncio.Lock()  # an operator's stop or resume at a time
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Continue every unfinished job."""
        records = await self._start_unfinished()
        if self.runtime.database.shared:
            self._watch = asyncio.create_task(self._poll(), name="other coordinators")
        # A device that calls while its job is being loaded would be refused: load the jobs before serving.
        prepared = [record.id for record in records if record.manifest_sha256 is not None]
        # A job that has ended meanwhile, for example because its files are damaged, has no task any more.
        while any(job_id not in self.training and job_id in self._tasks for job_id in prepared):
            await self.runtime.change(0.1)

    async def close(self) -> None:
        """Stop the loops; the next start continues from the state on disk."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for job_id in list(self._tasks):
            await self._cancel(job_id)

    async def submit(self, spec_toml: str, base_folder: Path) -> str:
        """Check a job file, store the job, begin to prepare its model, and return its id.

        :raises BadInputError: the job file or the held-out file is wrong, there is no such model, or an unfinished job
            has the same name.
        """
        spec = await asyncio.to_thread(read_job, spec_toml, base_folder)
        check_trackers(spec.tracking)
        check_accountant(spec.privacy)
        await asyncio.to_thread(check_held_out, spec, base_folder)
        await asyncio.to_thread(check_source, spec.model.resolved_source(base_folder))
        job_id = uuid4().hex[:12]
        await self.runtime.transact(self._add_job, job_id, spec, spec_toml, base_folder)
        self._start_task(job_id)
        return job_id

    async def stop(self, record: JobRecord) -> None:
        """Stop a job at once; the scalars that it has collected are kept.

        :raises BadInputError: the job has ended.
        """
        if record.state not in jobs.UNFINISHED:
            raise BadInputError(f"job {record.name} is {record.state}; only a running job can be stopped")
        async with self._commands:
            await self._cancel(record.id)
            await self.runtime.transact(_set_stopped, record.id, self.runtime.clock())
        await self.runtime.notify()

    async def pause(self, record: JobRecord) -> None:
        """Pause a job at the end of its current round.

        :raises BadInputError: the job has ended.
        """
        if record.state not in jobs.UNFINISHED:
            raise BadInputError(f"job {record.name} is {record.state}; only a running job can be paused")
        await self.runtime.commit(jobs.paused, record.id)
        self.wake(record.id)
        await self.runtime.notify()

    async def set_priority(self, record: JobRecord, priority: int) -> None:
        """Set a job's priority: from its next round on it gets devices before jobs of lower priority."""
        await self.runtime.commit(jobs.set_priority, record.id, priority)
        self.wake()
        await self.runtime.notify()

    async def resume(self, record: JobRecord) -> None:
        """Continue a job that was paused or stopped, or that failed, from where it was.

        :raises BadInputError: the job runs or is done.
        """
        async with self._commands:
            if record.paused and record.state in jobs.UNFINISHED:
                await self.runtime.commit(jobs.resumed, record.id, self.runtime.clock())
                self.wake(record.id)
            else:
                await self.runtime.transact(_set_resumed, record.id, self.runtime.clock())
                await self._cancel(record.id)  # the rest of a loop that failed
                self._start_task(record.id)
        await self.runtime.notify()

    async def extend(self, record: JobRecord, rounds: int) -> None:
        """Give a job that has ended more rounds, and continue it.

        :raises BadInputError: the job has not ended, has no model, or would have too many rounds.
        """
        async with self._commands:
            await self.runtime.transact(set_extended, record.id, rounds, self.runtime.clock())
            await self._cancel(record.id)
            self._start_task(record.id)
        await self.runtime.notify()

    async def can_serve(self, sha256: str, jobs: Collection[str], *, doubted: bool) -> bool:
        """Return whether an artifact of running jobs can be served; if not, begin to restore it.

        It can be served if its file exists and, where a device has ``doubted`` it, has the right SHA-256. However many
        devices doubt it, the file is read at most once in :data:`_DOUBT_S` seconds.
        """
        path = self.runtime.artifacts.path(sha256)
        served = path.is_file()
        if served and doubted:
            async with self._checking:
                if time.monotonic() >= self._checked_until.get(sha256, 0.0):
                    served = await asyncio.to_thread(is_whole, path, sha256)
                    self._checked_until[sha256] = time.monotonic() + _DOUBT_S if served else 0.0
        if not served:
            for job_id in jobs:
                if doubt := self._doubts.get(job_id):
                    doubt.set()
        return served

    @property
    def room(self) -> int:
        """The number of devices that may wait for a round at a time: twice as many as the jobs take, to choose from."""
        return max(LEAST_ROOM, 2 * sum(job.spec.rounds.max_devices for job in list(self.training.values())))

    def wake(self, job_id: str | None = None) -> None:
        """Wake the round of a job, or of every job: an event that it may wait for has happened."""
        for known, loop in self._loops.items():
            if job_id in (None, known):
                loop.wake()

    def folder(self, job_id: str) -> JobFolder:
        """Return the folder of a job's model."""
        return JobFolder(self.runtime.jobs_folder / job_id)

    async def _start_unfinished(self) -> Sequence[JobRecord]:
        """Start a task for each unfinished job that has none, and return the unfinished jobs."""
        records = await self.runtime.transact(jobs.in_state, *jobs.UNFINISHED)
        for record in records:
            if record.id not in self._tasks:
                self._start_task(record.id)
        return records

    async def _poll(self) -> None:
        """Poll what other coordinators have written, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._start_unfinished()
                await self.runtime.commit(self.peers.poll, self.room)
            except StorageError as error:
                _log.warning("other coordinators cannot be polled", code=error.code, reason=str(error))
                continue
            self.wake()
            await self.runtime.notify()

    def _start_task(self, job_id: str) -> None:
        self._tasks[job_id] = asyncio.create_task(self._run(job_id), name=f"job {job_id}")

    async def _cancel(self, job_id: str) -> None:
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, job_id: str) -> None:
        """Run a job from its stored state to its end; while the store cannot be written, wait."""
        try:
            while await self._run_once(job_id):
                await asyncio.sleep(POLL_S)
        finally:
            if self._tasks.get(job_id) is asyncio.current_task():
                del self._tasks[job_id]
            self.training.pop(job_id, None)
            await self.runtime.notify()

    async def _run_once(self, job_id: str) -> bool:
        """Drive a job, or follow the coordinator that does; return whether the job continues."""
        try:
            lease = await self.runtime.transact(self._take_lease, job_id)
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
        except Exception:  # while following: the coordinator that drives the job fails it if it cannot continue
            _log.exception("job cannot be followed", job=job_id, seconds=_STORE_RETRY_S)
            await asyncio.sleep(_STORE_RETRY_S)
        else:
            return False
        return True

    async def _hold(self, lease: Lease) -> None:
        """Drive a job to its end and renew its lease meanwhile.

        :raises LeaseLostError: another coordinator has taken the lease, or an operator has stopped the job there.
        """
        keeper = LeaseKeeper(self.runtime.database, lease, self.runtime.config.store.lease_s)
        beside = [keeper.renew()] if self.runtime.database.shared else []
        try:
            await first_ended(self._drive(lease), *beside)
        finally:
            await keeper.release()

    async def _follow(self, job_id: str) -> bool:
        """Replay the news of a job that another coordinator drives; return whether the job continues."""
        record, job = await self.runtime.in_store(self._catch_up, job_id, self.training.get(job_id))
        if job is not None:
            self.training[job_id] = job
        return record.state in jobs.UNFINISHED

    async def _drive(self, lease: Lease) -> None:
        job_id = lease.job_id
        try:
            record = await self.runtime.transact(jobs.required, job_id)
            if record.manifest_sha256 is None:
                await self._prepare(record, lease)
            files = await self.runtime.transact(self._files, job_id)
            await files.make_whole(Path(record.base_folder))
            job = await self.runtime.transact(self._take_over, lease)
            folder, base_folder = self.folder(job_id), Path(record.base_folder)
            loop = JobLoop(self.runtime, job, lease, folder, base_folder, lambda: dict(self.training))
            self.training[job_id], self._loops[job_id] = job, loop
            self._doubts[job_id] = asyncio.Event()
            await first_ended(loop.run(), self._keep_whole(files, Path(record.base_folder), self._doubts[job_id]))
        except (StorageError, LeaseLostError):
            raise
        except FwdllmError as error:
            _log.warning("job failed", job=job_id, code=error.code, reason=str(error))
            await self.runtime.transact(_set_failed, lease, f"[{error.code}] {error}", self.runtime.clock())
        except Exception:
            _log.exception("job failed", job=job_id)
            message = "an internal error, see the coordinator's log; resume the job to try again"
            await self.runtime.transact(_set_failed, lease, message, self.runtime.clock())
        finally:
            self._loops.pop(job_id, None)
            self._doubts.pop(job_id, None)

    async def _keep_whole(self, files: JobFiles, base_folder: Path, doubt: asyncio.Event) -> None:
        """Restore the files of a running job whenever one is found missing or damaged.

        :raises IntegrityError: they cannot be restored.
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
        base_folder = Path(record.base_folder)
        texts = await asyncio.to_thread(held_out_texts, spec, base_folder)

        async def report_step(step: str) -> None:
            await self.runtime.transact(_set_message, lease, step)
            await self.runtime.notify()

        await export_in_process(spec, source, folder, texts, held_out_source(spec, base_folder), report_step)
        prepared = await asyncio.to_thread(adopt, spec, folder, self.runtime.artifacts)
        await self.runtime.transact(self._save_prepared, lease, prepared)
        _log.info(
            "model exported" if prepared.head_uninitialised else "model ready",
            job=record.name,
            trainable_parameters=prepared.state.layout.size,
        )

    def _files(self, connection: Connection, job_id: str) -> JobFiles:
        record = jobs.required(connection, job_id)
        assert record.manifest_sha256 is not None
        found = ledger.snapshots_of(connection, job_id)
        first_version = found[-1][1] if found else record.headless_sha256 or ""
        folder = self.folder(job_id)
        return JobFiles(self.runtime.artifacts, folder, record.spec(), record.manifest_sha256, first_version)

    def _take_lease(self, connection: Connection, job_id: str) -> Lease | None:
        record = jobs.get(connection, job_id)
        if record is None or record.state not in jobs.UNFINISHED:
            return None
        return leases.take(connection, job_id, self.runtime.name, self.runtime.config.store.lease_s)

    def _catch_up(self, job_id: str, job: TrainingJob | None) -> tuple[JobRecord, TrainingJob | None]:
        with self.runtime.database.transaction() as connection:
            record = jobs.required(connection, job_id)
            if record.state not in jobs.UNFINISHED or record.manifest_sha256 is None:
                return record, job
            if job is None or job.head_uninitialised != (record.header is None):
                job = TrainingJob.load(connection, self.runtime.artifacts, record)
            entries = job.news(connection)
        job.replay(entries)  # after the transaction: a replay takes a while, and a transaction that idles is ended
        return record, job

    def _add_job(self, connection: Connection, job_id: str, spec: JobSpec, spec_toml: str, base_folder: Path) -> None:
        name = spec.job.name
        for same in jobs.unfinished_of_name(connection, name):
            raise BadInputError(
                f"job {name} is {same.state} already ({same.id}); give this one another [job] name, "
                f"or stop that one first with 'fwdllm-server job stop {same.id}'"
            )
        jobs.add(connection, job_id, spec, spec_toml, base_folder, self.runtime.clock())
        # Other coordinators may not find the files that the job's preparation reads.
        leases.take(connection, job_id, self.runtime.name, self.runtime.config.store.lease_s)

    def _save_prepared(self, connection: Connection, lease: Lease, prepared: PreparedModel) -> None:
        leases.check(connection, lease)
        save_prepared(connection, self.runtime.artifacts, lease.job_id, prepared)

    def _take_over(self, connection: Connection, lease: Lease) -> TrainingJob:
        record = jobs.required(connection, lease.job_id)
        job = TrainingJob.load(connection, self.runtime.artifacts, record)
        # Locked only after the replay, which takes a while: reports to other coordinators would wait for the lock.
        leases.check(connection, lease)
        locks.move_rounds(connection, lease.job_id)
        resume_after_failover(connection, job, self.runtime.clock())
        return job


def _set_failed(connection: Connection, lease: Lease, message: str, now: float) -> None:
    leases.check(connection, lease)
    locks.move_rounds(connection, lease.job_id)
    end_aggregation(connection, lease.job_id)
    jobs.set_state(connection, lease.job_id, JobState.FAILED, message, now)


def _set_message(connection: Connection, lease: Lease, message: str) -> None:
    leases.check(connection, lease)
    jobs.set_message(connection, lease.job_id, message)


def _set_stopped(connection: Connection, job_id: str, now: float) -> None:
    locks.move_rounds(connection, job_id)
    # A step that was under way when the loop was cancelled may have ended the job.
    if jobs.required(connection, job_id).state in jobs.UNFINISHED:
        end_aggregation(connection, job_id)
        jobs.set_state(connection, job_id, JobState.STOPPED, "stopped by an operator", now)


def set_extended(connection: Connection, job_id: str, rounds: int, now: float) -> None:
    """Give a job that has ended more rounds, and set it running.

    :raises BadInputError: the job has not ended, has no model, or would have too many rounds.
    """
    locks.move_rounds(connection, job_id)
    record = jobs.required(connection, job_id)
    if record.state in jobs.UNFINISHED:
        raise BadInputError(f"job {record.name} is {record.state}; wait until it has ended, or stop it first")
    if record.header is None:
        raise BadInputError(f"job {record.name} has no model yet; resume it with 'fwdllm-server job resume {job_id}'")
    spec = record.spec()
    more = spec.model_copy(update={"rounds": spec.rounds.extended(rounds)})
    jobs.extended(connection, job_id, more, ledger.totals(connection, job_id)[0])
    jobs.resumed(connection, job_id, now)
    jobs.set_state(connection, job_id, JobState.RUNNING, "", now)


def _set_resumed(connection: Connection, job_id: str, now: float) -> None:
    locks.move_rounds(connection, job_id)
    # Read again under the lock: another operator may have resumed it meanwhile.
    record = jobs.required(connection, job_id)
    if record.state not in (JobState.STOPPED, JobState.FAILED):
        raise BadInputError(f"job {record.name} is {record.state}; only a stopped or failed job can be resumed")
    jobs.resumed(connection, job_id, now)
    state = JobState.PREPARING if record.header is None else JobState.RUNNING
    jobs.set_state(connection, job_id, state, "", now)
