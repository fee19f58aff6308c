"""Open the coordinator's HTTP ports as configured."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from fwdllm_common.files import write_atomically
from fwdllm_server.config.server_config import is_loopback
from fwdllm_server.coordinator.health import Health
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.dashboard.app import dashboard_app
from fwdllm_server.dashboard.events import MAX_VIEWERS
from fwdllm_server.rpc.connections import Connections, Port
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.web.listening import listening
from fwdllm_server.web.metrics import metrics_app
from fwdllm_server.web.tls import tls_context

_PAGE = Port(places=4 * MAX_VIEWERS, of_a_device=0, of_a_network=2 * MAX_VIEWERS)
"""Connection limits of a page's port. A browser opens a few connections, a proxy those of all viewers."""

_log = structlog.get_logger()


@asynccontextmanager
async def open_pages(
    runtime: Runtime, health: Health, authority: CertificateAuthority, connections: Connections
) -> AsyncIterator[None]:
    """Serve dashboard and metrics while the block runs, each unless its address is empty.

    :param connections: enforces the limits of connections.
    :raises BusyError: a port is in use.
    :raises BadInputError: an address cannot be listened on.
    """
    config, home = runtime.config, runtime.home
    async with AsyncExitStack() as stack:
        if address := config.listen.dashboard:
            local = is_loopback(address.rpartition(":")[0])
            tls = None if local else tls_context(authority.issue_server(config.certificate_hosts, time.time()))
            app = dashboard_app(runtime, home.dashboard_token(), lambda: health.problem)
            bound = await stack.enter_async_context(listening(app, "dashboard", address, tls))
            connections.ports[_port(bound)] = _PAGE
            write_atomically(home.dashboard_address_file, bound.encode())
            _log.info("dashboard", url=home.dashboard_url(config))
        if address := config.listen.metrics:
            bound = await stack.enter_async_context(listening(metrics_app(runtime, health), "metrics", address))
            connections.ports[_port(bound)] = _PAGE
            _log.info("metrics", url=f"http://{bound}/metrics")
        yield


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
