"""grpc.health.v1: reports whether the coordinator serves, for load balancers, containers and probes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthServicer

from fwdllm_common.protocol import Reason
from fwdllm_server.coordinator.health import Health
from fwdllm_server.rpc.errors import CallRefusedError

Context = grpc.aio.ServicerContext[Any, Any]

_SERVICES = ("", "fwdllm.v1.DeviceService", "fwdllm.v1.EnrolmentService", "fwdllm.v1.OperatorService")
_Status = health_pb2.HealthCheckResponse


class HealthService(HealthServicer):  # type: ignore[misc] # the package has no types
    """Answers the same for every service, because they share the store and the event loop."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Return SERVING or NOT_SERVING."""
        if request.service not in _SERVICES:
            message = f"no service {request.service[:64]!r}; leave the name empty for the coordinator as a whole"
            raise CallRefusedError(grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, message)
        return self._answer()

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Stream the current status and every change of it."""
        last = None
        while True:
            changed = self._health.changed  # read before the answer, so that no change during its sending is missed
            answer = self._answer() if request.service in _SERVICES else _Status(status=_Status.SERVICE_UNKNOWN)
            if answer != last:
                yield answer
            last = answer
            await changed.wait()

    def _answer(self) -> health_pb2.HealthCheckResponse:
        return _Status(status=_Status.NOT_SERVING if self._health.problem else _Status.SERVING)
