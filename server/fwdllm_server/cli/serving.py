"""Run the server, from start to stop: store, jobs, ports and pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from grpc_health.v1 import health_pb2_grpc

from fwdllm.v1 import device_pb2_grpc, operator_pb2_grpc
from fwdllm_common.errors import RefusedError
from fwdllm_common.service_manager import notify
from fwdllm_server.cli.allocator import collect_garbage_less_often
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import ServerConfig
from fwdllm_server.coordinator.clock import SteadyClock
from fwdllm_server.coordinator.coordinator import Coordinator
from fwdllm_server.coordinator.first_ended import first_ended
from fwdllm_server.coordinator.health import Health
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rpc.device_service import DeviceService
from fwdllm_server.rpc.enrolment_service import EnrolmentService
from fwdllm_server.rpc.grpc_server import bind_servers
from fwdllm_server.rpc.health_service import HealthService
from fwdllm_server.rpc.operator_service import OperatorService
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.web.pages import open_pages

_GRACE_S = 2.0
_DAY_S = 86_400.0
_WARNING_DAYS = 90

_log = structlog.get_logger()


async def serve(home: ServerHome, config: ServerConfig, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set. The caller must hold the directory's lock.

    :raises BusyError: another process uses a port.
    :raises RefusedError: the server's certificate authority has expired.
    :raises StorageError: the database or the disk cannot be written.
    """
    authority = CertificateAuthority.load(home.ca_certificate, home.ca_key)
    authority.check_valid(time.time())
    servers = await bind_servers(home, config, authority)
    runtime = Runtime(home, config, SteadyClock())
    coordinator = Coordinator(runtime)
    addresses = servers.addresses
    device_pb2_grpc.add_DeviceServiceServicer_to_server(DeviceService(coordinator, authority), servers.device)
    device_pb2_grpc.add_EnrolmentServiceServicer_to_server(
        EnrolmentService(runtime, authority, addresses.device),
        servers.enrolment,
    )
    operator_pb2_grpc.add_OperatorServiceServicer_to_server(
        OperatorService(coordinator, addresses.enrolment, authority.fingerprint), servers.operator
    )
    health = Health(runtime)
    for server in (servers.device, servers.enrolment, servers.operator):
        health_pb2_grpc.add_HealthServicer_to_server(HealthService(health), server)
    try:
        async with open_pages(runtime, health, authority, servers.connections):
            await coordinator.start()
            await servers.start()
            collect_garbage_less_often()
            async with health.watching(), servers.watched(runtime.revoked_among):
                _log.info(
                    "serving", device=addresses.device, enrolment=addresses.enrolment, operator=addresses.operator
                )
                notify("READY=1")
                await first_ended(_stopped(stop), _warn_of_expiry(authority, runtime.clock))
                notify("STOPPING=1")
    finally:
        await servers.stop(_GRACE_S)
        await coordinator.close()
        runtime.close()
    _log.info("stopped; start again to continue")


async def _stopped(stop: asyncio.Event) -> None:
    await stop.wait()


async def _warn_of_expiry(authority: CertificateAuthority, clock: Callable[[], float]) -> None:
    """Log once a day if the authority expires soon or has expired."""
    while True:
        try:
            ends = authority.check_valid(clock())
        except RefusedError as error:
            _log.error("devices refuse this server, its authority has expired", code=error.code, reason=str(error))
        else:
            days = (ends.timestamp() - clock()) / _DAY_S
            if days < _WARNING_DAYS:
                _log.warning("the authority of this server expires soon: plan a new one, see doctor", days=round(days))
        await asyncio.sleep(_DAY_S)
