"""A scripted coordinator behind real mutual TLS on 127.0.0.1, and a device with a trivial engine to talk to it."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import threading
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fwdllm.v1 import device_pb2, device_pb2_grpc, ledger_pb2
from fwdllm_client.agent.assignment import AssignmentWork, Downloads, Senders
from fwdllm_client.agent.job_models import JobModels
from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.known_answer_report import KnownAnswerReport
from fwdllm_client.agent.link import Link
from fwdllm_client.agent.masked import MaskedScalars
from fwdllm_client.agent.notes import NotesFile
from fwdllm_client.agent.session import Session
from fwdllm_client.cache.artifacts import ArtifactCache
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.cache.weights import Weights
from fwdllm_client.conditions import Conditions, Gate, Rules, Thermal
from fwdllm_client.connection.home import ClientHome, Identity
from fwdllm_client.connection.recording import RecordingCoordinator
from fwdllm_client.connection.transport import GrpcCoordinator
from fwdllm_client.policy.choices import ChoicesFile
from fwdllm_client.policy.permission import Permission
from fwdllm_common.counts import Counts
from fwdllm_common.directions import Directions
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.ledger import BlockUpdate, LedgerEntry, RunHeader
from fwdllm_common.manifest import BundleFile, Manifest, Stage
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.protocol import REASON_KEY
from fwdllm_common.replay import ModelState, theta_digest
from fwdllm_common.secure_aggregation import MIN_MEMBERS

RUN_KEY = 7
PEM = serialization.Encoding.PEM
WINDOW = device_pb2.CheckInWindow(min_ms=11, max_ms=11)


class Authority:
    """A CA, a server certificate for 127.0.0.1 followed by the CA's, and device certificates on request.

    All are good for a day, which begins so many days from now.
    """

    def __init__(self, from_day=0):
        self._from_day = from_day
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._signed("ca", self._key.public_key(), ca=True)
        self.pem = self._certificate.public_bytes(PEM)
        self.sha256 = hashlib.sha256(self._certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        server_key = ec.generate_private_key(ec.SECP256R1())
        self.server_key = _key_pem(server_key)
        self.server_chain = self._signed("coordinator", server_key.public_key()).public_bytes(PEM) + self.pem

    def sign(self, request_der):
        request = x509.load_der_x509_csr(request_der)
        assert request.is_signature_valid
        return self._signed("device", request.public_key()).public_bytes(PEM)

    def device(self):
        key = ec.generate_private_key(ec.SECP256R1())
        return _key_pem(key), self._signed("device", key.public_key()).public_bytes(PEM)

    def _signed(self, name, public_key, *, ca=False):
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=self._from_day)
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(
            issuer, subject, public_key, x509.random_serial_number(), now, now + datetime.timedelta(days=1)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())


def _key_pem(key):
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Refuse(Exception):  # noqa: N818 - a script's step
    """In a script: end the call with this status."""

    def __init__(self, code, details="scripted", reason="", **trailing):
        self.code = code
        self.details = details
        self.trailing = [(key.replace("_", "-"), value) for key, value in trailing.items()]
        if reason:
            self.trailing.append((REASON_KEY, reason))


class ScriptedCoordinator(device_pb2_grpc.DeviceServiceServicer, device_pb2_grpc.EnrolmentServiceServicer):
    """Answers as its attributes say; each ``on_…`` is called with the request and may raise :class:`Refuse`."""

    def __init__(self, authority):
        self.authority = authority
        self.port = 0
        self.files = {}
        self.check_ins, self.artifact_requests, self.weights_requests, self.reports = [], [], [], []
        self.feature_sums = []
        self.tokens = {}  # secret -> public key that used it
        self.on_check_in = lambda request: device_pb2.CheckInResponse()
        self.on_artifact = self.artifact
        self.on_weights = lambda request: iter(())
        self.on_report = self.acknowledgement
        self.after_report = lambda request: None
        self.on_feature_sums = lambda request: device_pb2.FeatureSumsResponse(accepted=len(request.sums), next=WINDOW)
        self.known_answer_reports = []
        self.usable = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def identity(self):
        key, certificate = self.authority.device()
        return Identity("device-1", self.address, self.address, 2_000_000_000, key, certificate, self.authority.pem)

    def start(self, *, mutual=True):
        asyncio.run_coroutine_threadsafe(self._start(mutual), self._loop).result()

    async def _start(self, mutual):
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        device_pb2_grpc.add_DeviceServiceServicer_to_server(self, self._server)
        device_pb2_grpc.add_EnrolmentServiceServicer_to_server(self, self._server)
        pair = [(self.authority.server_key, self.authority.server_chain)]
        roots = self.authority.pem if mutual else None
        credentials = grpc.ssl_server_credentials(pair, roots, require_client_auth=mutual)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    def stop(self):
        asyncio.run_coroutine_threadsafe(self._server.stop(None), self._loop).result()

    def close(self):
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add_file(self, data):
        self.files[hashlib.sha256(data).digest()] = data
        return hashlib.sha256(data)

    def artifact(self, request, piece=16):
        data = self.files[request.sha256]
        for start in range(request.offset, len(data), piece):
            yield device_pb2.ArtifactChunk(data=data[start : start + piece], total_bytes=len(data))

    def acknowledgement(self, request):
        return device_pb2.ReportResponse(
            assignment_id=request.assignment_id,
            first_index=request.first_index,
            accepted=len(request.derivatives),
            next=WINDOW,
        )

    async def Enroll(self, request, context):  # noqa: N802
        public_key = x509.load_der_x509_csr(request.certificate_request).public_key()
        known = self.tokens.get(request.token_secret, False)
        if known is False or (known is not None and known != public_key):
            why = "unknown token" if known is False else "this token has been used"
            await self._refuse(context, Refuse(grpc.StatusCode.PERMISSION_DENIED, why, "bad-token"))
        self.tokens[request.token_secret] = public_key
        return device_pb2.EnrollResponse(
            device_id="device-1",
            certificate=self.authority.sign(request.certificate_request),
            ca_certificate=self.authority.pem,
            expires_unix_s=2_000_000_000,
            device_address=self.address,
        )

    async def CheckIn(self, request, context):  # noqa: N802
        self.check_ins.append(request)
        try:
            return self.on_check_in(request)
        except Refuse as refuse:
            await self._refuse(context, refuse)

    async def GetArtifact(self, request, context):  # noqa: N802
        self.artifact_requests.append(request)
        try:
            for chunk in self.on_artifact(request):
                yield chunk
        except Refuse as refuse:
            await self._refuse(context, refuse)

    async def GetWeights(self, request, context):  # noqa: N802
        self.weights_requests.append(request)
        try:
            for chunk in self.on_weights(request):
                yield chunk
        except Refuse as refuse:
            await self._refuse(context, refuse)

    async def Report(self, request_iterator, context):  # noqa: N802
        try:
            async for request in request_iterator:
                self.reports.append(request)
                answer = self.on_report(request)
                if answer is not None:
                    yield answer
                self.after_report(request)
        except Refuse as refuse:
            await self._refuse(context, refuse)

    async def ReportFeatureSums(self, request, context):  # noqa: N802
        self.feature_sums.append(request)
        try:
            return self.on_feature_sums(request)
        except Refuse as refuse:
            await self._refuse(context, refuse)

    async def ReportSelfTest(self, request, context):  # noqa: N802
        self.known_answer_reports.append(request)
        return device_pb2.SelfTestResponse(usable=self.usable, next=WINDOW)

    async def _refuse(self, context, refuse):
        await context.abort(refuse.code, refuse.details, trailing_metadata=tuple(refuse.trailing))


class Job:
    """A run of a quadratic "model": its bundle is served, its ledger grows by :meth:`commit`."""

    def __init__(self, coordinator):
        self.coordinator = coordinator
        self.layout = Layout((TensorSpec("a", (8, 4), "body"), TensorSpec("b", (6,), "head")))
        files = {name: f"{name} ".encode() * 9 for name in ("tokenizer.json", "prefix.onnx", "body.onnx", "head.onnx")}
        entries = {
            name: BundleFile(name, coordinator.add_file(data).hexdigest(), len(data)) for name, data in files.items()
        }
        stages = [
            Stage(block, entries[f"{name}.onnx"], None, (), True, 2, 4)
            for name, block in (("prefix", None), ("body", "body"), ("head", "head"))
        ]
        self.manifest = Manifest(("no", "yes"), 16, 0, entries["tokenizer.json"], self.layout, tuple(stages))
        self.manifest_sha256 = coordinator.add_file(self.manifest.to_bytes()).digest()
        theta = np.linspace(-1, 1, self.layout.size, dtype=np.float32)
        self.header = RunHeader(
            Directions(RUN_KEY),
            self.layout.digest,
            theta_digest(theta),
            OptimizerSettings("adam", epsilon=float(np.float32(1e-8))),
        )
        self.header = RunHeader.from_bytes(self.header.to_bytes())
        self.state = ModelState.initial(self.header, self.layout, theta)
        self.ledger = []
        coordinator.on_weights = self.weights

    def commit(self):
        update = BlockUpdate(
            "body",
            np.arange(3, dtype=np.uint64) + np.uint64(100 * self.state.version),
            np.array([1 << 20, -(1 << 22), 1 << 21]),
            np.float32(0.05),
        )
        self.ledger.append(self.state.advance(LedgerEntry(self.state.version + 1, (update,), b"")))

    def weights(self, request):
        """The ledger if the device holds a version, else a snapshot; in small pieces."""
        if request.has_version:
            entries = [entry.to_message() for entry in self.ledger[request.held_version : request.version]]
            data = ledger_pb2.LedgerSegment(entries=entries).SerializeToString()
            kind = device_pb2.WeightsChunk.KIND_LEDGER
        else:
            data = self.state.to_bytes()
            kind = device_pb2.WeightsChunk.KIND_SNAPSHOT
        for start in range(0, len(data), 64):
            yield device_pb2.WeightsChunk(kind=kind, data=data[start : start + 64])

    def assignment(self, assignment_id="a1", seeds=((1, 6), (50, 4)), **changes):
        """Two tasks, of the body and of the head."""
        fields = {
            "assignment_id": assignment_id,
            "job_id": "job/1",
            "job_name": "quadratic",
            "round": self.state.version + 1,
            "header": ledger_pb2.RunHeader.FromString(self.header.to_bytes()),
            "manifest_sha256": self.manifest_sha256,
            "version": self.state.version,
            "theta_digest": theta_digest(self.state.theta),
            "deadline_ms": 60_000,
            "directions": [
                device_pb2.DirectionTask(
                    block=block,
                    seeds=[device_pb2.SeedRange(first=first, count=count)],
                    epsilon=1e-3,
                    batch_size=4,
                )
                for block, (first, count) in zip(("body", "head"), seeds, strict=False)
            ],
        }
        return device_pb2.Assignment(**(fields | changes))

    def answer(self, assignment=None, open_assignments=None):
        """A check-in's answer that hands out ``assignment``."""
        ids = [assignment.assignment_id] if assignment is not None else []
        return device_pb2.CheckInResponse(
            next=device_pb2.CheckInWindow(min_ms=7, max_ms=7),
            assignment=assignment,
            open_assignments=ids if open_assignments is None else open_assignments,
        )


class QuadraticCompute:
    """The loss ‖θ‖²/2, two directions at a time, one-sided; remembers its tasks and which seeds it has computed."""

    def __init__(self, layout):
        self.layout = layout
        self.example_passes = 0.0
        self.computed = []
        self.tasks = []
        self.evaluations = 0
        self.unloaded = 0
        self.before_chunk = lambda: None
        self.known_answer_ratio = None

    def derivatives(self, theta, directions, task):
        self.tasks.append(task)
        block = self.layout.block(task.block)
        part = theta[block.slice].astype(np.float64)
        for first in range(task.done, len(task.seeds), 2):
            self.before_chunk()
            seeds = task.seeds[first : first + 2]
            copies = directions.perturb(theta[block.slice], seeds, block.start, task.epsilon).astype(np.float64)
            self.computed += seeds.tolist()
            self.example_passes += len(seeds) * task.batch_size
            yield first, ((copies**2).sum(axis=1) - (part**2).sum()) / 2 / task.epsilon

    def set_cancellation_check(self, check_cancelled):
        self.check_cancelled = check_cancelled

    def signal_to_noise(self):
        return self.known_answer_ratio

    def evaluate(self, theta):
        self.evaluations += 1
        return Counts(3, 5)

    def unload(self):
        self.unloaded += 1


class FakeStop:
    """A stop that passes no time: remembers every wait, and ends the agent at the ``last`` one."""

    def __init__(self, last=None):
        self.waits = []
        self.last = last
        self.stopped = False
        self.on_wait = lambda seconds: None

    def is_set(self):
        return self.stopped

    def wait(self, timeout=None):
        self.waits.append(timeout)
        self.on_wait(timeout)
        self.stopped = self.stopped or len(self.waits) == self.last
        return self.stopped


class FakeSensors:
    """A device on which all is well, until ``conditions`` are others."""

    def __init__(self):
        self.conditions = Conditions(True, 100.0, False, Thermal.NONE)
        self.readings = 0

    def read(self):
        self.readings += 1
        return self.conditions


class Device:
    """One agent in ``folder``; every :meth:`session` is a new life of it."""

    def __init__(self, folder, coordinator, layout):
        self.home = ClientHome(folder)
        self.identity = coordinator.identity()
        self.compute = QuadraticCompute(layout)
        self.opened = []
        self.now = 0.0
        self.sensors = FakeSensors()
        self.rules = Rules()
        self.record = None
        self.masks = False
        self.cache_bytes = 1 << 40
        self.choices = ChoicesFile(self.home.choices)

    def clock(self):
        """Every look at the clock takes a second, so that no scalar waits for others."""
        self.now += 1.0
        return self.now

    def run(self, stop, *, once=False, clock=None):
        with GrpcCoordinator(self.identity) as connection, closing(Journal(self.home.journal)) as journal:
            coordinator = connection if self.record is None else RecordingCoordinator(connection, self.record)
            link = Link(coordinator, journal, stop)

            def open_engine(bundle):
                self.opened.append(bundle)
                return self.compute

            retry = link.retry()
            permission = Permission(
                Gate(self.sensors, self.rules, lambda: self.now), self.rules, self.choices, lambda: self.now
            )
            downloads = Downloads(
                ArtifactCache(CacheQuota(self.home.cache, self.cache_bytes), coordinator, retry),
                Weights(self.home.cache / "weights", coordinator, retry),
                JobModels(self.home.job_models),
            )
            senders = Senders(
                known_answers=KnownAnswerReport(coordinator, retry),
                masked=MaskedScalars(link, MIN_MEMBERS) if self.masks else None,
            )
            work = AssignmentWork(link, permission, downloads, open_engine, clock or self.clock, senders=senders)
            profile = device_pb2.CheckInRequest(labels=["no", "yes"], training_examples=9)
            notes = NotesFile(self.home.notes, lambda: 0.0)
            session = Session(link, profile, permission, work, notes=notes)
            session.run(once=once)

    def unacknowledged(self):
        with closing(Journal(self.home.journal)) as journal:
            return [entry for _, entry in journal.unacknowledged()]


@pytest.fixture(scope="session")
def authority():
    return Authority()


@pytest.fixture(scope="session")
def new_authority():
    return Authority


@pytest.fixture
def new_coordinator(authority):
    made = []

    def make(authority=authority, **options):
        made.append(ScriptedCoordinator(authority))
        made[-1].start(**options)
        return made[-1]

    yield make
    for coordinator in made:
        coordinator.close()


@pytest.fixture
def coordinator(new_coordinator):
    return new_coordinator()


@pytest.fixture
def job(coordinator):
    return Job(coordinator)


@pytest.fixture
def device(tmp_path: Path, coordinator, job):
    return Device(tmp_path / "home", coordinator, job.layout)


@pytest.fixture
def link(coordinator):
    """The device's side of the connection."""
    with GrpcCoordinator(coordinator.identity()) as connected:
        yield connected


@pytest.fixture
def new_stop():
    return FakeStop


@pytest.fixture
def refuse():
    return Refuse
