"""OperatorService: manages jobs, devices and join tokens, for the command line and other programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from sqlalchemy import Connection

from fwdllm.v1 import operator_pb2
from fwdllm.v1.operator_pb2_grpc import OperatorServiceServicer
from fwdllm_common.errors import BadInputError
from fwdllm_common.join_token import JoinToken
from fwdllm_common.protocol import CHUNK_BYTES, MOST_PRIORITY, Reason
from fwdllm_server.config.job_sections import MOST_ROUNDS
from fwdllm_server.coordinator.coordinator import Coordinator
from fwdllm_server.model.adapter import ADAPTER_FILE, CARD, ExportFormat, export_format, trained_tensors
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.rpc.errors import CallRefusedError
from fwdllm_server.rpc.limits import MAX_TOKEN_LIFETIME_S, bounded, in_range, plain_name
from fwdllm_server.store import devices, jobs
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.views.device_status import REVOKED, DeviceState, DeviceStatus, device_statuses
from fwdllm_server.views.job_records import history_message, spec_message
from fwdllm_server.views.job_status import job_message
from fwdllm_server.views.model_card import model_card
from fwdllm_server.views.versions import chosen_version

_DAY_S = 86_400
_MAX_SPEC = 1 << 20
_WATCH_S = 2.0
"""Longest time in seconds between two messages to a watcher, so that the remaining time stays current."""

_ENDED = (operator_pb2.JOB_STATE_DONE, operator_pb2.JOB_STATE_FAILED, operator_pb2.JOB_STATE_STOPPED)

Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger()


class OperatorService(OperatorServiceServicer):
    """Answers the operators' calls. ``enrolment_address`` and ``ca_sha256`` go into join tokens."""

    def __init__(self, coordinator: Coordinator, enrolment_address: str, ca_sha256: str) -> None:
        self._coordinator = coordinator
        self._runtime = coordinator.runtime
        self._enrolment_address = enrolment_address
        self._ca_sha256 = ca_sha256

    async def SubmitJob(
        self, request: operator_pb2.SubmitJobRequest, context: Context
    ) -> operator_pb2.SubmitJobResponse:
        """Check a job file and submit the job."""
        bounded("spec_toml", request.spec_toml, _MAX_SPEC)
        folder = Path(request.base_folder)
        if not folder.is_absolute():
            raise BadInputError(f"base_folder {request.base_folder!r} is not absolute")
        job_id = await self._coordinator.submit(request.spec_toml, folder)
        job = await self._runtime.transact(self._job, job_id)
        return operator_pb2.SubmitJobResponse(job_id=job_id, same_name=job.same_name)

    async def ListJobs(self, request: operator_pb2.ListJobsRequest, context: Context) -> operator_pb2.ListJobsResponse:
        """Return every job, newest first."""
        return operator_pb2.ListJobsResponse(jobs=await self._runtime.transact(_all_jobs, self._runtime.clock()))

    async def GetJob(self, request: operator_pb2.GetJobRequest, context: Context) -> operator_pb2.Job:
        """Return a job by its id or name."""
        return await self._runtime.transact(self._job, request.job)

    async def WatchJob(self, request: operator_pb2.GetJobRequest, context: Context) -> AsyncIterator[operator_pb2.Job]:
        """Stream the job's current state and every change, until it ends."""
        # By its id: a later job of the same name is another one.
        record = await self._runtime.transact(_find, request.job)
        while True:
            job = await self._runtime.transact(self._job, record.id)
            yield job
            if job.state in _ENDED:
                return
            await self._runtime.change(_WATCH_S)

    async def StopJob(self, request: operator_pb2.GetJobRequest, context: Context) -> operator_pb2.Job:
        """Stop a job immediately."""
        record = await self._runtime.transact(_find, request.job)
        await self._coordinator.stop(record)
        return await self._runtime.transact(self._job, record.id)

    async def PauseJob(self, request: operator_pb2.GetJobRequest, context: Context) -> operator_pb2.Job:
        """Pause a job after its current round."""
        record = await self._runtime.transact(_find, request.job)
        await self._coordinator.pause(record)
        return await self._runtime.transact(self._job, record.id)

    async def SetJobPriority(self, request: operator_pb2.SetJobPriorityRequest, context: Context) -> operator_pb2.Job:
        """Set a job's priority. Jobs of higher priority get devices first."""
        in_range("priority", request.priority, -MOST_PRIORITY, MOST_PRIORITY)
        record = await self._runtime.transact(_find, request.job)
        await self._coordinator.set_priority(record, request.priority)
        return await self._runtime.transact(self._job, record.id)

    async def ResumeJob(self, request: operator_pb2.GetJobRequest, context: Context) -> operator_pb2.Job:
        """Resume a job that was paused or stopped, or that failed."""
        record = await self._runtime.transact(_find, request.job)
        await self._coordinator.resume(record)
        return await self._runtime.transact(self._job, record.id)

    async def ExtendJob(self, request: operator_pb2.ExtendJobRequest, context: Context) -> operator_pb2.Job:
        """Give a job that has ended more rounds."""
        in_range("rounds", request.rounds, 1, MOST_ROUNDS)
        record = await self._runtime.transact(_find, request.job)
        await self._coordinator.extend(record, request.rounds)
        return await self._runtime.transact(self._job, record.id)

    async def ExportAdapter(
        self, request: operator_pb2.ExportAdapterRequest, context: Context
    ) -> AsyncIterator[operator_pb2.AdapterChunk]:
        """Stream the adapter at the version that is asked for, file by file."""
        kind = export_format(request.format)
        job = await self._runtime.transact(self._trained, request)
        template = self._coordinator.folder(job.id).adapter
        made = {
            ADAPTER_FILE: await asyncio.to_thread(trained_tensors, template, job.manifest.layout, job.state.theta),
        }
        if card := await self._runtime.transact(self._card, job, template, kind):
            made[CARD] = card.encode()
        names = {path.relative_to(template).as_posix() for path in template.rglob("*") if path.is_file()}
        for name in sorted(names | made.keys()):
            # The base model may have gigabytes.
            with BytesIO(made[name]) if name in made else (template / name).open("rb") as file:
                data = await asyncio.to_thread(file.read, CHUNK_BYTES)
                yield operator_pb2.AdapterChunk(file_name=name, data=data, version=job.state.version)
                while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield operator_pb2.AdapterChunk(file_name=name, data=data, version=job.state.version)

    async def GetJobHistory(self, request: operator_pb2.GetJobRequest, context: Context) -> operator_pb2.JobHistory:
        """List every version of a job's model."""
        return await self._runtime.transact(_history, request.job)

    async def GetJobSpec(self, request: operator_pb2.GetJobRequest, context: Context) -> operator_pb2.JobSpec:
        """Return a job's resolved specification."""
        return spec_message(await self._runtime.transact(_find, request.job))

    async def CreateJoinToken(
        self, request: operator_pb2.CreateJoinTokenRequest, context: Context
    ) -> operator_pb2.CreateJoinTokenResponse:
        """Create a token with which one device may enrol."""
        plain_name("name", request.name)
        lifetime_s = request.lifetime_s or _DAY_S
        in_range("lifetime_s", lifetime_s, 1, MAX_TOKEN_LIFETIME_S)
        now = self._runtime.clock()
        expires_at = now + lifetime_s
        secret, voids_former = await self._runtime.transact(_create_token, request.name, now, expires_at)
        token = JoinToken(self._enrolment_address, self._ca_sha256, secret)
        return operator_pb2.CreateJoinTokenResponse(
            join_token=token.encode(), expires_unix_s=int(expires_at), voids_former=voids_former
        )

    async def ListDevices(
        self, request: operator_pb2.ListDevicesRequest, context: Context
    ) -> operator_pb2.ListDevicesResponse:
        """Return every device, newest first."""
        found = await self._runtime.transact(device_statuses, self._runtime.config.check_in, self._runtime.clock())
        return operator_pb2.ListDevicesResponse(devices=map(_device_message, found))

    async def RevokeDevice(self, request: operator_pb2.RevokeDeviceRequest, context: Context) -> operator_pb2.Device:
        """Revoke a device, so that every further call of it is refused."""
        device = await self._runtime.transact(_revoke, request.device, self._runtime.clock())
        self._runtime.presence.leave(device.device_id)
        _log.info("device revoked", device=device.device_id, name=device.name)
        return device

    def _job(self, connection: Connection, id_or_name: str) -> operator_pb2.Job:
        return job_message(connection, _find(connection, id_or_name), self._runtime.clock())

    def _trained(self, connection: Connection, request: operator_pb2.ExportAdapterRequest) -> TrainingJob:
        record = _find(connection, request.job)
        if record.header is None:
            raise BadInputError(f"job {record.name} has no model yet ({record.state}); wait for its first round")
        training = self._coordinator.training.get(record.id)
        number = request.version if request.HasField("version") else None
        version = chosen_version(connection, record, "best" if request.best else number)
        if training is not None and version is None:
            return training
        return TrainingJob.load(connection, self._runtime.artifacts, record, version)

    def _card(self, connection: Connection, job: TrainingJob, template: Path, kind: ExportFormat) -> str:
        record, command = jobs.required(connection, job.id), "fwdllm-server job submit job.toml"
        return model_card(connection, record, template, self._runtime.clock(), command, state=job.state, kind=kind)


def _find(connection: Connection, id_or_name: str) -> JobRecord:
    record = jobs.find(connection, id_or_name)
    if record is None:
        message = f"no job {id_or_name!r}; 'fwdllm-server job list' shows them"
        raise CallRefusedError(grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, message)
    return record


def _history(connection: Connection, id_or_name: str) -> operator_pb2.JobHistory:
    return history_message(connection, _find(connection, id_or_name))


def _all_jobs(connection: Connection, now: float) -> list[operator_pb2.Job]:
    return [job_message(connection, record, now) for record in jobs.in_state(connection)]


def _create_token(connection: Connection, name: str, now: float, expires_at: float) -> tuple[str, bool]:
    """Return the secret, and whether it voids an earlier one."""
    voids_former = devices.awaits(connection, name, now)
    return devices.create_token(connection, name, expires_at), voids_former


def _revoke(connection: Connection, id_or_name: str, now: float) -> operator_pb2.Device:
    found = devices.find_device(connection, id_or_name)
    if found is None:
        message = f"no device {id_or_name!r}; 'fwdllm-server devices list' shows them"
        raise CallRefusedError(grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, message)
    devices.revoke(connection, found.id, now)
    revoked = devices.device(connection, found.id)
    assert revoked is not None
    return _device_message(DeviceStatus(revoked, DeviceState.REVOKED, (REVOKED,)))


def _device_message(status: DeviceStatus) -> operator_pb2.Device:
    device = status.device
    return operator_pb2.Device(
        device_id=device.id,
        name=device.name,
        enrolled_unix_s=int(device.enrolled_at),
        last_seen_unix_s=None if device.last_seen_at is None else int(device.last_seen_at),
        revoked=device.revoked,
        training_examples=device.training_examples,
        software=device.software,
        conditions=device.conditions,
        state=status.state,
        reasons=status.reasons,
        failures=status.failures,
    )
