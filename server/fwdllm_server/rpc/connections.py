"""Limit the connections to this process's ports: for each device and for each network."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import socket
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import unquote

import structlog

GRACE_S = 5.0
"""Seconds for which a new connection does not count, so that its caller can identify itself.

There is no grace on a port that is more than half full.
"""
_LOOK_EVERY_S = 1.0
_SHARE_OF_TIME = 0.02
"""Largest fraction of one processor's time to spend on checking connections."""
_MOST_DESCRIPTORS = 1 << 20
"""Descriptors to request where the system sets no bound."""
_OPEN_FILES = "/dev/fd"

_log = structlog.get_logger()


def raise_descriptor_limit() -> int:
    """Raise the limit of this process's file descriptors to the system's hard limit, and return the new limit.

    Each connection takes one. The default limit of shells and containers is often 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # some systems report a hard limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return most if soft == resource.RLIM_INFINITY else soft


def network_of(peer: str) -> str:
    """Return the network of a peer in gRPC's notation (``ipv4:host:port``): its IPv4 address, or its IPv6 /64."""
    host = unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


@dataclass(frozen=True)
class Connection:
    """An accepted connection: its descriptor, the local ``port``, and the ``peer`` in gRPC's notation."""

    descriptor: int
    port: int
    peer: str


@dataclass(frozen=True)
class Port:
    """The limits of a port: connections in all, of one device, and of one network without certificates."""

    places: int
    of_a_device: int
    of_a_network: int


class Connections:
    """Closes the oldest connections of a device or network that has more than its limit.

    A caller is identified by its certificate from its first call on, before that by its network.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, str] = {}
        self._since: dict[tuple[int, str], float] = {}
        self.ports: dict[int, Port] = {}

    def identify(self, peer: str, name: str) -> None:
        """Record that the connection of ``peer`` belongs to the holder of a certificate of this ``name``."""
        self._known[peer] = name

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Enforce the limits while the block runs."""
        watching = asyncio.create_task(self._watch(), name="connections")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        pause_s = _LOOK_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                closed, gone, took_s = await asyncio.to_thread(self._look, dict(self._known))
            except OSError as error:
                _log.warning("cannot list the connections", reason=str(error))
                continue
            for peer in gone:
                del self._known[peer]
            pause_s = max(_LOOK_EVERY_S, 0 if closed else took_s / _SHARE_OF_TIME)

    def _look(self, known: Mapping[str, str]) -> tuple[int, Collection[str], float]:
        """Close the connections above the limits.

        :returns: the number closed, the peers of ``known`` that are gone, and the CPU seconds used.
        """
        before = time.thread_time()
        found = _accepted(self.ports)
        too_many = self.too_many(found, known)
        _close(too_many)
        if too_many:
            networks = len({network_of(each.peer) for each in too_many})
            _log.warning("too many connections, the oldest are closed", closed=len(too_many), networks=networks)
        return len(too_many), known.keys() - {each.peer for each in found}, time.thread_time() - before

    def too_many(self, found: Collection[Connection], known: Mapping[str, str]) -> list[Connection]:
        """Return the connections above the limits. ``known`` maps peers to the names in their certificates."""
        now = self._clock()
        self._since = {key: self._since.get(key, now) for key in ((each.port, each.peer) for each in found)}
        taken = Counter(each.port for each in found)
        scarce = {number for number, port in self.ports.items() if taken[number] > port.places // 2}
        # By port, name and whether the caller showed a certificate. The oldest connection comes first.
        groups: dict[tuple[int, str, bool], list[Connection]] = defaultdict(list)
        for each in sorted(found, key=self._came):
            if name := known.get(each.peer):
                groups[each.port, name, True].append(each)
            elif each.port in scarce or now - self._came(each) > GRACE_S:
                groups[each.port, network_of(each.peer), False].append(each)
        closed: list[Connection] = []
        for (number, _, is_known), group in groups.items():
            port = self.ports[number]
            closed += group[: max(0, len(group) - (port.of_a_device if is_known else port.of_a_network))]
        return closed

    def _came(self, connection: Connection) -> float:
        return self._since[connection.port, connection.peer]


def _accepted(ports: Container[int]) -> list[Connection]:
    """List the connections of this process that were accepted on one of these ports."""
    with os.scandir(_OPEN_FILES) as entries:
        descriptors = [int(entry.name) for entry in entries]
    found = []
    for descriptor in descriptors:
        with suppress(OSError), _borrowed(descriptor) as borrowed:
            ours = borrowed.getsockname()
            if isinstance(ours, tuple) and ours[1] in ports:
                found.append(Connection(descriptor, ours[1], _peer(borrowed.getpeername())))
    return found


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Yield a socket for ``descriptor`` without taking ownership of it."""
    borrowed = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _peer(address: tuple[str, int]) -> str:
    host, port = address[0].partition("%")[0], address[1]
    if ":" not in host:
        return f"ipv4:{host}:{port}"
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    return f"ipv4:{mapped}:{port}" if mapped is not None else f"ipv6:%5B{host}%5D:{port}"


def _close(connections: Iterable[Connection]) -> None:
    """Shut down connections. Their owners then close the descriptors.

    A descriptor that was reused for another connection meanwhile is skipped.
    """
    for each in connections:
        try:
            copy = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, os.dup(each.descriptor))
        except OSError:
            continue
        with copy, suppress(OSError):
            if _peer(copy.getpeername()) == each.peer and copy.getsockname()[1] == each.port:
                copy.shutdown(socket.SHUT_RDWR)
