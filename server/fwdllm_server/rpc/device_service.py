"""DeviceService: answers the devices' calls. It validates messages and runs the store's transactions."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog
from cryptography.hazmat.primitives import serialization
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2, ledger_pb2
from fwdllm.v1.device_pb2_grpc import DeviceServiceServicer
from fwdllm_common.job_choice import MAX_JOB_NAME, MAX_JOB_NAMES
from fwdllm_common.protocol import (
    CHUNK_BYTES,
    FEATURE_SUMS,
    GENERATOR_VERSION,
    MAX_FAILURE_CODE,
    MAX_FAILURE_MESSAGE,
    MAX_FAILURES,
    MAX_PACKED_PER_REPORT,
    MAX_SCALARS_PER_REPORT,
    PROTOCOL_MAJOR,
    Reason,
)
from fwdllm_common.task import CLASSIFICATION, find_task
from fwdllm_server.coordinator.coordinator import Coordinator
from fwdllm_server.coordinator.peers import present
from fwdllm_server.rounds import aggregation_messages, failing, feature_reporting, known_answers, reporting
from fwdllm_server.rounds.delivery import fetch, take_back
from fwdllm_server.rounds.presence import Present
from fwdllm_server.rounds.reporting import Report
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.rpc.errors import CallRefusedError
from fwdllm_server.rpc.identity import caller_of, enrolled, refusals
from fwdllm_server.rpc.limits import MAX_CERTIFICATE_REQUEST_BYTES, bounded, in_range
from fwdllm_server.rpc.pace import Pace
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.security.requests import parse_request
from fwdllm_server.security.roles import Holder
from fwdllm_server.store import assignments, devices, jobs, ledger, locks, rounds
from fwdllm_server.store.assignments import AssignmentRecord
from fwdllm_server.store.devices import Sighting

_MAX_LABELS, _MAX_LABEL = 1024, 256
_MAX_CAPABILITIES, _MAX_CAPABILITY = 32, 64
_MAX_EXAMPLES = 10**9
_MAX_HOLDS = 16
_RESTORING_S = 5.0
_MAX_ID, _MAX_ASSIGNMENT_ID = 64, 96
_JOBS_SHOWN = 3
"""Largest number of jobs whose reasons for refusal a waiting device is sent."""
_FAILURE_CODE = re.compile(r"[a-z][a-z-]*")

_log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]


class DeviceService(DeviceServiceServicer):
    """Answers devices on behalf of the coordinator's jobs."""

    def __init__(self, coordinator: Coordinator, authority: CertificateAuthority) -> None:
        self._coordinator = coordinator
        self._authority = authority
        self._runtime = coordinator.runtime
        self._pace = Pace(self._runtime.config.check_in.rate)

    async def CheckIn(self, request: device_pb2.CheckInRequest, context: Context) -> device_pb2.CheckInResponse:
        """Return an assignment, or the time of the next check-in."""
        check_check_in(request)
        caller = caller_of(context)
        response = await self._runtime.commit_batched(self._check_ins, (caller, request))
        if not response.HasField("assignment"):
            self._let_wait(caller.name, request, response)
        # Both outcomes may advance a round: a fetched assignment, and an idle device that can be selected.
        self._coordinator.wake()
        return response

    async def GetArtifact(
        self, request: device_pb2.GetArtifactRequest, context: Context
    ) -> AsyncIterator[device_pb2.ArtifactChunk]:
        """Stream a file of a running job's bundle, or the initial weights for feature sums."""
        bounded("sha256", request.sha256, 32, 32)
        await self._runtime.commit(self._identify, caller_of(context))
        sha256 = request.sha256.hex()
        having = [job.id for job in self._coordinator.training.values() if sha256 in _artifacts_of(job)]
        if not having:
            raise _refusal(grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, f"no running job has the file {sha256}")
        if not await self._coordinator.can_serve(sha256, having, doubted=request.doubted):
            message = f"the file {sha256} is damaged or missing here and is being restored; try again"
            raise CallRefusedError(grpc.StatusCode.UNAVAILABLE, Reason.STORAGE, message, retry_after_s=_RESTORING_S)
        path = self._runtime.artifacts.path(sha256)
        total = path.stat().st_size
        with path.open("rb") as file:
            file.seek(min(request.offset, total))
            while data := file.read(CHUNK_BYTES):
                yield device_pb2.ArtifactChunk(data=data, total_bytes=total)

    async def GetWeights(
        self, request: device_pb2.GetWeightsRequest, context: Context
    ) -> AsyncIterator[device_pb2.WeightsChunk]:
        """Stream the weights of the job's current version."""
        bounded("job_id", request.job_id, _MAX_ID)
        await self._runtime.commit(self._identify, caller_of(context))
        kind, data = await self._runtime.in_store(self._weights, self._running(request.job_id), request)
        # An up-to-date device gets one empty chunk, not an empty stream.
        for start in range(0, max(1, len(data)), CHUNK_BYTES):
            yield device_pb2.WeightsChunk(kind=kind, data=data[start : start + CHUNK_BYTES])

    async def Report(
        self, request_iterator: AsyncIterator[device_pb2.ReportRequest], context: Context
    ) -> AsyncIterator[device_pb2.ReportResponse]:
        """Store each message's scalars, and answer when they are durable."""
        caller = caller_of(context)
        async for request in request_iterator:
            if len(request.derivatives) > MAX_SCALARS_PER_REPORT:
                raise _bad_field(f"{len(request.derivatives)} derivatives; at most {MAX_SCALARS_PER_REPORT} fit")
            if len(request.halves) > 2 * MAX_PACKED_PER_REPORT:
                raise _bad_field(f"{len(request.halves)} bytes of halves; at most {2 * MAX_PACKED_PER_REPORT} fit")
            response, job_id = await self._runtime.commit_batched(self._reports, (caller, request))
            self._coordinator.wake(job_id)
            yield response

    async def ReportFeatureSums(
        self, request: device_pb2.FeatureSumsRequest, context: Context
    ) -> device_pb2.FeatureSumsResponse:
        """Store per-class feature sums, and answer when they are durable."""
        in_range("number of sums", len(request.sums), 0, _MAX_LABELS)
        response, job_id = await self._runtime.commit(self._report_feature_sums, caller_of(context), request)
        self._coordinator.wake(job_id)
        return response

    async def ReportSelfTest(
        self, request: device_pb2.SelfTestRequest, context: Context
    ) -> device_pb2.SelfTestResponse:
        """Store the signal-to-noise ratio of a known-answer test, and answer whether the device is used."""
        response, job_id = await self._runtime.commit(self._report_self_test, caller_of(context), request)
        self._coordinator.wake(job_id)
        return response

    async def Aggregate(self, request: device_pb2.AggregateRequest, context: Context) -> device_pb2.AggregateResponse:
        """Store a message of secure aggregation, and answer when it is durable."""
        response, job_id = await self._runtime.commit(self._aggregate, caller_of(context), request)
        self._coordinator.wake(job_id)
        return response

    async def RenewCertificate(
        self, request: device_pb2.RenewCertificateRequest, context: Context
    ) -> device_pb2.RenewCertificateResponse:
        """Issue a new certificate to a device that calls with its old one."""
        bounded("certificate_request", request.certificate_request, MAX_CERTIFICATE_REQUEST_BYTES)
        key, caller = parse_request(request.certificate_request), caller_of(context)
        if caller.is_own:
            message = "this certificate was issued by the operator's own authority, which must renew it"
            raise _refusal(grpc.StatusCode.FAILED_PRECONDITION, Reason.WRONG_STATE, message)
        device_id = await self._runtime.commit(self._identify, caller)
        days = self._runtime.config.certificates.device_days
        certificate = self._authority.sign_device(key.public_key, device_id, self._runtime.clock(), days)
        _log.info("certificate renewed", device=device_id, until=certificate.not_valid_after_utc.isoformat())
        return device_pb2.RenewCertificateResponse(
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            expires_unix_s=int(certificate.not_valid_after_utc.timestamp()),
        )

    def _identify(self, connection: Connection, caller: Holder) -> str:
        return enrolled(connection, caller, self._runtime.clock()).id

    def _check_ins(
        self, connection: Connection, calls: Sequence[tuple[Holder, device_pb2.CheckInRequest]]
    ) -> Sequence[device_pb2.CheckInResponse | Exception]:
        """Process many check-ins in one transaction, with shared statements. Most devices are idle."""
        now = self._runtime.clock()
        refused = refusals(connection, [caller for caller, _ in calls], now)
        sightings = [_sighting(*call) for call, why in zip(calls, refused, strict=True) if why is None]
        devices.seen(connection, sorted(sightings, key=_device_of), now)
        holders = assignments.holders(connection, [sighting.device_id for sighting in sightings])
        return [
            why or self._check_in(connection, caller.name, request, now, caller.name in holders)
            for (caller, request), why in zip(calls, refused, strict=True)
        ]

    def _check_in(
        self, connection: Connection, device_id: str, request: device_pb2.CheckInRequest, now: float, holds_work: bool
    ) -> device_pb2.CheckInResponse:
        training = dict(self._coordinator.training)  # jobs come and go in the loop's thread
        if request.failures:
            failing.record(connection, device_id, request.failures, now)
        counting = take_back(connection, device_id, request, training) if holds_work else ()
        response = device_pb2.CheckInResponse(
            next=self._window(), open_assignments=[found.id for found in counting], unix_s=round(now)
        )
        for work in counting:
            job = training.get(work.job_id)
            if work.open and job is not None and _can_be_given(work, job, request):
                response.assignment.CopyFrom(fetch(connection, work, job, now))
                response.assignment.mirror = self._runtime.config.public.mirror
                break
        else:
            self._coordinator.peers.publish(connection, device_id, request, now)
        return response

    def _let_wait(
        self, device_id: str, request: device_pb2.CheckInRequest, response: device_pb2.CheckInResponse
    ) -> None:
        """Register a device without work for selection, and set ``response.message`` to what it waits for."""
        training = list(self._coordinator.training.values())
        if request.conditions.holds:
            self._runtime.presence.leave(device_id)
            response.message = "the conditions of this device do not allow work now"
            return
        now = self._runtime.clock()
        device = present(device_id, now, request)
        why_not = {job.name: _why_not(device, job) for job in training}
        wanted = not all(why_not.values())
        waits = (wanted or not training) and self._runtime.presence.admit(device, self._coordinator.room)
        if not (wanted and waits):
            response.next.CopyFrom(self._later(now))
        response.message = _why_it_waits(why_not, wanted, waits)

    def _reports(
        self, connection: Connection, calls: Sequence[tuple[Holder, device_pb2.ReportRequest]]
    ) -> Sequence[tuple[device_pb2.ReportResponse, str] | Exception]:
        """Process many messages of any devices in one transaction. Each may be refused by itself."""
        now = self._runtime.clock()
        refused = refusals(connection, [caller for caller, _ in calls], now)
        work = _locked(connection, {request.assignment_id for _, request in calls})
        found = [
            why or _own(work, caller.name, request.assignment_id)
            for (caller, request), why in zip(calls, refused, strict=True)
        ]
        reports = [
            Report(own, request, self._prolonged_s(own, now))
            for own, (_, request) in zip(found, calls, strict=True)
            if isinstance(own, AssignmentRecord)
        ]
        responses = reporting.record(connection, reports, now)
        # A job that was stopped or has ended needs no more scalars.
        running = jobs.running_among(connection, {report.assignment.job_id for report in reports})
        answers = iter(
            self._acknowledged(response, report.assignment.job_id, running)
            for response, report in zip(responses, reports, strict=True)
        )
        return [own if isinstance(own, Exception) else next(answers) for own in found]

    def _acknowledged(
        self, response: device_pb2.ReportResponse, job_id: str, running: Collection[str]
    ) -> tuple[device_pb2.ReportResponse, str]:
        response.next.CopyFrom(self._window())
        response.stop = response.stop or job_id not in running
        return response, job_id

    def _report_feature_sums(
        self, connection: Connection, caller: Holder, request: device_pb2.FeatureSumsRequest
    ) -> tuple[device_pb2.FeatureSumsResponse, str]:
        device_id = self._identify(connection, caller)
        assignment = _own_assignment(connection, device_id, request.assignment_id)
        manifest = self._running(assignment.job_id).manifest
        response = feature_reporting.record(connection, assignment, request, manifest)
        response.next.CopyFrom(self._window())
        return response, assignment.job_id

    def _aggregate(
        self, connection: Connection, caller: Holder, request: device_pb2.AggregateRequest
    ) -> tuple[device_pb2.AggregateResponse, str]:
        device_id = self._identify(connection, caller)
        assignment = _own_assignment(connection, device_id, request.assignment_id)
        response = aggregation_messages.take(connection, assignment, request, self._runtime.clock())
        response.next.CopyFrom(self._window())
        return response, assignment.job_id

    def _report_self_test(
        self, connection: Connection, caller: Holder, request: device_pb2.SelfTestRequest
    ) -> tuple[device_pb2.SelfTestResponse, str]:
        device_id = self._identify(connection, caller)
        assignment = _own_assignment(connection, device_id, request.assignment_id)
        now = self._runtime.clock()
        expires_at = self._expiry(connection, assignment, now)
        usable = known_answers.record(connection, assignment, request.signal_to_noise, expires_at, now)
        if not usable:
            _log.warning(
                "device not used: it failed the known-answer test",
                device=device_id,
                job=assignment.job_id,
                signal_to_noise=round(known_answers.usable_ratio(request.signal_to_noise), 3),
                needed=known_answers.MIN_SIGNAL_TO_NOISE,
            )
        return device_pb2.SelfTestResponse(usable=usable, next=self._window()), assignment.job_id

    def _weights(
        self, job: TrainingJob, request: device_pb2.GetWeightsRequest
    ) -> tuple[device_pb2.WeightsChunk.Kind, bytes]:
        """Return the ledger entries since the held version, or a snapshot if that is smaller."""
        if request.version > job.state.version:  # another coordinator runs the job
            with self._runtime.database.transaction() as connection:
                job.catch_up(connection)
        if job.head_uninitialised or request.version != job.state.version:
            message = f"job {job.name} is at version {job.state.version}; check in again"
            raise _refusal(grpc.StatusCode.FAILED_PRECONDITION, Reason.WRONG_STATE, message)
        snapshot = job.state.to_bytes()
        if request.has_version and request.held_version <= request.version:
            with self._runtime.database.transaction() as connection:
                entries = ledger.entries(connection, job.id, request.held_version, request.version)
            if sum(map(len, entries)) < len(snapshot):
                segment = ledger_pb2.LedgerSegment(entries=map(ledger_pb2.LedgerEntry.FromString, entries))
                return device_pb2.WeightsChunk.KIND_LEDGER, segment.SerializeToString()
        return device_pb2.WeightsChunk.KIND_SNAPSHOT, snapshot

    def _prolonged_s(self, assignment: AssignmentRecord, now: float) -> float:
        """Return the new lifetime, in seconds from ``now``, of an assignment that made progress."""
        job = self._coordinator.training.get(assignment.job_id)
        # While no coordinator runs its job, it keeps its expiry.
        return job.spec.rounds.assignment_s if job is not None else max(0.0, assignment.expires_at - now)

    def _expiry(self, connection: Connection, assignment: AssignmentRecord, now: float) -> float:
        """Return when an assignment expires whose device has just begun."""
        job, current = self._coordinator.training.get(assignment.job_id), rounds.latest(connection, assignment.job_id)
        if job is None or current is None:
            return assignment.expires_at
        return job.expiry(current.phase_since, now)

    def _running(self, job_id: str) -> TrainingJob:
        job = self._coordinator.training.get(job_id)
        if job is None:
            raise _refusal(grpc.StatusCode.FAILED_PRECONDITION, Reason.WRONG_STATE, f"job {job_id} is not running")
        return job

    def _window(self) -> device_pb2.CheckInWindow:
        window = self._runtime.config.check_in
        if self._coordinator.training:
            return device_pb2.CheckInWindow(min_ms=window.busy_min_ms, max_ms=window.busy_max_ms)
        return device_pb2.CheckInWindow(min_ms=window.idle_min_ms, max_ms=window.idle_max_ms)

    def _later(self, now: float) -> device_pb2.CheckInWindow:
        """Return the check-in window for a device that no job waits for."""
        window = self._runtime.config.check_in
        least_s, most_s = self._pace.window(now, window.idle_min_ms / 1000, window.idle_max_ms / 1000)
        return device_pb2.CheckInWindow(min_ms=round(1000 * least_s), max_ms=round(1000 * most_s))


def _device_of(sighting: Sighting) -> str:
    return sighting.device_id  # a fixed order of locks prevents deadlocks between transactions


def _sighting(caller: Holder, request: device_pb2.CheckInRequest) -> Sighting:
    conditions = request.conditions if request.HasField("conditions") else None
    return Sighting(caller.name, request.training_examples, request.software, conditions)


def _locked(connection: Connection, assignment_ids: Collection[str]) -> Mapping[str, AssignmentRecord]:
    """Return the existing assignments by id. Their rounds stay in their phases until this transaction ends."""
    found = assignments.by_id(connection, assignment_ids)
    may_have_changed = [
        locks.follow_rounds(connection, job_id) for job_id in sorted({each.job_id for each in found.values()})
    ]
    return assignments.by_id(connection, assignment_ids) if any(may_have_changed) else found


def _own(
    work: Mapping[str, AssignmentRecord], device_id: str, assignment_id: str
) -> AssignmentRecord | CallRefusedError:
    """Return a device's assignment, or the refusal if it does not exist or belongs to another device."""
    assignment = work.get(assignment_id)
    if assignment is None:
        return _refusal(grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, f"no assignment {assignment_id[:96]!r}; drop it")
    if assignment.device_id != device_id:
        message = f"assignment {assignment_id} belongs to another device; check in for one of your own"
        return _refusal(grpc.StatusCode.PERMISSION_DENIED, Reason.NOT_YOURS, message)
    return assignment


def _own_assignment(connection: Connection, device_id: str, assignment_id: str) -> AssignmentRecord:
    found = _own(_locked(connection, [assignment_id]), device_id, assignment_id)
    if isinstance(found, CallRefusedError):
        raise found
    return found


def _why_not(device: Present, job: TrainingJob) -> str:
    return device.why_not(job.name, frozenset(job.manifest.labels), job.manifest.task, job.needs)


def _why_it_waits(why_not: Mapping[str, str], wanted: bool, waits: bool) -> str:
    """Return the message for the device's log.

    :param why_not: for each running job, why the device cannot take part; empty if it can.
    :param wanted: whether the device can take part in any job.
    :param waits: whether the device is registered for selection.
    """
    if not why_not:
        return "no job is running"
    if not wanted:
        shown = list(why_not.items())[:_JOBS_SHOWN]
        more = f"; and {len(why_not) - len(shown)} more" if len(why_not) > len(shown) else ""
        return (
            "this device cannot take part in any running job: "
            + "; ".join(f"{job}: {why}" for job, why in shown)
            + more
        )
    return "waiting for a round" if waits else "enough other devices are waiting for a round"


def _can_be_given(work: AssignmentRecord, job: TrainingJob, request: device_pb2.CheckInRequest) -> bool:
    if job.head_uninitialised != (work.round == 0):  # the state of another coordinator's job arrives with a delay
        return False
    return FEATURE_SUMS in request.capabilities or not job.head_uninitialised


def _artifacts_of(job: TrainingJob) -> set[str]:
    theta = {job.state.digest.hex()} if job.head_uninitialised else set()
    return {job.manifest_sha256, *(file.sha256 for file in job.manifest.files)} | theta


def check_check_in(request: device_pb2.CheckInRequest) -> None:
    """Refuse a check-in of another protocol or generator version, or with a field out of bounds.

    :raises FwdllmError: the check-in is refused; the message names the field.
    """
    if request.protocol.major != PROTOCOL_MAJOR:
        message = (
            f"protocol {request.protocol.major}.{request.protocol.minor} is not supported, only "
            f"{PROTOCOL_MAJOR}; install the coordinator's version of fwdllm"
        )
        raise _refusal(grpc.StatusCode.FAILED_PRECONDITION, Reason.PROTOCOL_VERSION, message)
    if request.generator_version != GENERATOR_VERSION:
        message = (
            f"generator version {request.generator_version} is not supported, only {GENERATOR_VERSION}; "
            "install the coordinator's version of fwdllm"
        )
        raise _refusal(grpc.StatusCode.FAILED_PRECONDITION, Reason.GENERATOR_VERSION, message)
    task = find_task(request.task or CLASSIFICATION)
    if task is None:
        raise _bad_field(f"task {request.task[:_MAX_CAPABILITY]!r} is not known here; update the coordinator")
    if task.has_labels:
        in_range("number of labels", len(request.labels), 1, _MAX_LABELS)
    else:
        in_range(f"number of labels for {request.task}", len(request.labels), 0, 0)
    for label in request.labels:
        bounded("label", label, _MAX_LABEL)
    in_range("number of capabilities", len(request.capabilities), 0, _MAX_CAPABILITIES)
    for capability in request.capabilities:
        bounded("capability", capability, _MAX_CAPABILITY)
    in_range("training_examples", request.training_examples, 1, _MAX_EXAMPLES)
    bounded("software", request.software, 256, 0)
    if not request.software.isprintable():  # it is shown in operators' terminals
        raise _bad_field("software has characters that cannot be printed")
    in_range("number of holds", len(request.conditions.holds), 0, _MAX_HOLDS)
    in_range("battery_percent", request.conditions.battery_percent, 0, 100)
    in_range("number of failures", len(request.failures), 0, MAX_FAILURES)
    for failure in request.failures:
        _check_failure(failure)
    in_range("number of jobs", len(request.jobs.names), 0, MAX_JOB_NAMES)
    for name in request.jobs.names:
        bounded("job", name, MAX_JOB_NAME)


def _check_failure(failure: device_pb2.AssignmentFailure) -> None:
    bounded("assignment_id", failure.assignment_id, _MAX_ASSIGNMENT_ID)
    bounded("code", failure.code, MAX_FAILURE_CODE)
    bounded("message", failure.message, MAX_FAILURE_MESSAGE, 0)
    if not _FAILURE_CODE.fullmatch(failure.code) or not failure.message.isprintable():
        raise _bad_field("a failure has a code that is not of a-z and -, or a message that cannot be printed")


def _bad_field(message: str) -> CallRefusedError:
    return _refusal(grpc.StatusCode.INVALID_ARGUMENT, Reason.BAD_FIELD, message)


def _refusal(status: grpc.StatusCode, reason: Reason, message: str) -> CallRefusedError:
    return CallRefusedError(status, reason, message)
