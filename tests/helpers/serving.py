"""The whole coordinator in the test's event loop: real store, TLS and ports, callers with certificates."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from helpers.tiny_job import job_toml
from helpers.tiny_text import LABELS
from helpers.undemanding import ask_for_nothing
from server.rpc.loopback import authority_of, channel
from sqlalchemy import update

from fwdllm.v1 import device_pb2_grpc, operator_pb2_grpc
from fwdllm.v1.device_pb2 import (
    Assignment,
    CheckInRequest,
    CheckInResponse,
    ProtocolVersion,
    ReportRequest,
    ReportResponse,
)
from fwdllm.v1.operator_pb2 import JOB_STATE_RUNNING, CreateJoinTokenRequest, GetJobRequest, Job
from fwdllm_client.agent.agent import LocalData, run_agent
from fwdllm_client.connection.enrol import join
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.data import Source
from fwdllm_client.policy.policy import Policy
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.ledger import RunHeader
from fwdllm_common.protocol import GENERATOR_VERSION, PROTOCOL_MAJOR, PROTOCOL_MINOR, REASON_KEY
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.resolved_spec import dump_resolved
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.coordinator.coordinator import Coordinator
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rpc.device_service import DeviceService
from fwdllm_server.rpc.enrolment_service import EnrolmentService
from fwdllm_server.rpc.grpc_server import bind_servers
from fwdllm_server.rpc.operator_service import OperatorService
from fwdllm_server.security.ca import CertificateAuthority, KeyAndCertificate
from fwdllm_server.store import jobs, ledger, schema
from fwdllm_server.store.database import Database

JOB = "tiny"
TURNS = 1000
"""How often a condition is asked for; each time is a call over the network."""


class Clock:
    """Seconds since 1970, advanced by hand."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def derivative(seed: int) -> float:
    """What every scripted device measures: a number from −1 to 1 that only the seed decides, exact in float32."""
    digest = hashlib.sha256(seed.to_bytes(8, "little")).digest()
    return float(np.float32(int.from_bytes(digest[:4], "little", signed=True) / 2**31))


def seeds_of(assignment: Assignment) -> list[int]:
    return [span.first + i for task in assignment.directions for span in task.seeds for i in range(span.count)]


def profile(**changes: object) -> CheckInRequest:
    """What a scripted device says at a check-in."""
    says: dict[str, Any] = {
        "protocol": ProtocolVersion(major=PROTOCOL_MAJOR, minor=PROTOCOL_MINOR),
        "generator_version": GENERATOR_VERSION,
        "labels": LABELS,
        "training_examples": 100,
    }
    return CheckInRequest(**{**says, **changes})


@dataclass(frozen=True)
class ScriptedDevice:
    """A device that measures :func:`derivative`."""

    id: str
    service: device_pb2_grpc.DeviceServiceAsyncStub

    async def check_in(self, **changes: object) -> CheckInResponse:
        return await self.service.CheckIn(profile(**changes), timeout=10)

    async def assignment(self) -> Assignment:
        """Check in until there is work."""
        answer = await self.check_in()
        for _ in range(TURNS):
            if answer.HasField("assignment"):
                return answer.assignment
            answer = await self.check_in()
        raise AssertionError(f"no work: {answer}")

    async def report(self, assignment_id: str, derivatives: list[float], first_index: int = 0) -> ReportResponse:
        """Send one message on a stream of its own."""
        message = ReportRequest(assignment_id=assignment_id, derivatives=derivatives, first_index=first_index)
        call = self.service.Report(iter([message]), timeout=10)
        (answer,) = [answer async for answer in call]
        return answer

    async def finish(self, assignment: Assignment) -> ReportResponse:
        """Report everything that an assignment asks for."""
        return await self.report(assignment.assignment_id, [derivative(seed) for seed in seeds_of(assignment)])


class Serving:
    """A running server and those who call it."""

    def __init__(
        self, home: ServerHome, clock: Callable[[], float], runtime: Runtime, device_address: str, stack: AsyncExitStack
    ) -> None:
        self.home = home
        self.clock = clock
        self.runtime = runtime
        self.coordinator = Coordinator(runtime)
        self.authority = authority_of(home)
        self.device_address = device_address
        self.operator_address = home.operator_address(home.config())
        self._stack = stack
        self.operator: operator_pb2_grpc.OperatorServiceAsyncStub

    async def channel(self, address: str, key: bytes, certificate: bytes) -> grpc.aio.Channel:
        """A connection that ends with the server."""
        identity = KeyAndCertificate(key, certificate)
        return await self._stack.enter_async_context(channel(address, self.authority, identity))

    def client_home(self, name: str) -> ClientHome:
        """The home of a device that has joined, beside the server's."""
        return ClientHome(self.home.folder.parent / name)

    async def device(self, name: str) -> ScriptedDevice:
        """A caller with the identity of a device that has joined."""
        identity = self.client_home(name).load_identity()
        opened = await self.channel(self.device_address, identity.key, identity.certificate)
        return ScriptedDevice(identity.device_id, device_pb2_grpc.DeviceServiceStub(opened))

    async def join(self, *names: str) -> None:
        """Let devices of these names join."""
        for name in names:
            made = await self.operator.CreateJoinToken(CreateJoinTokenRequest(name=name))
            await asyncio.to_thread(join, self.client_home(name), made.join_token)
            ask_for_nothing(self.client_home(name).folder)

    @asynccontextmanager
    async def agents(
        self,
        folder: Path,
        policies: Mapping[str, Policy],
        validation: float,
        source: Callable[[Path], Source] = DataSource,
        suffix: str = "csv",
    ) -> AsyncIterator[None]:
        """Real agents, each with its policy and the rows of its file ``NAME.suffix``, at work until the block ends."""
        stop = threading.Event()
        agents = []
        for name, policy in policies.items():
            home = self.client_home(name)
            identity = json.loads((home.folder / "identity.json").read_text())
            identity["device_address"] = self.device_address
            (home.folder / "identity.json").write_text(json.dumps(identity))
            data = LocalData(source(folder / f"{name}.{suffix}"), validation)
            agents.append(partial(run_agent, home, data, stop, policy=policy, threads=1))
        with ThreadPoolExecutor(len(agents)) as threads:
            loop = asyncio.get_running_loop()
            running = asyncio.gather(*(loop.run_in_executor(threads, agent) for agent in agents))
            try:
                yield
            finally:
                stop.set()
                await running

    async def job(self, job: str = JOB) -> Job:
        return await self.operator.GetJob(GetJobRequest(job=job), timeout=10)

    async def until(self, condition: Callable[[Job], bool], job: str = JOB) -> Job:
        """The job, asked for until it meets a condition."""
        for _ in range(TURNS):
            found = await self.job(job)
            if condition(found):
                return found
        raise AssertionError(f"never so: {found}")

    async def until_evaluated(self, timeout_s: float = 240) -> Job:
        """The job once its first version is evaluated, which is when devices are waited for."""
        async for found in self.operator.WatchJob(GetJobRequest(job=JOB), timeout=timeout_s):
            if found.HasField("initial_evaluation"):
                return found
        raise AssertionError(f"the job ended first: {found}")

    async def until_state(self, state: int, job: str = JOB) -> Job:
        """The job once it is in this state, for as long as that takes."""
        async for found in self.operator.WatchJob(GetJobRequest(job=job), timeout=60):
            if found.state == state:
                return found
        raise AssertionError(f"the job ended first: {found}")

    def ledger(self) -> list[bytes]:
        with self.runtime.database.transaction() as connection:
            record = jobs.find(connection, JOB)
            assert record is not None
            return list(ledger.entries(connection, record.id, after=0))


@asynccontextmanager
async def serving(home: ServerHome, clock: Callable[[], float] = time.time) -> AsyncIterator[Serving]:
    """What ``fwdllm_server.cli.serving`` puts together, with a clock of our own."""
    authority = CertificateAuthority.load(home.ca_certificate, home.ca_key)
    servers = await bind_servers(home, home.config(), authority)
    runtime = Runtime(home, home.config(), clock)
    async with AsyncExitStack() as stack:
        running = Serving(home, clock, runtime, servers.addresses.device, stack)
        coordinator, addresses = running.coordinator, servers.addresses
        device_pb2_grpc.add_DeviceServiceServicer_to_server(DeviceService(coordinator, authority), servers.device)
        device_pb2_grpc.add_EnrolmentServiceServicer_to_server(
            EnrolmentService(runtime, authority, addresses.device), servers.enrolment
        )
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(
            OperatorService(coordinator, addresses.enrolment, authority.fingerprint), servers.operator
        )
        opened = await running.channel(
            running.operator_address, home.operator_key.read_bytes(), home.operator_certificate.read_bytes()
        )
        running.operator = operator_pb2_grpc.OperatorServiceStub(opened)
        try:
            await coordinator.start()
            await servers.start()
            await stack.enter_async_context(servers.watched(runtime.revoked_among))
            yield running
        finally:
            await servers.stop(0)
            await coordinator.close()
            runtime.close()


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str, str]:
    """Status, reason and line for people of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code(), str(dict(tuple(error.trailing_metadata())).get(REASON_KEY, "")), error.details() or ""


async def everything(stream: AsyncIterator[object]) -> list[object]:
    return [message async for message in stream]


def change_job(home: ServerHome, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change keys of every job file in the store, by section, before the server starts.

    Blocks whose directions become ``auto`` are measured by orthogonal ones.
    """
    database = Database(home.database_url(home.config()))
    with database.transaction() as connection:
        for record in jobs.in_state(connection):
            spec = tomllib.loads(record.spec_toml)
            blocks = {f"blocks.{name}": keys for name, keys in spec.pop("blocks").items()}
            merged = {
                name: {**keys, **changes.get(name, {})}
                for name, keys in {**{key: {} for key in changes}, **spec, **blocks}.items()
            }
            text = job_toml({"blocks.head": None, "blocks.peft": None, **merged})
            resolved = dump_resolved(parse_toml(text, JobSpec, record.name))
            values: dict[str, Any] = {"spec_toml": text, "resolved_spec": resolved}
            auto = [name for name, keys in merged.items() if keys.get("directions") == "auto"]
            if auto and record.header is not None:
                orthogonal = tuple(name.removeprefix("blocks.") for name in auto)
                values["header"] = replace(RunHeader.from_bytes(record.header), orthogonal=orthogonal).to_bytes()
            connection.execute(update(schema.jobs).where(schema.jobs.c.id == record.id).values(values))
    database.close()


async def work_until_done(server: Serving, *devices: ScriptedDevice) -> Job:
    """The devices do whatever they are given until the job is done."""
    for _ in range(TURNS):
        for device in devices:
            answer = await device.check_in()
            if answer.HasField("assignment"):
                await device.finish(answer.assignment)
        job = await server.job()
        if job.state != JOB_STATE_RUNNING:
            return job
    raise AssertionError(f"never done: {job}")
