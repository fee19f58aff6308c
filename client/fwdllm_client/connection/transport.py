"""The way to the coordinator: one narrow interface, and gRPC over mutual TLS behind it.

Everything above this file speaks in the messages of protos/fwdllm/v1 and in :class:`CallFailedError`; nothing above it
knows about channels. Methods are addressed by name instead of through the generated stubs, because those refuse to
load on a device whose grpcio is older than the generator's, and because the bytes are counted where they are made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self, TypeVar

import grpc
from google.protobuf.message import Message

from fwdllm.v1 import device_pb2
from fwdllm_client.connection.home import Identity
from fwdllm_common.protocol import CHANNEL_OPTIONS, REASON_KEY, RETRY_AFTER_KEY

CALL_TIMEOUT_S = 30.0
"""Longest wait for a unary answer, seconds."""
PATIENCE_S = 60.0
"""Longest wait for the next message of a stream, where one is due, seconds."""
MOST_PATIENCE_S = 3600.0
"""Longest wait that a coordinator can ask for with a refusal, seconds."""

AGENT_OPTIONS: tuple[tuple[str, int], ...] = (
    *CHANNEL_OPTIONS,
    # Pings only while a call is open: they find a dead connection, and an idle device stays silent. How long an answer
    # is waited for is said by another option than the one with that name, which counts in older gRPC.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 20_000),
    ("grpc.enable_http_proxy", 0),
)

_SERVICE = "/fwdllm.v1.DeviceService/"
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Item = TypeVar("_Item", covariant=True)
_Sent = TypeVar("_Sent")


class CallFailedError(Exception):
    """A call that ended without its answer: gRPC status ``code``, the coordinator's machine-readable ``reason`` (or
    "") and its one line for people; ``retry_after_s`` is how many seconds it wants to be left alone.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, details: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.reason = reason
        self.details = details
        self.retry_after_s = retry_after_s


@dataclass
class Traffic:
    """Message bytes of this process so far; those of artifacts are counted apart."""

    sent: int = 0
    received: int = 0
    artifacts: int = 0


class Stream(Iterator[_Item], Protocol[_Item]):
    """Messages as they arrive; ``cancel`` ends them from any thread."""

    def cancel(self) -> object:
        """End the stream; whoever waits for the next message gets :class:`CallFailedError`."""


class Coordinator(Protocol):
    """What a device can ask of its coordinator; every method raises :class:`CallFailedError`, streams on ``next``."""

    address: str
    traffic: Traffic

    def check_in(self, request: device_pb2.CheckInRequest) -> device_pb2.CheckInResponse:
        """Say what this device has; get an assignment or a window to come back in."""

    def get_artifact(self, request: device_pb2.GetArtifactRequest) -> Stream[device_pb2.ArtifactChunk]:
        """A file by its hash, from an offset."""

    def get_weights(self, request: device_pb2.GetWeightsRequest) -> Stream[device_pb2.WeightsChunk]:
        """The ledger since the held version, or a snapshot."""

    def report(self, requests: Iterator[device_pb2.ReportRequest]) -> Stream[device_pb2.ReportResponse]:
        """Send scalars; each message is answered once it is durable. ``requests`` is read by another thread."""

    def report_feature_sums(self, request: device_pb2.FeatureSumsRequest) -> device_pb2.FeatureSumsResponse:
        """Send per-class sums of features; answered once they are durable."""

    def report_self_test(self, request: device_pb2.SelfTestRequest) -> device_pb2.SelfTestResponse:
        """Say what this device's scalars are worth; the answer says whether they are wanted."""

    def renew_certificate(self, request: device_pb2.RenewCertificateRequest) -> device_pb2.RenewCertificateResponse:
        """Get a certificate for a new key."""


class GrpcCoordinator:
    """:class:`Coordinator` over one gRPC channel with mutual TLS; connects at the first call, and again when lost.

    :param patience_s: seconds after which a stream that owes a message ends.
    """

    _channel: grpc.Channel | None = None

    def __init__(self, identity: Identity, patience_s: float = PATIENCE_S) -> None:
        self.address = identity.device_address
        self.traffic = Traffic()
        self._patience_s = patience_s
        self.use(identity)

    def use(self, identity: Identity) -> None:
        """Make all further calls as ``identity``; those that are open end."""
        if self._channel is not None:
            self._channel.close()
        credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
        self._channel = grpc.secure_channel(self.address, credentials, AGENT_OPTIONS)
        self._check_in = self._channel.unary_unary(
            _SERVICE + "CheckIn", self._sends, self._receives(device_pb2.CheckInResponse)
        )
        self._get_artifact = self._channel.unary_stream(_SERVICE + "GetArtifact", self._sends, self._receives_artifact)
        self._get_weights = self._channel.unary_stream(
            _SERVICE + "GetWeights", self._sends, self._receives(device_pb2.WeightsChunk)
        )
        self._report = self._channel.stream_stream(
            _SERVICE + "Report", self._sends, self._receives(device_pb2.ReportResponse)
        )
        self._report_feature_sums = self._channel.unary_unary(
            _SERVICE + "ReportFeatureSums", self._sends, self._receives(device_pb2.FeatureSumsResponse)
        )
        self._report_self_test = self._channel.unary_unary(
            _SERVICE + "ReportSelfTest", self._sends, self._receives(device_pb2.SelfTestResponse)
        )
        self._renew_certificate = self._channel.unary_unary(
            _SERVICE + "RenewCertificate", self._sends, self._receives(device_pb2.RenewCertificateResponse)
        )

    def check_in(self, request: device_pb2.CheckInRequest) -> device_pb2.CheckInResponse:
        """See :class:`Coordinator`."""
        with calling():
            return self._check_in(request, timeout=CALL_TIMEOUT_S)

    def get_artifact(self, request: device_pb2.GetArtifactRequest) -> Stream[device_pb2.ArtifactChunk]:
        """See :class:`Coordinator`."""
        return _Download(self._get_artifact(request), self._patience_s)

    def get_weights(self, request: device_pb2.GetWeightsRequest) -> Stream[device_pb2.WeightsChunk]:
        """See :class:`Coordinator`."""
        return _Download(self._get_weights(request), self._patience_s)

    def report(self, requests: Iterator[device_pb2.ReportRequest]) -> Stream[device_pb2.ReportResponse]:
        """See :class:`Coordinator`."""
        return _Conversation(self._report, requests, self._patience_s)

    def report_feature_sums(self, request: device_pb2.FeatureSumsRequest) -> device_pb2.FeatureSumsResponse:
        """See :class:`Coordinator`."""
        with calling():
            return self._report_feature_sums(request, timeout=CALL_TIMEOUT_S)

    def report_self_test(self, request: device_pb2.SelfTestRequest) -> device_pb2.SelfTestResponse:
        """See :class:`Coordinator`."""
        with calling():
            return self._report_self_test(request, timeout=CALL_TIMEOUT_S)

    def renew_certificate(self, request: device_pb2.RenewCertificateRequest) -> device_pb2.RenewCertificateResponse:
        """See :class:`Coordinator`."""
        with calling():
            return self._renew_certificate(request, timeout=CALL_TIMEOUT_S)

    def close(self) -> None:
        """End every call and the connection."""
        if self._channel is not None:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _sends(self, message: Message) -> bytes:
        data = message.SerializeToString()
        self.traffic.sent += len(data)
        return data

    def _receives(self, kind: type[_Response]) -> Callable[[bytes], _Response]:
        def parse(data: bytes) -> _Response:
            self.traffic.received += len(data)
            return kind.FromString(data)

        return parse

    def _receives_artifact(self, data: bytes) -> device_pb2.ArtifactChunk:
        self.traffic.artifacts += len(data)
        return device_pb2.ArtifactChunk.FromString(data)


class _Overdue:
    """Ends a call if what is expected of it does not come in time."""

    def __init__(self, patience_s: float, end: Callable[[], object]) -> None:
        self._patience_s = patience_s
        self._end = end
        self._timer: threading.Timer | None = None
        self.happened = False

    def expect(self) -> None:
        """From now on something is due."""
        self.came()
        self._timer = threading.Timer(self._patience_s, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def came(self) -> None:
        """It is here, or nothing is due any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self.happened = True
        self._end()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What the call raises inside, as :class:`CallFailedError`."""
        try:
            with calling():
                yield
        except CallFailedError as error:
            if not self.happened:
                raise
            said = f"nothing came for {self._patience_s:g} s"
            raise CallFailedError(grpc.StatusCode.DEADLINE_EXCEEDED, "", said) from error


class _Download(Iterator[_Item]):
    """Messages that are due whenever they are waited for."""

    def __init__(self, call: Stream[_Item], patience_s: float) -> None:
        self._call = call
        self._overdue = _Overdue(patience_s, call.cancel)

    def __next__(self) -> _Item:
        self._overdue.expect()
        try:
            with self._overdue.explained():
                return next(self._call)
        finally:
            self._overdue.came()

    def cancel(self) -> None:
        self._call.cancel()


class _Conversation(Iterator[_Item]):
    """Messages that are due once one has been sent that has no answer yet."""

    def __init__(
        self, call: Callable[[Iterator[_Sent]], Stream[_Item]], requests: Iterator[_Sent], patience_s: float
    ) -> None:
        self._unanswered = 0
        self._over = False
        self._changing = threading.Lock()
        self._overdue = _Overdue(patience_s, self.cancel)
        self._call = call(self._sending(requests))

    def _sending(self, requests: Iterator[_Sent]) -> Iterator[_Sent]:
        for request in requests:
            with self._changing:
                if self._over:
                    return
                self._unanswered += 1
                if self._unanswered == 1:
                    self._overdue.expect()
            yield request

    def __next__(self) -> _Item:
        try:
            with self._overdue.explained():
                answer = next(self._call)
        except BaseException:
            with self._changing:
                self._over = True
                self._overdue.came()
            raise
        with self._changing:
            self._unanswered -= 1
            if self._unanswered > 0:
                self._overdue.expect()
            else:
                self._overdue.came()
        return answer

    def cancel(self) -> None:
        self._call.cancel()


@contextmanager
def calling() -> Iterator[None]:
    """Turn what gRPC raises inside into :class:`CallFailedError`."""
    try:
        yield
    except grpc.RpcError as error:
        raise _call_failed(error) from error


def _call_failed(error: grpc.RpcError) -> CallFailedError:
    trailing = {item.key: item.value for item in error.trailing_metadata() or ()}
    reason, retry_after = (str(trailing.get(key, "")) for key in (REASON_KEY, RETRY_AFTER_KEY))
    is_number = retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10
    retry_after_s = min(int(retry_after) / 1000, MOST_PATIENCE_S) if is_number else 0.0
    details = " ".join((error.details() or "").split())
    if "CERTIFICATE_VERIFY_FAILED" in details:  # a device's clock is the usual reason
        details += f"; this device's clock says {datetime.now(UTC):%F %H:%M} UTC, set it if that is wrong"
    return CallFailedError(error.code(), reason, details, retry_after_s)
