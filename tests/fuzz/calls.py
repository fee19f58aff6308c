"""Calls of every method of every service, by whoever, with whatever; and what may come of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from fuzz.grammar import LARGE, Drawn, Words, built, messages, mutated, mutations
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from helpers.live_server import LiveServer
from helpers.tiny_job import LABELS
from hypothesis import strategies as st

from fwdllm.v1 import device_pb2, operator_pb2
from fwdllm_client.connection.keys import certificate_request, new_key
from fwdllm_common.protocol import GENERATOR_VERSION, PROTOCOL_MAJOR, REASON_KEY

METHODS: Mapping[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in (device_pb2.DESCRIPTOR, operator_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}
PLANES = {"DeviceService": "device", "EnrolmentService": "enrolment", "OperatorService": "operator", "Health": "device"}
DEVICES = ("device-1", "device-2")
CALLERS = (*DEVICES, "operator", "nobody", "stranger")
WORK, OTHERS_WORK = "(an assignment of one's own)", "(an assignment of another's)"
HANG_S = 90.0
_REQUEST = certificate_request(new_key())
_WORDS = Words(["tiny", "job1", WORK, WORK, WORK, OTHERS_WORK, "job1-1-1", *LABELS, "head", "peft"], [_REQUEST])
_CHECK_IN: Drawn = {
    "protocol": {"major": PROTOCOL_MAJOR},
    "generator_version": GENERATOR_VERSION,
    "labels": list(LABELS),
    "training_examples": 9,
}
_VALID: Mapping[str, Drawn] = {
    "CheckIn": _CHECK_IN,
    "Report": {"assignment_id": WORK, "derivatives": [0.5]},
    "ReportFeatureSums": {"assignment_id": WORK},
    "ReportSelfTest": {"assignment_id": WORK, "signal_to_noise": 9.0},
    "Aggregate": {"assignment_id": WORK, "masked": bytes(8)},
    "GetWeights": {"job_id": "job1", "version": 1},
    "RenewCertificate": {"certificate_request": _REQUEST},
    "Enroll": {"token_secret": "A" * 43, "certificate_request": _REQUEST},
    "SubmitJob": {"spec_toml": "[job]\nname = 'x'\n", "base_folder": "/"},
    "CreateJoinToken": {"name": "x"},
    "RevokeDevice": {"device": "x"},
}
_JOBS = {"job": "tiny"}

# UNKNOWN and INTERNAL are failures of ours, UNIMPLEMENTED a method that is at no port, DEADLINE_EXCEEDED a hang.
_ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True)
class Call:
    """A call of ``method`` by ``caller``: what was drawn of each message, how its bytes change, how often it goes."""

    method: str
    caller: str
    drawn: tuple[tuple[Drawn, list[tuple[str, float, int]], int], ...]


def calls() -> st.SearchStrategy[Call]:
    """Any method by any caller, mostly by the one that it is for."""
    return st.sampled_from(sorted(METHODS)).flatmap(_calls_of)


def _calls_of(path: str) -> st.SearchStrategy[Call]:
    method = METHODS[path]
    valid = _VALID.get(method.name, _JOBS if "job" in method.input_type.fields_by_name else {})
    any_fields = messages(method.input_type, _WORDS)
    message = st.one_of(st.just(valid), any_fields.map(lambda drawn: {**valid, **drawn}), any_fields)
    repeated = st.sampled_from([1, 1, 1, 20]) if method.client_streaming else st.just(1)
    several = st.lists(
        st.tuples(message, mutations(), repeated), min_size=1, max_size=3 if method.client_streaming else 1
    )
    right = "operator" if "Operator" in path else "nobody" if "Enrolment" in path else "device-1"
    callers = st.one_of(
        st.sampled_from([right, "device-2" if right == "device-1" else right]), st.sampled_from(CALLERS)
    )
    return st.builds(lambda caller, drawn: Call(path, caller, tuple(drawn)), callers, several)


class Callers:
    """Carries out calls at a server, and knows what the devices have to do there."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._channels: dict[tuple[str, str], grpc.Channel] = {}
        self._work = dict.fromkeys(DEVICES, "")
        self.sent = 0

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def check_in(self) -> None:
        """Both devices hear what their work is; fails unless they are served."""
        for name in DEVICES:
            stub = self._channel(name, "device").unary_unary(
                "/fwdllm.v1.DeviceService/CheckIn",
                request_serializer=device_pb2.CheckInRequest.SerializeToString,
                response_deserializer=device_pb2.CheckInResponse.FromString,
            )
            request = built(METHODS["/fwdllm.v1.DeviceService/CheckIn"].input_type, _CHECK_IN, lambda value: value)
            answer = stub(request, timeout=HANG_S)
            self._work[name] = answer.assignment.assignment_id or next(iter(answer.open_assignments), "none")

    def carry_out(self, burst: list[Call]) -> list[str]:
        """All at once; what came of them that may not."""
        for who, plane in list(self._channels):
            if who in ("nobody", "stranger"):  # a handshake that was refused is not tried again for a while
                self._channels.pop((who, plane)).close()
        begun = [(call, self._begin(call)) for call in burst]
        found = [_wrong(call, _outcome(METHODS[call.method], answer)) for call, answer in begun]
        return [words for words in found if words]

    def _begin(self, call: Call) -> Any:
        method = METHODS[call.method]
        channel = self._channel(call.caller, PLANES[method.containing_service.name])
        payloads = [
            data for drawn, changes, times in call.drawn for data in [self._bytes(call, drawn, changes)] * times
        ]
        self.sent += len(payloads)
        if method.client_streaming:
            return channel.stream_stream(call.method)(iter(payloads), timeout=HANG_S)
        if method.server_streaming:
            return channel.unary_stream(call.method)(payloads[0], timeout=HANG_S)
        return channel.unary_unary(call.method).future(payloads[0], timeout=HANG_S)

    def _bytes(self, call: Call, drawn: Drawn, changes: list[tuple[str, float, int]]) -> bytes:
        mine = call.caller if call.caller in DEVICES else DEVICES[0]
        other = DEVICES[1 - DEVICES.index(mine)]
        stands_for = {**LARGE, WORK: self._work[mine], OTHERS_WORK: self._work[other]}

        def known(value: Any) -> Any:
            return stands_for.get(value, value) if isinstance(value, str | bytes) else value

        return mutated(built(METHODS[call.method].input_type, drawn, known).SerializeToString(), changes)

    def _channel(self, caller: str, plane: str) -> grpc.Channel:
        if (caller, plane) not in self._channels:
            self._channels[caller, plane] = self._server.channel(caller, plane)
        return self._channels[caller, plane]


def _outcome(method: MethodDescriptor, answer: Any) -> tuple[grpc.StatusCode, str, str]:
    try:
        if method.server_streaming:
            for _ in answer:
                if method.name.startswith("Watch"):  # has no end
                    answer.cancel()
        else:
            answer.result()
    except grpc.RpcError as error:
        if isinstance(error, grpc.FutureCancelledError):
            return grpc.StatusCode.CANCELLED, "", ""
        trailing = dict(error.trailing_metadata() or ())  # type: ignore[attr-defined]
        return error.code(), str(trailing.get(REASON_KEY, "")), error.details() or ""  # type: ignore[attr-defined]
    return grpc.StatusCode.OK, "", ""


def _wrong(call: Call, outcome: tuple[grpc.StatusCode, str, str]) -> str:
    """What may not be; empty if all is well."""
    status, reason, words = outcome
    service = METHODS[call.method].containing_service.name
    locked = service != "EnrolmentService"
    if locked and call.caller in ("nobody", "stranger"):
        right = status is grpc.StatusCode.UNAVAILABLE  # the handshake fails
    elif (service == "OperatorService" and call.caller in DEVICES) or (
        service == "DeviceService" and call.caller == "operator"
    ):
        right = (status, reason) == (grpc.StatusCode.PERMISSION_DENIED, "not-yours") or _too_large(status, reason)
    else:
        silent = (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        right = status in _ALLOWED and (bool(reason) or status in silent)
    return "" if right else f"{call.method} by {call.caller}: {status.name} {reason!r} {words[:500]!r}"


def _too_large(status: grpc.StatusCode, reason: str) -> bool:
    return status is grpc.StatusCode.RESOURCE_EXHAUSTED and not reason
