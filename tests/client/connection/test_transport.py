"""Calls whose coordinator is silent or sends what it should not."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from dataclasses import replace

import pytest
from fuzz.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, literals
from grpc import StatusCode
from helpers.silent_relay import SilentRelay, hurried

from fwdllm.v1 import device_pb2
from fwdllm_client.connection import transport
from fwdllm_client.connection.transport import CallFailedError, GrpcCoordinator
from fwdllm_common.protocol import MAX_MESSAGE_BYTES

STATUS_200 = b"\x88"
"""As HPACK has it."""
LONG_S = 3600.0
SHORT_S = 0.5


@pytest.fixture
def never():
    """What a coordinator waits for that hangs; it goes on when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def failure(stream) -> CallFailedError:
    """How it ends; a test that would hang ends it itself."""
    guard = threading.Timer(40.0, stream.cancel)
    guard.start()
    try:
        with pytest.raises(CallFailedError) as caught:
            next(stream)
    finally:
        guard.cancel()
    return caught.value


def test_a_connection_on_which_nothing_passes_any_more_is_found_dead(coordinator, monkeypatch):
    monkeypatch.setattr(transport, "AGENT_OPTIONS", hurried(transport.AGENT_OPTIONS))
    waiting = threading.Event()
    with SilentRelay(coordinator.port) as relay:
        identity = replace(coordinator.identity(), device_address=f"127.0.0.1:{relay.port}")
        with GrpcCoordinator(identity, LONG_S) as link:
            first = device_pb2.ReportRequest(assignment_id="a")
            stream = link.report(iter_until(waiting, first))
            assert next(stream).assignment_id == "a"
            relay.go_silent()
            assert failure(stream).code is StatusCode.UNAVAILABLE
            waiting.set()


def iter_until(over, *requests):
    """Requests of a stream that stays open."""
    yield from requests
    over.wait()


def stalled(chunk, never):
    def stream(_):
        yield chunk
        never.wait()

    return stream


@pytest.mark.parametrize("kind", ["artifact", "weights"])
def test_a_download_that_stands_still_ends(coordinator, never, kind):
    coordinator.on_artifact = stalled(device_pb2.ArtifactChunk(data=b"x", total_bytes=9), never)
    coordinator.on_weights = stalled(device_pb2.WeightsChunk(data=b"x"), never)
    with GrpcCoordinator(coordinator.identity(), SHORT_S) as link:
        stream = (
            link.get_artifact(device_pb2.GetArtifactRequest())
            if kind == "artifact"
            else link.get_weights(device_pb2.GetWeightsRequest())
        )
        assert next(stream).data == b"x"
        error = failure(stream)
    assert (error.code, error.details) == (StatusCode.DEADLINE_EXCEEDED, "nothing came for 0.5 s")


def test_a_report_without_its_answer_ends(coordinator):
    coordinator.on_report = lambda request: None
    over = threading.Event()
    with GrpcCoordinator(coordinator.identity(), SHORT_S) as link:
        error = failure(link.report(iter_until(over, device_pb2.ReportRequest(assignment_id="a"))))
        over.set()
    assert error.code is StatusCode.DEADLINE_EXCEEDED


def test_a_report_may_be_quiet_while_no_answer_is_due(coordinator):
    over = threading.Event()
    with GrpcCoordinator(coordinator.identity(), SHORT_S) as link:
        stream = link.report(iter_until(over, *[device_pb2.ReportRequest(assignment_id="a")] * 3))
        for _ in range(3):
            assert next(stream).assignment_id == "a"
        assert not over.wait(2 * SHORT_S), "the device computes"
        over.set()
        with pytest.raises(StopIteration):
            next(stream)


def test_compressed_answers_are_refused_and_not_inflated(authority, coordinator, tmp_path):
    large = device_pb2.CheckInResponse(open_assignments=["x" * (MAX_MESSAGE_BYTES + 1)])
    arguments = (tls(authority, tmp_path), gzip.compress(large.SerializeToString()))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer_compressed, args=(listening, *arguments), daemon=True)
        thread.start()
        identity = replace(coordinator.identity(), device_address=f"127.0.0.1:{listening.getsockname()[1]}")
        with GrpcCoordinator(identity) as link, pytest.raises(CallFailedError) as caught:
            link.check_in(device_pb2.CheckInRequest())
        thread.join(20)
    assert caught.value.code is not StatusCode.RESOURCE_EXHAUSTED, "it was inflated to see how large it is"
    assert caught.value.code in (StatusCode.UNIMPLEMENTED, StatusCode.INTERNAL)


def tls(authority, folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = folder / "chain.pem"
    chain.write_bytes(authority.server_key + authority.server_chain)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["h2"])
    return context


def answer_compressed(listening, context, body):
    """One call over HTTP/2, answered as no server of gRPC's would: compressed, whatever the caller takes."""
    with (
        context.wrap_socket(listening.accept()[0], server_side=True) as connection,
        connection.makefile("rb") as frames,
    ):
        frames.read(len(PREFACE))
        connection.sendall(frame(SETTINGS, 0, 0, b""))
        kind, flags = None, 0
        while not (kind == DATA and flags & END_STREAM):
            head = frames.read(9)
            kind, flags = head[3], head[4]
            frames.read(int.from_bytes(head[:3], "big"))
        headers = {"content-type": "application/grpc", "grpc-encoding": "gzip"}
        message = b"\1" + len(body).to_bytes(4, "big") + body
        connection.sendall(
            frame(HEADERS, END_HEADERS, 1, STATUS_200 + literals(headers))
            + frame(DATA, 0, 1, message)
            + frame(HEADERS, END_HEADERS | END_STREAM, 1, literals({"grpc-status": "0"}))
        )
        while frames.read(1):
            pass
