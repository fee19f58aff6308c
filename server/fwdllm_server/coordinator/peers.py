"""The exchange with other coordinators of the same database: devices that wait with one serve the jobs of all."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.job_choice import JobChoice
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rounds.presence import Present
from fwdllm_server.store import waiting

_OVERLAP_S = 5.0
"""The seconds of the past that are read again: a transaction may become visible some time after it began."""
_REMEMBERED_S = 3600.0


class Peers:
    """The devices that wait here, published to other coordinators, and theirs, polled."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._polled: dict[str, float] = {}
        self._polled_until = 0.0

    def publish(self, connection: Connection, device_id: str, request: device_pb2.CheckInRequest, now: float) -> None:
        """Publish that a device has checked in at ``now`` (seconds since 1970) and got no work."""
        if not self._runtime.database.shared or request.conditions.holds:
            return
        profile = device_pb2.CheckInRequest(
            labels=sorted(set(request.labels)),
            capabilities=sorted(set(request.capabilities)),
            jobs=request.jobs if request.HasField("jobs") else None,
            task=request.task or CLASSIFICATION,
            training_examples=request.training_examples,
            memory_bytes=request.memory_bytes,
        )
        waiting.seen(connection, device_id, self._runtime.name, now, profile.SerializeToString(deterministic=True))

    def poll(self, connection: Connection, room: int) -> None:
        """Admit devices that have checked in with other coordinators, each check-in once, up to ``room`` devices."""
        since = max(self._polled_until, self._runtime.clock() - _REMEMBERED_S) - _OVERLAP_S
        for row in waiting.elsewhere(connection, self._runtime.name, since):
            if row.at > self._polled.get(row.device_id, 0.0):
                self._polled[row.device_id] = row.at
                self._polled_until = max(self._polled_until, row.at)
                self._runtime.presence.admit(replace(_read(row.profile), device_id=row.device_id, at=row.at), room)
        self._polled = {device: at for device, at in self._polled.items() if at > since}
        waiting.forget(connection, since - _REMEMBERED_S)


def present(device_id: str, at: float, request: device_pb2.CheckInRequest) -> Present:
    """Return the device that has checked in at ``at`` (seconds since 1970), as its request describes it."""
    return Present(
        device_id,
        at,
        frozenset(request.labels),
        frozenset(request.capabilities),
        JobChoice.from_message(request.jobs),
        request.task or CLASSIFICATION,
        request.training_examples,
        request.memory_bytes,
    )


@lru_cache(1024)
def _read(profile: bytes) -> Present:
    return present("", 0.0, device_pb2.CheckInRequest.FromString(profile))
