"""An OperatorService whose jobs and devices are a script, behind the real ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from fwdllm.v1.operator_pb2 import (
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    JOB_STATE_PAUSED,
    JOB_STATE_RUNNING,
    JOB_STATE_STOPPED,
    AdapterChunk,
    CreateJoinTokenResponse,
    Device,
    DeviceUsage,
    Evaluation,
    Job,
    JobHistory,
    JobSpec,
    ListDevicesResponse,
    ListJobsResponse,
    Round,
    SubmitJobResponse,
    VersionRecord,
)
from fwdllm.v1.operator_pb2_grpc import OperatorServiceServicer
from fwdllm_common.errors import BadInputError
from fwdllm_common.protocol import Reason
from fwdllm_server.rpc.errors import CallRefusedError

DIGEST = bytes(range(32))


def running(number: int = 3, collected: int = 64, **fields: object) -> Job:
    """A job in the middle of its third round of five."""
    values = {
        "job_id": "job-1",
        "name": "news",
        "state": JOB_STATE_RUNNING,
        "round": Round(
            number=number,
            phase="collecting",
            directions_wanted=256,
            directions_collected=collected,
            variance=1.25,
            variance_threshold=0.5,
            devices=2,
        ),
        "rounds_committed": number - 1,
        "rounds_wanted": 5,
        "directions": 1 << 40,
        "initial_evaluation": Evaluation(accuracy=0.25, loss=1.7, rows=100),
        "latest_evaluation": Evaluation(version=2, accuracy=0.5, loss=1.25, rows=100),
        "best_evaluation": Evaluation(version=1, accuracy=0.625, loss=1.0, rows=100),
        "seconds_running": 80.0,
        "seconds_left": 200.0,
        "theta_digest": DIGEST,
        "devices": [
            DeviceUsage(device_id="dev-1", bytes_sent=1000, bytes_received=2_000_000, artifact_bytes=45_000_000),
            DeviceUsage(device_id="dev-2", bytes_sent=234, bytes_received=500_000),
        ],
    }
    return Job(**{**values, **fields})


def ended(state: int, message: str = "") -> Job:
    job = running(5, 256, state=state, message=message, seconds_left=0.0)
    job.round.phase = "committed"
    job.rounds_committed = 5
    return job


DONE, STOPPED = ended(JOB_STATE_DONE), ended(JOB_STATE_STOPPED)
FAILED = ended(JOB_STATE_FAILED, "ten rounds in a row were abandoned")
UNFIT = ended(
    JOB_STATE_FAILED, "[bad-input] 'm' is a model of the architecture 'xlnet', which cannot be prepared (Error: no)"
)


class Scripted(OperatorServiceServicer):
    """Knows the jobs of its script by id; ``changes`` is what a watcher sees, ``hangs`` keeps the stream open."""

    def __init__(self) -> None:
        self.changes = [running()]
        self.hangs = False
        self.same_name: list[str] = []
        self.watched = asyncio.Event()
        self.jobs = [running()]
        self.devices = [
            Device(device_id="dev-1", name="pixel7", enrolled_unix_s=1_700_000_000, software="fwdllm/0.1.0\x1b[31m")
        ]
        self.knows_versions = True
        self.versions = [
            VersionRecord(version=0, evaluation=Evaluation(accuracy=0.25, loss=1.5, rows=100)),
            VersionRecord(version=1, round=2, directions=64, variance=0.5, variance_threshold=0.75, reason="enough"),
        ]
        self.files = [("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"abc")]
        self.requests: list[object] = []

    def _known(self, request: object) -> None:
        self.requests.append(request)
        if getattr(request, "job", "job-1") not in ("job-1", "news"):
            raise CallRefusedError(grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, "no job gone; 'job list' shows all")

    async def SubmitJob(self, request, context):  # noqa: N802
        self._known(request)
        if "wrong" in request.spec_toml:
            raise BadInputError("job file: wrong is no known key")
        return SubmitJobResponse(job_id="job-1")

    async def ListJobs(self, request, context):  # noqa: N802
        return ListJobsResponse(jobs=self.jobs)

    async def GetJob(self, request, context):  # noqa: N802
        self._known(request)
        return running(same_name=self.same_name)

    async def WatchJob(self, request, context) -> AsyncIterator[Job]:  # noqa: N802
        self._known(request)
        for job in self.changes:
            yield job
        self.watched.set()
        if self.hangs:
            await asyncio.Event().wait()

    async def StopJob(self, request, context):  # noqa: N802
        self._known(request)
        return STOPPED

    async def PauseJob(self, request, context):  # noqa: N802
        self._known(request)
        return running(state=JOB_STATE_PAUSED)

    async def SetJobPriority(self, request, context):  # noqa: N802
        self._known(request)
        return running(priority=request.priority)

    async def ExtendJob(self, request, context):  # noqa: N802
        self._known(request)
        return running(rounds_wanted=5 + request.rounds)

    async def ResumeJob(self, request, context):  # noqa: N802
        self._known(request)
        return running()

    async def ExportAdapter(self, request, context) -> AsyncIterator[AdapterChunk]:  # noqa: N802
        self._known(request)
        version = {"version": request.version} if self.knows_versions else {}
        for name, data in self.files:
            for byte in data:
                yield AdapterChunk(file_name=name, data=bytes([byte]), **version)

    async def GetJobHistory(self, request, context):  # noqa: N802
        self._known(request)
        return JobHistory(job_id="job-1", name="news", versions=self.versions)

    async def GetJobSpec(self, request, context):  # noqa: N802
        self._known(request)
        resolved = '{"preset": null, "job": {"name": "news"}, "model": {"labels": ["no", "yes"]}}'
        return JobSpec(job_id="job-1", name="news", spec_toml="[job]", base_folder="/srv", resolved_json=resolved)

    async def CreateJoinToken(self, request, context):  # noqa: N802
        self._known(request)
        return CreateJoinTokenResponse(join_token="fwdllm1-abc", expires_unix_s=1_800_000_000)

    async def ListDevices(self, request, context):  # noqa: N802
        return ListDevicesResponse(devices=self.devices)

    async def RevokeDevice(self, request, context):  # noqa: N802
        self._known(request)
        return Device(device_id="dev-1", name="pixel7", revoked=True)
