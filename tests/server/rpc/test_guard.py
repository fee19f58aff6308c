"""What callers see of the errors that services raise, over a real channel."""

import grpc
import pytest
import structlog
from helpers.serving import everything
from server.rpc.loopback import authority_of, bound, channel, device_identity, make_home

from fwdllm.v1.device_pb2 import (
    ArtifactChunk,
    CheckInRequest,
    GetArtifactRequest,
    ReportRequest,
    ReportResponse,
    WeightsChunk,
)
from fwdllm.v1.device_pb2_grpc import DeviceServiceServicer, DeviceServiceStub, add_DeviceServiceServicer_to_server
from fwdllm_common.errors import BadInputError, FwdllmError, IntegrityError, RefusedError, StorageError
from fwdllm_common.protocol import REASON_KEY, Reason
from fwdllm_server.rpc.errors import CallRefusedError


class Failing(DeviceServiceServicer):
    """Raises ``error`` wherever it can, in streams after the first message."""

    def __init__(self):
        self.error: Exception = RuntimeError("unset")

    async def CheckIn(self, request, context):  # noqa: N802
        raise self.error

    async def GetArtifact(self, request, context):  # noqa: N802
        yield ArtifactChunk(data=b"first")
        raise self.error

    async def GetWeights(self, request, context):  # noqa: N802
        yield WeightsChunk(data=b"only")

    async def Report(self, request_iterator, context):  # noqa: N802
        async for request in request_iterator:
            if request.first_index == 2:
                raise self.error
            yield ReportResponse(first_index=request.first_index)


@pytest.fixture
def service():
    return Failing()


@pytest.fixture
async def connected(tmp_path, service):
    home = make_home(tmp_path / "server")
    authority = authority_of(home)
    async with bound(home) as servers:
        add_DeviceServiceServicer_to_server(service, servers.device)
        await servers.start()
        async with channel(servers.addresses.device, authority, device_identity(authority, "dev-1")) as open_channel:
            yield open_channel


@pytest.fixture
async def stub(connected):
    return DeviceServiceStub(connected)


def seen(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str | None, str]:
    return error.code(), dict(tuple(error.trailing_metadata())).get(REASON_KEY), error.details()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (BadInputError("it is wrong"), grpc.StatusCode.INVALID_ARGUMENT, "bad-field"),
        (RefusedError("it is wrong"), grpc.StatusCode.PERMISSION_DENIED, "not-yours"),
        (StorageError("it is wrong"), grpc.StatusCode.UNAVAILABLE, "storage"),
        (IntegrityError("it is wrong"), grpc.StatusCode.DATA_LOSS, None),
        (FwdllmError("it is wrong"), grpc.StatusCode.UNKNOWN, None),
        (
            CallRefusedError(grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, "it is wrong"),
            grpc.StatusCode.NOT_FOUND,
            "not-found",
        ),
    ],
)
async def test_errors_of_ours_have_a_status_a_reason_and_one_line(stub, service, error, status, reason):
    service.error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckIn(CheckInRequest())

    assert seen(caught.value) == (status, reason, "it is wrong")


async def test_other_errors_are_logged_and_stay_inside(stub, service):
    service.error = KeyError("the secret row")
    with structlog.testing.capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckIn(CheckInRequest())

    method = "/fwdllm.v1.DeviceService/CheckIn"
    assert seen(caught.value) == (
        grpc.StatusCode.INTERNAL,
        None,
        f"the coordinator failed in {method}; its log says why",
    )
    assert [(log["event"], log["method"], log["exc_info"]) for log in logs] == [("call failed", method, True)]


async def test_a_stream_delivers_what_came_before_the_error(stub, service):
    service.error = BadInputError("it is wrong")
    call = stub.GetArtifact(GetArtifactRequest())
    assert (await call.read()).data == b"first"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert seen(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, "bad-field", "it is wrong")


async def test_a_stream_in_both_directions_works_and_ends_with_the_error(stub, service):
    service.error = CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, Reason.REVOKED, "it is wrong")
    call = stub.Report()
    for index in (0, 1):
        await call.write(ReportRequest(first_index=index))
        assert (await call.read()).first_index == index
    await call.write(ReportRequest(first_index=2))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert seen(caught.value) == (grpc.StatusCode.UNAUTHENTICATED, "revoked", "it is wrong")


async def test_a_stream_without_errors_ends_well(stub):
    call = stub.Report()
    await call.write(ReportRequest(first_index=0))
    await call.done_writing()

    assert [answer.first_index async for answer in call] == [0]
    assert await call.code() is grpc.StatusCode.OK


async def test_bytes_that_are_no_message_are_the_callers_fault_and_not_logged_as_ours(connected, service):
    service.error = RuntimeError("reached")
    unary = connected.unary_unary("/fwdllm.v1.DeviceService/CheckIn")
    stream = connected.stream_stream("/fwdllm.v1.DeviceService/Report")
    with structlog.testing.capture_logs() as logged:
        for call in (unary(b"\xff"), stream(iter([b"", b"\xff"]))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (everything(call) if hasattr(call, "__aiter__") else call)
            error = caught.value
            reason = dict(tuple(error.trailing_metadata()))[REASON_KEY]
            assert (error.code(), reason) == (grpc.StatusCode.INVALID_ARGUMENT, "bad-field")

    assert {line["log_level"] for line in logged} <= {"debug"}


async def test_a_line_in_any_script_reaches_the_caller(stub, service):
    service.error = RefusedError("💥" * 5000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckIn(CheckInRequest())

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert set(caught.value.details()) == {"💥"}
