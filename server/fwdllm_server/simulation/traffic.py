"""Count the bytes that simulated devices would send and receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from google.protobuf.message import Message
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import ledger


@dataclass
class Link:
    """A device's traffic so far, in bytes, and the version of the weights that it has (None before the first)."""

    artifacts: int
    version: int | None = None
    sent: int = 0
    received: int = 0


class Traffic:
    """The traffic of every device that has fetched an assignment. The first fetch includes the model bundle."""

    def __init__(self, job: TrainingJob) -> None:
        self._job = job
        self._bundle_bytes = sum(file.bytes for file in job.manifest.files)
        self._snapshot = (-1, 0)  # a version and its size, bytes
        self._links: dict[str, Link] = {}

    def fetched(self, connection: Connection, device_id: str, assignment: device_pb2.Assignment) -> None:
        """Count an assignment that a device fetched, with the weights for it: θ, or the ledger since its version."""
        link = self._links.setdefault(device_id, Link(self._bundle_bytes))
        link.received += assignment.ByteSize()
        if assignment.feature_sums:
            link.artifacts += self._job.state.theta.nbytes
            return
        link.received += self._weights_bytes(connection, link)
        link.version = assignment.version

    def report(self, device_id: str, request: Message, usage: device_pb2.ResourceUsage) -> None:
        """Count a ``request`` that a device sends, and set the traffic in its ``usage``, the request included."""
        link = self._links[device_id]
        usage.bytes_received, usage.artifact_bytes = link.received, link.artifacts
        usage.bytes_sent = link.sent
        link.sent += request.ByteSize()
        usage.bytes_sent = link.sent

    def answered(self, device_id: str, response: Message) -> None:
        """Count a response that a device received."""
        self._links[device_id].received += response.ByteSize()

    def to_json(self) -> Mapping[str, Any]:
        """Serialise the traffic of all devices to JSON values."""
        return {device: asdict(link) for device, link in self._links.items()}

    def restore(self, value: Mapping[str, Any]) -> None:
        """Restore the traffic of all devices from :meth:`to_json`."""
        self._links = {device: Link(**link) for device, link in value.items()}

    def _weights_bytes(self, connection: Connection, link: Link) -> int:
        state = self._job.state
        if self._snapshot[0] != state.version:
            self._snapshot = state.version, len(state.to_bytes())
        if link.version is None:
            return self._snapshot[1]
        return min(ledger.bytes_since(connection, self._job.id, link.version), self._snapshot[1])
