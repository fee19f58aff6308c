"""Other coordinators of the same database: devices that wait with one are there for the jobs that another drives."""

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
"""What was written so long ago is read again: a transaction may take a while until others see it."""
_REMEMBERED_S = 3600.0


class Peers:
    """Tells other coordinators which devices wait here, and hears of theirs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._heard: dict[str, float] = {}
        self._heard_until = 0.0

    def tell(self, connection: Connection, device_id: str, request: device_pb2.CheckInRequest, now: float) -> None:
        """A device has checked in and got no work."""
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

    def hear(self, connection: Connection, room: int) -> None:
        """Note the devices that have checked in elsewhere, each check-in once, as there is ``room``."""
        since = max(self._heard_until, self._runtime.clock() - _REMEMBERED_S) - _OVERLAP_S
        for row in waiting.elsewhere(connection, self._runtime.name, since):
            if row.at > self._heard.get(row.device_id, 0.0):
                self._heard[row.device_id] = row.at
                self._heard_until = max(self._heard_until, row.at)
                self._runtime.presence.admit(replace(_read(row.profile), device_id=row.device_id, at=row.at), room)
        self._heard = {device: at for device, at in self._heard.items() if at > since}
        waiting.forget(connection, since - _REMEMBERED_S)


def present(device_id: str, at: float, request: device_pb2.CheckInRequest) -> Present:
    """A device that has checked in, by what it says of itself."""
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
