"""The three planes, bound and encrypted: devices and operators show certificates, enrolment is open to all."""

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
    # What nobody looks at is not written down: a kilobyte for each connection.
    ("grpc.enable_channelz", 0),
    ("grpc.max_channel_trace_event_memory_per_node", 0),
    ("grpc.so_reuseport", 0),  # else a second server would share a taken port in silence
    # Pings go only to peers with a call in flight: they find the phones that vanished and wake none that is idle. How
    # long an answer is waited for is said by another option than the one with that name, which counts in older gRPC.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Devices may keep a NAT's mapping alive without being taken for an attack.
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.max_connection_idle_ms", 600_000),  # connections of phones that vanished while idle
    ("grpc.server_handshake_timeout_ms", 15_000),
    # Calls of one connection at once, also those whose message never comes.
    ("grpc.max_concurrent_streams", 64),
)
_DEVICE_OPTIONS = (
    *_SERVER_OPTIONS,
    # Four kilobytes less for each connection: devices send little, so that neither large records of TLS nor a window
    # that grows with the network would be of use.
    ("grpc.tsi.max_frame_size", 1024),
    ("grpc.http2.bdp_probe", 0),
)
# Of two values for one option gRPC takes the first.
_ENROLMENT_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_ENROLMENT_BYTES),
    ("grpc.max_concurrent_streams", 8),
    *_SERVER_OPTIONS,
)
_OWN_DESCRIPTORS = 128
"""What the store, the files of a job and gRPC itself have open."""
_OPERATOR_LIMITS = LimitsSection(streams_per_device=1000, calls_per_s=1e9, calls_at_once=1000, idle_s=86_400)
"""Operators are trusted, and watch what may stand still for hours; a call without a message is nobody's."""


@dataclass(frozen=True)
class Addresses:
    """Bound addresses: ``device`` and ``enrolment`` as devices are told, ``operator`` as listened on.

    host:port each, or ``unix:`` and the path of the operator's socket.
    """

    device: str
    enrolment: str
    operator: str


@dataclass(frozen=True)
class Servers:
    """Bound servers; add the services to them, then :meth:`start`."""

    device: grpc.aio.Server
    enrolment: grpc.aio.Server
    operator: grpc.aio.Server
    addresses: Addresses
    calls: Sequence[OpenCalls]
    connections: Connections

    async def start(self) -> None:
        """Begin to answer calls."""
        await asyncio.gather(self.device.start(), self.enrolment.start(), self.operator.start())

    @asynccontextmanager
    async def watched(self, revoked: Revoked) -> AsyncIterator[None]:
        """While the block runs, every port's calls and connections are kept within their limits."""
        async with AsyncExitStack() as stack:
            for calls in self.calls:
                await stack.enter_async_context(calls.watched(revoked))
            await stack.enter_async_context(self.connections.watched())
            yield

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; those in flight have ``grace_s`` seconds to end."""
        await asyncio.gather(*(server.stop(grace_s) for server in (self.device, self.enrolment, self.operator)))


async def bind_servers(home: ServerHome, config: ServerConfig, authority: CertificateAuthority) -> Servers:
    """Bind the three planes, with a fresh server certificate, and leave the operator's address in ``home``.

    :raises BusyError: a port or the socket is taken.
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
    if not operator_address.startswith(UNIX):  # operators are one name, and may have all places
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
    """How many connections each port takes; what is left of the descriptors is for files and pages."""

    device: int
    enrolment: int
    operator: int


def places_of(descriptors: int) -> Places:
    """Divide file descriptors, so that no port can take those of another, or of the store."""
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
    check_socket_free(socket_path)  # gRPC would take the place of whoever listens there
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
    """Why ``address``, of ``key`` in ``[listen]``, could not be bound: gRPC does not tell, a plain socket does."""
    try:
        check_free(key, address)
    except (BusyError, BadInputError) as error:
        return error
    return _taken(key, address)


def check_free(key: str, address: str) -> None:
    """See that ``address``, of ``key`` in ``[listen]``, can be listened on now.

    :raises BusyError: another process does.
    :raises BadInputError: it cannot be, at all or with this user's rights.
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
