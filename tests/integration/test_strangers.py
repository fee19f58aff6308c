"""What a stranger can hold of a running coordinator, and that those who may come are served meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest
from fuzz.frames import beginning, connect, opening
from helpers.federation import PROGRAMS
from helpers.live_server import LiveServer, live_server
from helpers.serving import profile
from helpers.tiny_job import LABELS

from fwdllm.v1.device_pb2 import EnrollRequest, FeatureSumsRequest
from fwdllm.v1.device_pb2_grpc import DeviceServiceStub, EnrolmentServiceStub
from fwdllm.v1.operator_pb2 import CreateJoinTokenRequest, SubmitJobRequest
from fwdllm.v1.operator_pb2_grpc import OperatorServiceStub
from fwdllm_client.connection.enrol import join
from fwdllm_client.connection.home import ClientHome
from fwdllm_common.protocol import MAX_MESSAGE_BYTES
from fwdllm_server.cli.calls import operator_service

ENROLL = "/fwdllm.v1.EnrolmentService/Enroll"
STREAMS = range(1, 128, 2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that may have no more than 400 descriptors."""
    folder = tmp_path_factory.mktemp("visited")
    program = folder / "cramped"
    program.write_text(f'#!/bin/sh\nulimit -n 400\nexec {PROGRAMS / "fwdllm-server"} "$@"\n')
    program.chmod(0o700)
    with live_server(folder, "device-1", program=program) as running:
        yield running


def token_of(server: LiveServer, name: str) -> str:
    with operator_service(server.home.folder) as service:
        return service.CreateJoinToken(CreateJoinTokenRequest(name=name)).join_token


def check_in(server: LiveServer) -> None:
    with server.channel("device-1", "device") as channel:
        DeviceServiceStub(channel).CheckIn(profile(labels=LABELS), timeout=60, wait_for_ready=True)


def wait_for_a_place(server: LiveServer) -> None:
    """As who tries again and again to join does."""
    with server.channel("nobody", "enrolment") as channel:
        grpc.channel_ready_future(channel).result(60)


@pytest.mark.parametrize("source", ["127.0.0.2", "127.0.0.1"])
def test_a_stranger_holds_all_calls_that_it_can_and_a_device_joins(
    server: LiveServer, tmp_path: Path, source: str
) -> None:
    token = token_of(server, f"honest-{source}")
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(connect(server, "nobody", "enrolment", source))
            connection.sendall(beginning() + b"".join(opening(ENROLL, stream) for stream in STREAMS))
        assert join(ClientHome(tmp_path / "home"), token).device_id


def test_idle_connections_leave_descriptors_for_devices_and_the_store(server: LiveServer, tmp_path: Path) -> None:
    token = token_of(server, "honest")
    with ExitStack() as stack:
        for plane in ("device", "enrolment"):
            host, _, port = server.addresses[plane].rpartition(":")
            for _ in range(400):
                with suppress(OSError):  # it may hang up at once
                    stack.enter_context(
                        socket.create_connection((host, int(port)), timeout=10, source_address=("127.0.0.2", 0))
                    )
        assert server.answers()
        check_in(server)
        wait_for_a_place(server)
        assert join(ClientHome(tmp_path / "home"), token).device_id
    complaints = server.complaints()
    assert not [line for line in complaints if "Too many open files" in line], complaints


def test_compressed_messages_are_refused_before_they_are_inflated(server: LiveServer) -> None:
    large = "x" * (MAX_MESSAGE_BYTES + 1)
    with (
        server.channel("nobody", "enrolment") as enrolment,
        server.channel("device-1", "device") as device,
        server.channel("operator", "operator") as operator,
    ):
        calls = (
            (EnrolmentServiceStub(enrolment).Enroll, EnrollRequest(token_secret=large)),
            (DeviceServiceStub(device).CheckIn, profile(labels=[large])),
            (DeviceServiceStub(device).ReportFeatureSums, FeatureSumsRequest(assignment_id=large)),
            (OperatorServiceStub(operator).SubmitJob, SubmitJobRequest(spec_toml=large)),
        )
        for call, request in calls:
            for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
                with pytest.raises(grpc.RpcError) as caught:
                    call(request, timeout=30, compression=algorithm)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, caught.value.details()
    assert server.answers()
    assert not server.complaints(), "gRPC writes no lines of its own"
