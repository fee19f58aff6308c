"""Which connections make room, with a clock of our own; and that real ones do."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fwdllm_server.rpc.connections import GRACE_S, Connection, Connections, Port, network_of

PORT = 7444


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connections(clock: Clock) -> Connections:
    made = Connections(clock)
    made.ports[PORT] = Port(places=100, of_a_device=2, of_a_network=3)
    return made


def of(host: str, *numbers: int) -> list[Connection]:
    return [Connection(number, PORT, f"ipv4:{host}:{number}") for number in numbers]


def closed(connections: Connections, found: list[Connection], known: dict[str, str] | None = None) -> list[int]:
    return [each.descriptor for each in connections.too_many(found, known or {})]


def test_of_a_network_the_oldest_make_room(connections: Connections, clock: Clock) -> None:
    first = of("10.0.0.1", 1, 2, 3)
    assert closed(connections, first) == []
    clock.now = 1.0
    found = [*of("10.0.0.1", 4, 5), *of("10.0.0.2", 6), *first]
    assert closed(connections, found) == [], "they may still show who they are"
    clock.now = 1.0 + GRACE_S + 1
    assert closed(connections, found) == [1, 2]


def test_where_places_are_scarce_there_is_no_grace(connections: Connections) -> None:
    assert len(closed(connections, of("10.0.0.1", *range(51)))) == 48
    found = [*of("10.0.0.1", *range(48)), *of("10.0.0.2", 48, 49), *of("10.0.0.3", 50)]
    assert closed(connections, found) == [*range(45)]


def test_devices_are_counted_by_name_and_strangers_by_network(connections: Connections, clock: Clock) -> None:
    found = of("10.0.0.1", *range(1, 9))
    known = {f"ipv4:10.0.0.1:{number}": f"dev-{number % 4}" for number in range(1, 9)}
    assert closed(connections, found, known) == []
    clock.now = GRACE_S + 1
    assert closed(connections, found, known) == []
    assert closed(connections, found, known | {"ipv4:10.0.0.1:1": "dev-2"}) == [1], "three of one device"
    assert closed(connections, found) == [1, 2, 3, 4, 5]


def test_a_connection_that_comes_again_is_a_new_one(connections: Connections, clock: Clock) -> None:
    closed(connections, of("10.0.0.1", 1))
    clock.now = 100.0
    closed(connections, [])
    assert closed(connections, of("10.0.0.1", 1, 2, 3, 4)) == []


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:10.0.0.1:5", "10.0.0.1"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:5", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::4]:5", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:5", "10.0.0.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", "fe80::/64"),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_a_network_is_an_address_or_the_half_of_one(peer: str, network: str) -> None:
    assert network_of(peer) == network


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as server:
        yield server


def test_real_connections_are_found_and_shut_down(listening: socket.socket, clock: Clock) -> None:
    address = listening.getsockname()
    connections = Connections(clock)
    connections.ports[address[1]] = Port(places=100, of_a_device=1, of_a_network=1)
    with ExitStack() as stack:
        callers, accepted = [], []
        for _ in range(3):
            callers.append(stack.enter_context(socket.create_connection(address[:2], timeout=10)))
            accepted.append(stack.enter_context(listening.accept()[0]))
            clock.now += 1
            assert connections._look({})[0] == 0
        clock.now += GRACE_S

        count, gone, _ = connections._look({"ipv4:10.0.0.9:1": "dev-1"})

        assert (count, gone) == (1, {"ipv4:10.0.0.9:1"}), "the third may still show who it is"
        assert callers[0].recv(1) == b""
        for caller, other in zip(callers[1:], accepted[1:], strict=True):
            other.sendall(b"x")
            assert caller.recv(1) == b"x"


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    program = (
        "import resource\n"
        "from fwdllm_server.rpc.connections import raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))\n"
        "assert raise_descriptor_limit() == 300\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 300
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
