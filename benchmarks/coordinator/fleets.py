"""Whom the load generator plays: devices of this project, or nodes of Flower. One connection each."""

from __future__ import annotations

import struct
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.coordinator.connections import Answered, Connection, Loop, client_context
from benchmarks.coordinator.wire import Grpc, Http
from fwdllm.v1.conditions_pb2 import Conditions
from fwdllm.v1.device_pb2 import CheckInRequest, JobChoice, ProtocolVersion
from fwdllm_common.protocol import GENERATOR_VERSION, PROTOCOL_MAJOR, PROTOCOL_MINOR

LABELS = ("no", "yes")
CHECK_IN = "/fwdllm.v1.DeviceService/CheckIn"


class Fleet(Protocol):
    """Clients by number; each has one connection at a time."""

    def connect(self, number: int, opened: Answered) -> Connection:
        """Begin to connect; ``opened`` is called at the end, with None if it failed."""

    def check_in(self, number: int, connection: Connection, answered: Answered) -> None:
        """Make the call that is measured."""


class Devices:
    """Devices of this project, with the certificates that :mod:`benchmarks.coordinator.population` made."""

    def __init__(self, loop: Loop, address: tuple[str, int], folder: Path, first: int) -> None:
        self._loop = loop
        self._address = address
        self._folder = folder
        self._first = first
        self._context = client_context(folder / "ca.pem", Grpc.protocol)
        self.ready = check_in_request().SerializeToString()
        """A check-in that asks for work."""
        self._idle = check_in_request(jobs=JobChoice(only=True, names=["another"])).SerializeToString()

    def connect(self, number: int, opened: Answered) -> Connection:
        """Begin to connect as a device, with its own certificate and the key of all."""
        self._context.load_cert_chain(self._folder / f"{self._first + number}.pem")
        authority = f"localhost:{self._address[1]}"
        return Connection(self._loop, self._address, self._context, Grpc(authority), opened)

    def check_in(self, number: int, connection: Connection, answered: Answered) -> None:  # noqa: ARG002 - TLS says who
        """Check in as a device that waits for another job; the answer says when to check in again."""
        connection.unary(CHECK_IN, self._idle, answered)


class FlowerNodes:
    """SuperNodes of Flower's Fleet API over HTTPS; ``call`` is ``send-node-heartbeat`` or ``pull-messages``."""

    def __init__(self, loop: Loop, address: tuple[str, int], folder: Path, call: str) -> None:
        self._loop = loop
        self._address = address
        self._context = client_context(folder / "ca.pem", Http.protocol)
        self._call = f"/v1/fleet/{call}"
        self._keys: dict[int, ec.EllipticCurvePrivateKey] = {}
        self._nodes: dict[int, bytes] = {}

    def connect(self, number: int, opened: Answered) -> Connection:
        """Begin to connect as a node, which is first registered and activated."""
        key = self._keys.setdefault(number, ec.generate_private_key(ec.SECP256R1()))
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

        def registered(answer: bytes | None) -> None:
            if answer is None:
                opened(None)
                return
            # RegisterNodeFleetResponse and Node have the same only field, 1: node_id.
            self._nodes[number] = _field(1, answer)
            connection.unary("/v1/fleet/activate-node", _field(1, pem) + _INTERVAL, opened)

        def shaken(answer: bytes | None) -> None:
            if answer is None or number in self._nodes:
                opened(answer)
            else:
                connection.unary("/v1/fleet/register-node", _field(1, pem), registered)

        codec = Http(f"localhost:{self._address[1]}", _signed(key, pem))
        connection = Connection(self._loop, self._address, self._context, codec, shaken)
        return connection

    def check_in(self, number: int, connection: Connection, answered: Answered) -> None:
        """One call of the kind that is measured; both requests begin with the node."""
        interval = _INTERVAL if self._call.endswith("heartbeat") else b""
        connection.unary(self._call, self._nodes[number] + interval, answered)


def check_in_request(jobs: JobChoice | None = None) -> CheckInRequest:
    """Return the request of a device of the benchmark that checks in."""
    return CheckInRequest(
        protocol=ProtocolVersion(major=PROTOCOL_MAJOR, minor=PROTOCOL_MINOR),
        generator_version=GENERATOR_VERSION,
        labels=LABELS,
        training_examples=500,
        validation_examples=50,
        memory_bytes=8 << 30,
        software="fwdllm/0.1.0 onnxruntime/1.32.0",
        conditions=Conditions(charging=True, battery_percent=80, metered=False),
        jobs=jobs,
    )


def _signed(key: ec.EllipticCurvePrivateKey, pem: bytes) -> str:
    """Return the headers that identify a SuperNode. It signs each request; a signature is valid for five minutes."""
    timestamp = datetime.now(UTC).isoformat()
    signature = key.sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    headers = {
        "flwr-public-key": b64encode(pem).decode(),
        "flwr-timestamp": timestamp,
        "flwr-signature": b64encode(signature).decode(),
    }
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def _field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited protobuf field of less than 2¹⁴ bytes."""
    length = len(value)
    size = bytes((length,)) if length < 128 else bytes((length & 127 | 128, length >> 7))
    return bytes((number << 3 | 2,)) + size + value


_INTERVAL = b"\x11" + struct.pack("<d", 30.0)
"""Field 2 of both requests that have it, heartbeat_interval."""
