"""Bind the three gRPC servers. Devices and operators need client certificates; enrolment is open to all."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio

from fwdllm_common.errors import BadInputError, BusyError
from fwdllm_common.protocol import CHANNEL_OPTIONS
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import UNIX, LimitsSection, ServerConfig
from fwdllm_server.rpc.connections import Connections, Port, raise_descriptor_limit
from fwdllm_server.rpc.guard import Guard
from fwdllm_server.rpc.limits import MAX_ENROLMENT_BYTES
from fwdllm_server.rpc.open_calls import OpenCalls, Revoked
from fwdllm_server.rpc.unix_socket import check_socket_free, for_its_owner_only, grpc_target
from fwdllm_server.security.ca import CertificateAuthority

_SERVER_OPTIONS = (
    *CHANNEL_OPTIONS,
    # Unused tracing, which takes a kilobyte for each connection.
    ("grpc.enable_channelz", 0),
    ("grpc.max_channel_trace_event_memory_per_node", 0),
    ("grpc.so_reuseport", 0),  # otherwise a second server would silently share the port
    # Pings go only to peers with a call in flight: they detect phones that vanished and do not wake idle ones. The
    # timeout is http2.ping_timeout_ms; older gRPC reads keepalive_timeout_ms.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Devices may ping often enough to keep a NAT's mapping alive.
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.max_connection_idle_ms", 600_000),  # connections of phones that vanished while idle
    ("grpc.server_handshake_timeout_ms", 15_000),
    # Concurrent calls of one connection, including those whose message never comes.
    ("grpc.max_concurrent_streams", 64),
)
_DEVICE_OPTIONS = (
    *_SERVER_OPTIONS,
    # Saves four kilobytes for each connection. Devices send little, so that they need neither large TLS records nor a
    # growing flow-control window.
    ("grpc.tsi.max_frame_size", 1024),
    ("grpc.http2.bdp_probe", 0),
)
# gRPC uses the first of two values of an option.
_ENROLMENT_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_ENROLMENT_BYTES),
    ("grpc.max_concurrent_streams", 8),
    *_SERVER_OPTIONS,
)
_OWN_DESCRIPTORS = 128
"""Descriptors reserved for the store, the files of jobs and gRPC itself."""
_OPERATOR_LIMITS = LimitsSection(streams_per_device=1000, calls_per_s=1e9, calls_at_once=1000, idle_s=86_400)
"""Operators are trusted, and may watch a job that does not change for hours."""


@dataclass(frozen=True)
class Addresses:
    """The servers' addresses: ``device`` and ``enrolment`` as advertised to devices, ``operator`` as bound.

    Each is host:port. The operator's may also be ``unix:`` and the path of its socket.
    """

    device: str
    enrolment: str
    operator: str


@dataclass(frozen=True)
class Servers:
    """The bound servers. Add the services, then call :meth:`start`."""

    device: grpc.aio.Server
    enrolment: grpc.aio.Server
    operator: grpc.aio.Server
    addresses: Addresses
    calls: Sequence[OpenCalls]
    connections: Connections

    async def start(self) -> None:
        """Start to answer calls."""
        await asyncio.gather(self.device.start(), self.enrolment.start(), self.operator.start())

    @asynccontextmanager
    async def watched(self, revoked: Revoked) -> AsyncIterator[None]:
        """Enforce the limits of calls and connections on every port while the block runs."""
        async with AsyncExitStack() as stack:
            for calls in self.calls:
                await stack.enter_async_context(calls.watched(revoked))
            await stack.enter_async_context(self.connections.watched())
            yield

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls. Calls in flight have ``grace_s`` seconds to end."""
        await asyncio.gather(*(server.stop(grace_s) for server in (self.device, self.enrolment, self.operator)))


async def bind_servers(home: ServerHome, config: ServerConfig, authority: CertificateAuthority) -> Servers:
    """Bind the three servers with a fresh server certificate, and record the operator's address in ``home``.

    :raises BusyError: a port or the socket is in use.
    :raises BadInputError: an address cannot be listened on.
    :raises StorageError: the directory cannot be written.
    """
    key, chain = authority.issue_server(config.certificate_hosts, time.time())
    open_to_all = grpc.ssl_server_credentials([(key, chain)])
    mutual = grpc.ssl_server_credentials([(key, chain)], authority.certificate_pem, require_client_auth=True)
    trusted = authority.certificate_pem + home.device_authority(config)
    of_devices = grpc.ssl_server_credentials([(key, chain)], trusted, require_client_auth=True)

    places = places_of(raise_descriptor_limit())
    connections = Connections()
    device_calls, enrolment_calls = OpenCalls(config.limits), OpenCalls(config.limits)
    operator_calls = OpenCalls(_OPERATOR_LIMITS)
    device = _server(device_calls, connections, places.device, _DEVICE_OPTIONS)
    enrolment = _server(enrolment_calls, connections, places.enrolment, _ENROLMENT_OPTIONS)
    operator = _server(operator_calls, connections, places.operator, _SERVER_OPTIONS)
    try:
        device_port = _bind(device, "device", config.listen.device, of_devices)
        enrolment_port = _bind(enrolment, "enrolment", config.listen.enrolment, open_to_all)
        operator_address = _bind_operator(operator, home, config, mutual)
    except BaseException:
        await asyncio.gather(*(server.stop(None) for server in (device, enrolment, operator)))
        raise
    each = config.limits.connections_per_device, config.limits.connections_per_network
    connections.ports[device_port] = Port(places.device, *each)
    connections.ports[enrolment_port] = Port(places.enrolment, *each)
    if not operator_address.startswith(UNIX):  # all operators share one name, which may take every place
        operator_port = int(operator_address.rpartition(":")[2])
        connections.ports[operator_port] = Port(places.operator, places.operator, each[1])
    addresses = Addresses(
        device=config.public.device_address(device_port),
        enrolment=config.public.enrolment_address(enrolment_port),
        operator=operator_address,
    )
    calls = (device_calls, enrolment_calls, operator_calls)
    return Servers(device, enrolment, operator, addresses, calls, connections)


@dataclass(frozen=True)
class Places:
    """The largest number of connections of each port. The other descriptors are for files and pages."""

    device: int
    enrolment: int
    operator: int


def places_of(descriptors: int) -> Places:
    """Divide ``descriptors`` among the ports, so that no port can exhaust those of another or of the store."""
    free = max(64, descriptors - _OWN_DESCRIPTORS)
    return Places(device=free * 3 // 4, enrolment=free // 8, operator=max(8, free // 64))


def _server(
    calls: OpenCalls, connections: Connections, places: int, options: Sequence[tuple[str, int]]
) -> grpc.aio.Server:
    options = (("grpc.max_allowed_incoming_connections", places), *options)
    return grpc.aio.server(interceptors=[Guard(calls, connections)], options=options)


def _bind_operator(
    server: grpc.aio.Server, home: ServerHome, config: ServerConfig, credentials: grpc.ServerCredentials
) -> str:
    socket_path = home.operator_socket(config)
    if socket_path is None:
        port = _bind(server, "operator", config.listen.operator, credentials)
        address = f"{config.listen.operator.rpartition(':')[0]}:{port}"
        home.record_operator_address(address)
        return address
    check_socket_free(socket_path)  # gRPC would replace the socket of a running program
    try:
        with for_its_owner_only():
            server.add_secure_port(grpc_target(socket_path), credentials)
    except RuntimeError as error:
        raise BadInputError(
            f'[listen] operator: no socket can be made at {socket_path}; name another, or a port ("127.0.0.1:7445"), '
            f"in server.toml"
        ) from error
    return home.operator_address(config)


def _bind(server: grpc.aio.Server, key: str, address: str, credentials: grpc.ServerCredentials) -> int:
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise binding_error(key, address) from error


def binding_error(key: str, address: str) -> BusyError | BadInputError:
    """Return why ``address``, of ``key`` in ``[listen]``, could not be bound. gRPC gives no reason."""
    try:
        check_free(key, address)
    except (BusyError, BadInputError) as error:
        return error
    return _taken(key, address)


def check_free(key: str, address: str) -> None:
    """Check that this process can listen on ``address``, of ``key`` in ``[listen]``.

    :raises BusyError: another process listens on it.
    :raises BadInputError: the address is not this machine's, or this user may not listen on it.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_server((host.strip("[]"), int(port)), family=_family(host)):
            pass
    except PermissionError as error:
        raise BadInputError(
            f"[listen] {key}: {address} needs root's rights; choose a port above 1023 in server.toml"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(key, address) from error
        raise BadInputError(
            f"[listen] {key}: cannot listen on {address} ({error}); change it in server.toml"
        ) from error


def _taken(key: str, address: str) -> BusyError:
    host, _, port = address.rpartition(":")
    return BusyError(
        f"[listen] {key}: port {port} on {host} is in use by another program; "
        f"stop it, or choose another port in server.toml"
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
