"""An operator and two devices that see a job through, whatever becomes of the coordinator, in a fixed order.

One device works and the other is trouble, so that a run of five rounds takes every way through the round machine that
ends well: features for the head, an abandoned round, an assignment that expires, one that is given back, scalars that
are no numbers, a round that its deadline closes, a known-answer test that fails. All scalars that count are the
worker's and a function of their seeds, so every such run has the same ledger.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from math import nan
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
from helpers.serving import derivative
from helpers.tiny_head import LABELS, WIDTH

from fwdllm.v1 import device_pb2
from fwdllm.v1.conditions_pb2 import HOLD_UNPLUGGED, Conditions
from fwdllm.v1.device_pb2_grpc import DeviceServiceStub
from fwdllm.v1.operator_pb2 import (
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    JOB_STATE_STOPPED,
    CreateJoinTokenRequest,
    GetJobRequest,
    Job,
    ListJobsRequest,
    SubmitJobRequest,
)
from fwdllm.v1.operator_pb2_grpc import OperatorServiceStub
from fwdllm_client.connection.enrol import join
from fwdllm_client.connection.home import ClientHome
from fwdllm_common.errors import UnreachableError
from fwdllm_common.protocol import FEATURE_SUMS, GENERATOR_VERSION, PROTOCOL_MAJOR
from fwdllm_server.config.home import ServerHome
from fwdllm_server.rpc.unix_socket import grpc_target

T = TypeVar("T")

NAME = "tiny"
ROUNDS = 4  # and one that is abandoned
PATIENCE_S = 1800.0
ASSIGNMENT_S, DEADLINE_S = 100.0, 400.0  # all that pass are well below the hour by which certificates allow for clocks
PER_MESSAGE = 3
_ABANDONED, _SILENT, _GIVEN_BACK, _NO_NUMBERS, _NOISY = range(1, 6)
SECTIONS = {
    "job": {"name": NAME, "seed": 3},
    "model": {"labels": list(LABELS), "head": "class-means"},
    "rounds": {
        "count": ROUNDS,
        "min_devices": 2,
        "max_devices": 2,
        "evaluate_every": 50,
        "federated_evaluate_every": 1,
        "gather_s": 0,
        "accept_s": DEADLINE_S,
        "deadline_s": DEADLINE_S,
        "assignment_s": ASSIGNMENT_S,
    },
    # Pacing asks for more in every round.
    "blocks.head": {"directions": 10, "batch_size": 8, "max_directions": 20, "variance_threshold": 1e-9},
    "blocks.peft": {"directions": 4, "batch_size": 8, "learning_rate": 0.01},
}
# A server that was killed is looked for again at once.
_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 50))
_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Crew:
    """Insists on what it asks for; ``clock`` is the file by which the coordinator's clock is ahead."""

    def __init__(self, operator: OperatorServiceStub, folder: Path, clock: Path) -> None:
        self.operator = operator
        self._folder = folder
        self._clock = clock
        self._jumped: set[tuple[int, int]] = set()
        self.ends = time.monotonic() + PATIENCE_S

    def train(self) -> Job:
        """See the job that is there through; it is done."""
        self._stop_and_resume()
        worker, trouble = (
            Worker(stack_device(self._join("worker")), self),
            Trouble(stack_device(self._join("trouble")), self),
        )
        while (job := self.job()).state != JOB_STATE_DONE:
            worker.turn(job)
            trouble.turn(job)
            self._let_time_pass(job, worker, trouble)
        return job

    def insist(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """What a call returns in the end."""
        while True:
            try:
                return call(*arguments, timeout=30, wait_for_ready=True, **options)
            except grpc.RpcError as error:
                # What a service refuses is refused again; what was broken off, or came too often, is not.
                if error.code() not in _AGAIN:
                    raise
                if time.monotonic() > self.ends:
                    raise

    def job(self) -> Job:
        assert time.monotonic() < self.ends, self.insist(self.operator.ListJobs, ListJobsRequest())
        found = self.insist(self.operator.GetJob, GetJobRequest(job=NAME))
        assert found.state != JOB_STATE_FAILED, found
        return found

    def prepare(self, toml: str, workplace: Path) -> Job:
        """Submit a job; it runs."""
        request = SubmitJobRequest(spec_toml=toml, base_folder=str(workplace))
        while not self.insist(self.operator.ListJobs, ListJobsRequest()).jobs:
            with contextlib.suppress(grpc.RpcError):
                self.operator.SubmitJob(request, timeout=30, wait_for_ready=True)
        while (job := self.job()).state != JOB_STATE_RUNNING:
            time.sleep(0.05)
        return job

    def _join(self, name: str) -> ClientHome:
        home = ClientHome(self._folder / name)
        token = self.insist(self.operator.CreateJoinToken, CreateJoinTokenRequest(name=name)).join_token
        while not home.joined:  # with the same token: it may be the answer that was lost
            assert time.monotonic() < self.ends
            with contextlib.suppress(UnreachableError):
                join(home, token)
        return home

    def _stop_and_resume(self) -> None:
        while self.job().round.phase != "initialising":
            time.sleep(0.01)
        while self.job().state != JOB_STATE_STOPPED:
            self._ask(self.operator.StopJob)
        while self.job().state == JOB_STATE_STOPPED:
            self._ask(self.operator.ResumeJob)

    def _ask(self, call: Callable[..., Job]) -> None:
        with contextlib.suppress(grpc.RpcError):  # done, and the answer was lost; or the coordinator died
            call(GetJobRequest(job=NAME), timeout=30, wait_for_ready=True)

    def _let_time_pass(self, job: Job, worker: Worker, trouble: Trouble) -> None:
        """When the coordinator waits for nothing else any more; after a death, all of it once more."""
        number = job.round.number
        moment = (number, (self._folder / "server.log").read_text("utf-8").count('"serving"'))
        if moment in self._jumped or job.state != JOB_STATE_RUNNING or job.round.phase != "collecting":
            return
        waits = {
            _ABANDONED: DEADLINE_S,
            _SILENT: ASSIGNMENT_S if worker.idle and number in trouble.had else 0,
            _NO_NUMBERS: DEADLINE_S if worker.declines else 0,
        }
        if seconds := waits.get(number):
            self._jumped.add(moment)
            temporary = self._clock.with_suffix(".new")
            temporary.write_text(str(float(self._clock.read_text()) + seconds + 1))
            temporary.replace(self._clock)


class Device:
    """What both do; ``had`` are the assignments by round, ``idle`` is whether the last check-in brought none."""

    def __init__(self, stub: DeviceServiceStub, crew: Crew) -> None:
        self.stub = stub
        self.crew = crew
        self.had: dict[int, device_pb2.Assignment] = {}
        self.idle = False

    def turn(self, job: Job) -> None:
        request = device_pb2.CheckInRequest(
            protocol=device_pb2.ProtocolVersion(major=PROTOCOL_MAJOR),
            generator_version=GENERATOR_VERSION,
            capabilities=[FEATURE_SUMS],
            labels=LABELS,
            training_examples=100,
            conditions=Conditions(holds=[HOLD_UNPLUGGED] if self.holds(job) else []),
        )
        answer = self.crew.insist(self.stub.CheckIn, request)
        self.idle = not answer.HasField("assignment")
        if not self.idle:
            self.had[answer.assignment.round] = answer.assignment
            with _over():
                self._send_sums(answer.assignment) if answer.assignment.feature_sums else self.work(answer.assignment)

    def holds(self, job: Job) -> bool:
        return False

    def work(self, assignment: device_pb2.Assignment) -> None:
        raise NotImplementedError

    def report(self, assignment: device_pb2.Assignment, derivatives: list[float], first: int = 0) -> bool:
        """Send one message until it is acknowledged; returns whether to stop."""
        passes = 8.0 * len(derivatives)
        message = device_pb2.ReportRequest(
            assignment_id=assignment.assignment_id,
            first_index=first,
            derivatives=derivatives,
            usage=device_pb2.ResourceUsage(seconds=passes / 1000, example_passes=passes),
        )
        if assignment.evaluate:
            message.evaluation.CopyFrom(device_pb2.EvaluationCounts(correct=3, total=4))
        (answer,) = self.crew.insist(lambda **options: list(self.stub.Report(iter([message]), **options)))
        return answer.stop

    def _send_sums(self, assignment: device_pb2.Assignment) -> None:
        sums = [
            device_pb2.ClassSum(label=label, rows=10, features=np.sin(np.arange(WIDTH) + label) * 10)
            for label in range(len(LABELS))
        ]
        message = device_pb2.FeatureSumsRequest(
            assignment_id=assignment.assignment_id,
            sums=sums,
            last=True,
            usage=device_pb2.ResourceUsage(seconds=0.1, example_passes=100),
        )
        self.crew.insist(self.stub.ReportFeatureSums, message)


class Worker(Device):
    """Measures all that it is asked for; in one round not what pacing adds."""

    def __init__(self, stub: DeviceServiceStub, crew: Crew) -> None:
        super().__init__(stub, crew)
        self.declines = False
        self._measured = 0

    def work(self, assignment: device_pb2.Assignment) -> None:
        if assignment.round == _ABANDONED:
            return
        self._fetch(assignment)
        self.declines = assignment.round == _NO_NUMBERS and self._measured == 14
        if self.declines:
            return
        seeds = [span.first + i for task in assignment.directions for span in task.seeds for i in range(span.count)]
        if assignment.round == _NO_NUMBERS:
            self._measured += len(seeds)
        self.crew.insist(
            self.stub.ReportSelfTest,
            device_pb2.SelfTestRequest(assignment_id=assignment.assignment_id, signal_to_noise=100.0),
        )
        for first in range(0, len(seeds), PER_MESSAGE):
            self.report(assignment, [derivative(seed) for seed in seeds[first : first + PER_MESSAGE]], first)

    def _fetch(self, assignment: device_pb2.Assignment) -> None:
        """As an agent does that has nothing yet."""
        weights = device_pb2.GetWeightsRequest(job_id=assignment.job_id, version=assignment.version)
        self.crew.insist(lambda **options: list(self.stub.GetWeights(weights, **options)))
        manifest = device_pb2.GetArtifactRequest(sha256=assignment.manifest_sha256)
        self.crew.insist(lambda **options: list(self.stub.GetArtifact(manifest, **options)))


class Trouble(Device):
    """Never sends a scalar that counts."""

    def holds(self, job: Job) -> bool:
        return job.round.number == _GIVEN_BACK and _GIVEN_BACK in self.had

    def work(self, assignment: device_pb2.Assignment) -> None:
        if assignment.round == _GIVEN_BACK:
            late = self.had[_SILENT]
            assert self.report(late, [1.0])
        elif assignment.round == _NO_NUMBERS:
            self.report(assignment, [nan])
        elif assignment.round == _NOISY:
            noise = device_pb2.SelfTestRequest(assignment_id=assignment.assignment_id, signal_to_noise=0.1)
            self.crew.insist(self.stub.ReportSelfTest, noise)


@contextlib.contextmanager
def _over() -> Iterator[None]:
    """The round may have closed since the device fetched its assignment."""
    try:
        yield
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise


def stack_device(home: ClientHome) -> DeviceServiceStub:
    identity = home.load_identity()
    credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
    return DeviceServiceStub(grpc.secure_channel(identity.device_address, credentials, _OPTIONS))


@contextlib.contextmanager
def operator(home: ServerHome) -> Iterator[OperatorServiceStub]:
    """The operator's own connection, which outlives the coordinator's deaths."""
    credentials = grpc.ssl_channel_credentials(
        home.ca_certificate.read_bytes(), home.operator_key.read_bytes(), home.operator_certificate.read_bytes()
    )
    path = home.operator_socket(home.config())
    assert path is not None
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", "localhost"))
    with grpc.secure_channel(grpc_target(path), credentials, options) as channel:
        yield OperatorServiceStub(channel)
