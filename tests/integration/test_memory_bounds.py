"""What strangers and devices leave unfinished, send too much of or too often: memory stays within a bound."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest
from fuzz.frames import beginning, connect, data, message, opening, unfinished
from helpers.live_server import LiveServer, live_server

from fwdllm.v1.device_pb2 import EnrollRequest
from fwdllm.v1.device_pb2_grpc import EnrolmentServiceStub

GROWTH = 64 << 20
"""Bytes by which memory may be more than before, while an attack goes on."""
ENROLL, CHECK_IN, REPORT = (
    "/fwdllm.v1.EnrolmentService/Enroll",
    "/fwdllm.v1.DeviceService/CheckIn",
    "/fwdllm.v1.DeviceService/Report",
)
STREAMS = range(1, 128, 2)
"""Numbers of as many streams as a connection may have."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert most > 1000
    with live_server(tmp_path_factory.mktemp("attacked"), "device-1") as running:
        for attack in (half_open_streams, floods):  # what is allocated once is no growth
            with ExitStack() as stack:
                attack(running, stack, few=True)
        yield running


def silent_connections(server: LiveServer, stack: ExitStack, *, few: bool = False) -> None:
    """Connections on which no handshake begins."""
    for plane in ("device", "enrolment"):
        host, _, port = server.addresses[plane].rpartition(":")
        for _ in range(200):
            stack.enter_context(socket.create_connection((host, int(port))))


def half_open_streams(server: LiveServer, stack: ExitStack, *, few: bool = False) -> None:
    """A stranger's calls whose messages have all but their last byte."""
    for _ in range(2 if few else 40):
        connection = stack.enter_context(connect(server, "nobody", "enrolment"))
        connection.sendall(beginning())
        for stream in STREAMS:
            connection.sendall(unfinished(ENROLL, stream, bytes(1000), 16_000))


def slow_reports(server: LiveServer, stack: ExitStack, *, few: bool = False) -> None:
    """A device's streams with the beginnings of messages of the size that is allowed."""
    for _ in range(4):
        connection = stack.enter_context(connect(server, "device-1", "device"))
        connection.sendall(beginning())
        for stream in STREAMS:
            connection.sendall(unfinished(REPORT, stream, bytes(500), 4 << 20))


def oversized_messages(server: LiveServer, stack: ExitStack, *, few: bool = False) -> None:
    """Messages that say that they are huge, from a stranger and from a device."""
    for caller, plane, path in (("nobody", "enrolment", ENROLL), ("device-1", "device", CHECK_IN)):
        for _ in range(20):
            connection = stack.enter_context(connect(server, caller, plane))
            say(connection, beginning() + opening(path) + data(1, message(bytes(60_000), 2**32 - 1)))


def floods(server: LiveServer, stack: ExitStack, *, few: bool = False) -> None:
    """Calls as fast as they go, each refused."""
    for _ in range(2 if few else 5):
        channel = stack.enter_context(server.channel("nobody", "enrolment"))
        service = EnrolmentServiceStub(channel)
        calls = [service.Enroll.future(EnrollRequest(token_secret="x" * 8000), timeout=90) for _ in range(200)]
        assert not {call.code() for call in calls} & {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN}


def say(connection: socket.socket, what: bytes) -> None:
    try:
        connection.sendall(what)
    except OSError:  # it may hang up
        return


@pytest.mark.parametrize("attack", [silent_connections, half_open_streams, slow_reports, oversized_messages, floods])
def test_memory_stays_bounded(server: LiveServer, attack: Callable[..., None]) -> None:
    before = server.memory
    with ExitStack() as stack:
        attack(server, stack)
        assert server.answers()  # operators are served meanwhile
        grown = server.memory - before
    assert grown < GROWTH, f"{grown >> 20} MiB"
    assert not server.complaints()
