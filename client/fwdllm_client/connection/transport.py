"""Calls to the coordinator: a narrow interface, and its implementation by gRPC over mutual TLS.

The rest of the agent uses only the messages of protos/fwdllm/v1 and :class:`CallFailedError`, no gRPC channels. Methods
are addressed by name instead of through the generated stubs, because those refuse to load on a device whose grpcio is
older than the generator's, and because bytes are counted during serialisation.
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
"""Timeout of a unary call, seconds."""
PATIENCE_S = 60.0
"""Timeout for the next message of a stream while one is due, seconds."""
MOST_PATIENCE_S = 3600.0
"""Longest wait that a coordinator can request with a refusal, seconds."""

AGENT_OPTIONS: tuple[tuple[str, int], ...] = (
    *CHANNEL_OPTIONS,
    # Pings only while a call is open: they detect a dead connection, and an idle device stays silent. Newer gRPC takes
    # the timeout of a ping from ping_timeout_ms, older gRPC from keepalive_timeout_ms.
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
    """A call failed with gRPC status ``code``.

    ``reason`` is the coordinator's machine-readable reason or "", ``details`` its message in one line;
    ``retry_after_s`` is the minimum time before a retry, seconds.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, details: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.reason = reason
        self.details = details
        self.retry_after_s = retry_after_s


@dataclass
class Traffic:
    """Message bytes of this process so far; received artifacts are counted separately."""

    sent: int = 0
    received: int = 0
    artifacts: int = 0


class Stream(Iterator[_Item], Protocol[_Item]):
    """Messages as they arrive; ``cancel`` ends them from any thread."""

    def cancel(self) -> object:
        """End the stream; a pending ``next`` raises :class:`CallFailedError`."""


class Coordinator(Protocol):
    """The calls to a coordinator; every method raises :class:`CallFailedError`, streams raise it on ``next``."""

    address: str
    traffic: Traffic

    def check_in(self, request: device_pb2.CheckInRequest) -> device_pb2.CheckInResponse:
        """Send the device's profile; get an assignment, or the window of the next check-in."""

    def get_artifact(self, request: device_pb2.GetArtifactRequest) -> Stream[device_pb2.ArtifactChunk]:
        """Download a file by its hash, from an offset in bytes."""

    def get_weights(self, request: device_pb2.GetWeightsRequest) -> Stream[device_pb2.WeightsChunk]:
        """Download the ledger since the held version, or a snapshot."""

    def report(self, requests: Iterator[device_pb2.ReportRequest]) -> Stream[device_pb2.ReportResponse]:
        """Send scalars; each message is answered once it is durable. Another thread iterates over ``requests``."""

    def report_feature_sums(self, request: device_pb2.FeatureSumsRequest) -> device_pb2.FeatureSumsResponse:
        """Send per-class sums of features; answered once they are durable."""

    def report_self_test(self, request: device_pb2.SelfTestRequest) -> device_pb2.SelfTestResponse:
        """Send the signal-to-noise ratio of the known-answer test; the response says whether it suffices."""

    def aggregate(self, request: device_pb2.AggregateRequest) -> device_pb2.AggregateResponse:
        """Send a message of secure aggregation; get what the next one is made of, or how long to wait for it."""

    def renew_certificate(self, request: device_pb2.RenewCertificateRequest) -> device_pb2.RenewCertificateResponse:
        """Request a certificate for a new key."""


class GrpcCoordinator:
    """A :class:`Coordinator` over one gRPC channel with mutual TLS, which connects at the first call and reconnects.

    :param patience_s: timeout for a due message of a stream, seconds.
    """

    _channel: grpc.Channel | None = None

    def __init__(self, identity: Identity, patience_s: float = PATIENCE_S) -> None:
        self.address = identity.device_address
        self.traffic = Traffic()
        self._patience_s = patience_s
        self.use(identity)

    def use(self, identity: Identity) -> None:
        """Make all further calls with ``identity``; open calls end."""
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
        self._aggregate = self._channel.unary_unary(
            _SERVICE + "Aggregate", self._sends, self._receives(device_pb2.AggregateResponse)
        )
        self._renew_certificate = self._channel.unary_unary(
            _SERVICE + "RenewCertificate", self._sends, self._receives(device_pb2.RenewCertificateResponse)
        )

    def check_in(self, request: device_pb2.CheckInRequest) -> device_pb2.CheckInResponse:
        """Call CheckIn."""
        with calling():
            return self._check_in(request, timeout=CALL_TIMEOUT_S)

    def get_artifact(self, request: device_pb2.GetArtifactRequest) -> Stream[device_pb2.ArtifactChunk]:
        """Call GetArtifact."""
        return _Download(self._get_artifact(request), self._patience_s)

    def get_weights(self, request: device_pb2.GetWeightsRequest) -> Stream[device_pb2.WeightsChunk]:
        """Call GetWeights."""
        return _Download(self._get_weights(request), self._patience_s)

    def report(self, requests: Iterator[device_pb2.ReportRequest]) -> Stream[device_pb2.ReportResponse]:
        """Call Report."""
        return _Conversation(self._report, requests, self._patience_s)

    def report_feature_sums(self, request: device_pb2.FeatureSumsRequest) -> device_pb2.FeatureSumsResponse:
        """Call ReportFeatureSums."""
        with calling():
            return self._report_feature_sums(request, timeout=CALL_TIMEOUT_S)

    def report_self_test(self, request: device_pb2.SelfTestRequest) -> device_pb2.SelfTestResponse:
        """Call ReportSelfTest."""
        with calling():
            return self._report_self_test(request, timeout=CALL_TIMEOUT_S)

    def aggregate(self, request: device_pb2.AggregateRequest) -> device_pb2.AggregateResponse:
        """Call Aggregate."""
        with calling():
            return self._aggregate(request, timeout=CALL_TIMEOUT_S)

    def renew_certificate(self, request: device_pb2.RenewCertificateRequest) -> device_pb2.RenewCertificateResponse:
        """Call RenewCertificate."""
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
    """A watchdog that ends a call if a due message does not arrive in time."""

    def __init__(self, patience_s: float, end: Callable[[], object]) -> None:
        self._patience_s = patience_s
        self._end = end
        self._timer: threading.Timer | None = None
        self.happened = False

    def expect(self) -> None:
        """Start the timer: a message is due."""
        self.came()
        self._timer = threading.Timer(self._patience_s, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def came(self) -> None:
        """Stop the timer: the message has arrived, or none is due any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self.happened = True
        self._end()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn gRPC errors inside into :class:`CallFailedError`, after a timeout with DEADLINE_EXCEEDED."""
        try:
            with calling():
                yield
        except CallFailedError as error:
            if not self.happened:
                raise
            details = f"nothing came for {self._patience_s:g} s"
            raise CallFailedError(grpc.StatusCode.DEADLINE_EXCEEDED, "", details) from error


class _Download(Iterator[_Item]):
    """A stream whose next message is always due."""

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
    """A stream whose next message is due while a sent message is unanswered."""

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
    """Turn gRPC errors inside into :class:`CallFailedError`."""
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
    if "CERTIFICATE_VERIFY_FAILED" in details:  # a wrong clock of the device is the usual cause
        details += f"; this device's clock says {datetime.now(UTC):%F %H:%M} UTC, set it if that is wrong"
    return CallFailedError(error.code(), reason, details, retry_after_s)
